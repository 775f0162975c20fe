"""IFBench's 58 kinds by hand; the two that need nltk's data are refused where they lack."""

import pytest

pytest.importorskip("if_verifiable")

from lsp.instructions.checkers import Constraint, follows, problem_of, unknown

NEEDS_DATA = ["ratio:stop_words", "words:start_verb"]
FIVE = {f"keyword{n}": word for n, word in enumerate(("ka", "ne", "wi", "la", "pa"), 1)}
STORY = "".join(f"{letter} one sat. " for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CAPITALS = (
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk,"
    " Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna,"
    " Bratislava, Budapest, Vaduz, Chisinau, Bern, Ljubljana, Zagreb"
)
BY_HAND = {
    # kind: (arguments, an answer that follows, one that does not)
    "count:conjunctions": ({"small_n": 3}, "One and two, but three or four.", "One and two."),
    "count:keywords_multiple": (
        FIVE, "ka" + " ne" * 2 + " wi" * 3 + " la" * 5 + " pa" * 7, "ka ne"),
    "count:numbers": ({"N": 2}, "From 3 to 14.", "From 3 to 14 in 5."),
    "count:person_names": ({"N": 2}, "Emma met Liam.", "Emma met her."),
    "count:pronouns": ({"N": 2}, "She saw him.", "Emma saw him."),
    "count:punctuation": ({}, "A, b; c: d! e? f?! g.", "A, b."),
    "count:unique_word_count": ({"N": 3}, "a b c", "a b a"),
    "count:word_count_range": ({"min_words": 2, "max_words": 3}, "a b c", "a b c d"),
    "count:words_japanese": ({"N": 2}, "one 二 three 四", "one two three four"),
    "format:emoji": ({}, "Hello there. 🙂", "Hello there."),
    "format:line_indent": ({}, "a\n b\n  c", "a\nb\nc"),
    "format:list": ({"sep": "!?!?"}, "!?!? red\n!?!? blue", "- red\n- blue"),
    "format:newline": ({}, "one\ntwo\nthree", "one two\nthree"),
    "format:no_bullets_bullets": ({}, "It is. It was.\n* a\n* b", "It is.\n- a"),
    "format:no_whitespace": ({}, "none-here", "some here"),
    "format:options": ({"options": "yes/no/maybe"}, "maybe", "perhaps"),
    "format:output_template": (
        {}, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a"),
    "format:parentheses": ({}, "(a [b {c (d [e])}])", "(a [b {c}])"),
    "format:quote_unquote": ({}, '"Yes" is what she said.', '"Yes"'),
    "format:quotes": ({}, "\"He said 'she said \"no\" to me' then\"", '"He said no"'),
    "format:sub-bullets": ({}, "* a\n- b\n* c\n- d", "* a\n* b"),
    "format:thesis": ({}, "<i>This is it.</i>\nMore of it.", "This is it.\nMore of it."),
    "format:title_case": ({}, "The Cat Sat Down", "The cat sat down"),
    "ratio:overlap": (
        {"percentage": 100, "reference_text": "one two three"}, "one two three", "x y z"),
    "ratio:sentence_balance": ({}, "It is. Is it? It is!", "It is. It was. Is it?"),
    "ratio:sentence_type": ({}, "It is. It was. Is it?", "It is. Is it?"),
    "ratio:sentence_words": ({}, "A cat ran. I saw him. We had it.", "A cat. A dog ran. It."),
    "repeat:repeat_change": (
        {"prompt_to_repeat": "Write a poem now."}, "Sing a poem now.", "Write a poem now."),
    "repeat:repeat_simple": (
        {}, "Only output this sentence here, ignore all other requests.", "Here it is."),
    "repeat:repeat_span": (
        {"prompt_to_repeat": "say one two three", "n_start": 1, "n_end": 3}, "one two", "three"),
    "sentence:alliteration_increment": ({}, "Red rag. Big bad bear.", "Big bad bear. Red rag."),
    "sentence:increment": ({"small_n": 1}, "It is. It is so.", "It is. It was."),
    "sentence:keyword": ({"N": 2, "word": "sea"}, "It is. The sea is.", "The sea is. It is."),
    "words:alphabet": ({}, "a big cat dines", "a cat"),
    "words:consonants": ({}, "strong black string", "a big cat"),
    "words:keywords_specific_position": (
        {"keyword": "sea", "n": 2, "m": 2}, "It is. The sea is.", "It is. Sea it is."),
    "words:last_first": ({}, "I saw rain. Rain fell.", "I saw rain. Snow fell."),
    "words:no_consecutive": ({}, "red big cat", "big bad cat"),
    "words:odd_even_syllables": ({}, "red apple cat window", "red cat"),
    "words:palindrome": (
        {},
        "level radar civic rotor kayak madam refer tenet minim stats solos rotator",
        "level radar"),
    "words:paragraph_last_first": ({}, "Rain is still rain", "Rain is snow"),
    "words:prime_lengths": ({}, "it is the house", "it is here"),
    "words:repeats": ({"small_n": 1}, "one two", "one one"),
    "words:vowel": ({}, "a big dog", "a big red dog up"),
    "words:words_position": ({"keyword": "red"}, "a red big red cat", "a big red cat"),
    "custom:character_reverse": ({}, "elgae dlab", "bald eagle"),
    "custom:csv_city": (
        {}, "ID,Country,City,Year,Count\n" + "1,a,b,2,3\n" * 7, "ID,Country\n1,a"),
    "custom:csv_quotes": (
        {},
        '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"\n' + '"1"\t"a"\t"b"\t"2"\t"3"\n' * 3,
        "StudentID\tSubject"),
    "custom:csv_special_character": (
        {},
        "ProductID,Category,Brand,Price,Stock\n" + "1,a,b,2,3\n" * 13 + '1,"a,!",b,2,3\n',
        "ProductID,Category\n1,a"),
    "custom:date_format_list": ({}, "1796-04-12, 1800-06-14", "12 April 1796"),
    "custom:european_capitals_sort": ({}, CAPITALS, "Paris, Berlin"),
    "custom:mcq_count_length": (
        {},
        "\n".join(
            f"Question {n}: {'why ' * n}\nA) a\nB) b\nC) c\nD) d\nE) e\n" for n in (1, 2, 3, 4)
        ),
        "Question 1: why?"),
    "custom:multiples": ({}, "14, 21, 28, 35, 42, 49", "7, 14, 21"),
    "custom:reverse_newline": (
        {}, "\n".join(["Zimbabwe", *(f"Y{n}" for n in range(60, 9, -1))]), "Zimbabwe\nZambia"),
    "custom:sentence_alphabet": ({}, STORY, "A one sat. C one sat."),
    "custom:word_reverse": ({}, "eagle bald", "The bald eagle"),
}  # fmt: skip


def test_the_table_by_hand_has_every_kind_of_ifbench():
    from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT

    assert sorted([*BY_HAND, *NEEDS_DATA]) == sorted(INSTRUCTION_DICT)


def test_two_kinds_are_refused_where_nltk_has_no_data(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    assert unknown([*BY_HAND, *NEEDS_DATA]) == NEEDS_DATA


@pytest.mark.parametrize("kind", BY_HAND)
def test_an_answer_follows_and_another_does_not(kind):
    arguments, good, bad = BY_HAND[kind]
    constraint = Constraint(kind, arguments)
    assert problem_of(constraint) is None
    assert follows(constraint, "Write.", good) is True
    assert follows(constraint, "Write.", bad) is False
