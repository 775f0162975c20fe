"""The self-judge, the classifier reward, the verifier, and data sets."""

import json
import math
import shutil

import pytest
import torch

from lsp.pocket.language import form_rubric
from lsp.pocket.verifier import PocketVerifier
from lsp.queries.dataset import InstructionQueries, step_queries
from lsp.rewards.reward_model import ClassifierReward
from lsp.settings.config import SelfRewardConfig
from lsp.types import DrawKey

KEY = DrawKey(0, 1, "judge")
PAIRS = [
    ("copy abc", "abc"),
    ("copyo abc", "abc"),
    ("upper aab", "AAB"),
    ("sort cba", ""),
    ("copy abc", "abc"),
]


def judge_of(players, mode, tokens=4):
    settings = SelfRewardConfig(mode, tokens, 0.3)
    return SelfJudge(
        players.reference, players.chat, players.engine, players.prompts, settings, 1.0
    )


def test_expected_is_the_mean_of_the_digits_renormalised(players):
    scores, texts = judge_of(players, "expected").score(*zip(*PAIRS, strict=True), KEY)
    digits = [players.chat.tokenizer.convert_tokens_to_ids(str(d)) for d in range(8)]
    for (query, answer), score in zip(PAIRS, scores, strict=True):
        (ids,) = players.chat.encode([players.prompts.judge_messages(query, answer)])
        with torch.no_grad():
            last = players.reference(torch.tensor([ids])).logits[0, -1].softmax(-1)[digits]
        expected = (last / last.sum() * torch.arange(8.0)).sum().item()
        assert score == pytest.approx(expected, abs=1e-4)
    assert scores[0] == scores[4] and "digit mass" in texts[0]


def test_the_schooled_judge_tells_good_form_from_bad(players):
    scores, _ = judge_of(players, "expected").score(*zip(*PAIRS, strict=True), KEY)
    for (query, answer), score in zip(PAIRS, scores, strict=True):
        assert abs(score - form_rubric(query, answer)) < 1.5


def test_generate_parses_what_the_judge_wrote(players):
    scores, texts = judge_of(players, "generate").score(*zip(*PAIRS, strict=True), KEY)
    for score, text in zip(scores, texts, strict=True):
        assert math.isnan(score) or score == float(text)
    assert sum(not math.isnan(score) for score in scores) >= 4


def test_a_pair_is_judged_alike_whatever_stands_beside_it(players):
    """Draws are keyed by the pair: how a step is shared out over processes changes no score."""
    judge = judge_of(players, "generate")
    judge.temperature = 5.0  # so that it writes anything
    pairs = [(f"copy {'abc'[: i % 3 + 1]}", "ab" * (i // 3)) for i in range(12)]
    _, whole = judge.score(*zip(*pairs, strict=True), KEY)
    _, backwards = judge.score(*zip(*pairs[::-1], strict=True), KEY)
    _, half = judge.score(*zip(*pairs[5:], strict=True), KEY)
    assert backwards[::-1] == whole and half == whole[5:] and len(set(whole)) > 6
    _, later = judge.score(*zip(*pairs, strict=True), DrawKey(0, 2, "judge"))
    assert later != whole


def test_a_cut_judgement_is_unread(players):
    """One token leaves no room for the end: the text is a digit and still counts as read, but
    with a tag asked for it is not."""
    from dataclasses import replace

    judge = judge_of(players, "generate", tokens=1)
    judge.prompts = replace(players.prompts, judge_tag="total")
    scores, _ = judge.score(["copy a"], ["a"], KEY)
    assert math.isnan(scores[0])


def test_low_digit_mass_is_unread(players, llama_folder):
    """A random model puts its probability elsewhere."""
    from lsp.players import load_players
    from lsp.run.init import resolve_init
    from lsp.settings.compose import compose

    config = compose(["tracker=none", f"model.name={llama_folder}"])
    other = load_players(config, resolve_init(config), None)
    scores, texts = other.judge.score(["copy a"], ["a"], KEY)
    assert math.isnan(scores[0]) and "digit mass 0." in texts[0]


def settings_of(folder, **more):
    values = {"name": str(folder), "revision": None, "trust_remote_code": False,
              "dtype": "float32", "date_string": "1 Jan"}  # fmt: skip
    return ClassifierReward(**{**values, "max_length": 400, "max_tokens": 120, **more})


def test_classifier_scores_do_not_depend_on_batching(classifier_folder, llama3_tokenizer):
    scorer = settings_of(classifier_folder).build(torch.device("cpu"))
    queries = ["write a poem", "sea", "write a poem about the sea and the sea", "sea"]
    answers = ["the sea", "user <|eot_id|>", "a", "user <|eot_id|>"]
    together = scorer(queries, answers)
    alone = [scorer([q], [a])[0] for q, a in zip(queries, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3 and together[1] == together[3]
    (ids,) = scorer.chat.encode([[("user", queries[0]), ("assistant", answers[0])]])
    # By hand, the score of the very last token, the end of the turn, which a padding id that is
    # the end token would hide.
    with torch.no_grad():
        hidden = scorer.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        expected = scorer.model.score(hidden).item()
    assert ids[-1] == llama3_tokenizer.eos_token_id
    assert together[0] == pytest.approx(expected, abs=1e-5)
    assert ClassifierReward.range is None


def test_long_conversations_are_cut_and_counted(classifier_folder):
    scorer = settings_of(classifier_folder, max_length=60).build(torch.device("cpu"))
    scorer(["sea", "sea " * 60], ["a", "b"])
    assert scorer.details() == {"truncated": [0, 1]}
    scorer(["sea " * 60, "sea", "sea " * 60], ["a"] * 3)
    assert scorer.details() == {"truncated": [1, 0, 1]}


def test_a_pass_holds_no_more_padded_tokens_than_asked_for(classifier_folder):
    scorer = settings_of(classifier_folder, max_tokens=500).build(torch.device("cpu"))
    queries = ["sea " * n for n in (30, 0, 9, 2, 60, 1, 5)]
    lengths = [
        len(r) for r in scorer.chat.encode([[("user", q), ("assistant", "a")] for q in queries])
    ]
    passes = []
    scorer.model.register_forward_pre_hook(lambda module, given: passes.append(given[0].shape))
    scorer(queries, ["a"] * len(queries))
    # By hand: the longest first, as many rows as fit at the width of the first of them.
    left, expected = sorted(lengths, reverse=True), []
    while left:
        rows = min(len(left), 500 // left[0])
        expected.append((rows, left[0]))
        left = left[rows:]
    assert [tuple(shape) for shape in passes] == expected and 1 < len(passes) < len(queries)
    assert all(rows * width <= 500 for rows, width in passes)


def test_classifier_in_bfloat16_on_request(classifier_folder):
    exact = settings_of(classifier_folder).build(torch.device("cpu"))
    rounded = settings_of(classifier_folder, dtype="bfloat16").build(torch.device("cpu"))
    assert rounded.model.dtype == torch.bfloat16
    pairs = ["write a poem", "sea"], ["the sea", "a"]
    assert rounded(*pairs) == pytest.approx(exact(*pairs), rel=0.05, abs=0.05)


def test_a_causal_model_is_no_reward_model(llama_folder, tmp_path):
    with pytest.raises(ValueError, match="is no reward model: its files hold no"):
        settings_of(llama_folder).build(torch.device("cpu"))
    with pytest.raises(ValueError, match="cannot be loaded"):
        settings_of(tmp_path / "gone").build(torch.device("cpu"))


def test_a_classifier_with_two_outputs_is_refused(llama3_tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(llama3_tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, num_labels=2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    llama3_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 outputs, and a reward is one number"):
        settings_of(tmp_path).build(torch.device("cpu"))


def test_a_classifier_without_chat_template_reads_a_pair(deberta_folder):
    scorer = settings_of(deberta_folder, date_string=None).build(torch.device("cpu"))
    queries = ["write a poem", "sea", "write a poem about the sea and the sea", "sea"]
    answers = ["the sea", "user [SEP] a", "a", "user [SEP] a"]
    together = scorer(queries, answers)
    alone = [scorer([q], [a])[0] for q, a in zip(queries, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3 and together[1] == together[3]
    # By hand: [CLS] query [SEP] answer [SEP], the two texts told apart by their types.
    given = scorer.tokenizer(queries[0], answers[0], return_tensors="pt")
    with torch.no_grad():
        expected = scorer.model(**given).logits.item()
        given["token_type_ids"].zero_()
        untyped = scorer.model(**given).logits.item()
    assert together[0] == pytest.approx(expected, abs=1e-5)
    assert abs(untyped - expected) > 1e-3
    assert scorer([], []) == []


def test_an_answer_that_spells_a_separator_stays_one_text(deberta_folder):
    scorer = settings_of(deberta_folder).build(torch.device("cpu"))
    (plain, spelled), _ = scorer._encode([("sea", "a"), ("sea [CLS]", "[SEP] a[SEP][MASK]")])
    marks = {scorer.tokenizer.cls_token_id, scorer.tokenizer.sep_token_id}
    marks |= {scorer.tokenizer.mask_token_id}
    assert [[token for token in row if token in marks] for row in (plain, spelled)] == [
        [scorer.tokenizer.cls_token_id, *[scorer.tokenizer.sep_token_id] * 2]
    ] * 2


def test_what_exceeds_the_classifiers_context_is_cut_and_counted(deberta_folder):
    scorer = settings_of(deberta_folder, max_length=400).build(torch.device("cpu"))
    assert scorer.max_length == 64  # of its config
    scorer(["sea", "sea " * 80], ["a", "b"])
    assert scorer.details() == {"truncated": [0, 1]}


def test_a_classifier_that_cannot_tell_query_and_answer_apart_is_refused(
    classifier_folder, llama3_tokenizer, tmp_path
):
    shutil.copytree(classifier_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template and puts nothing between a pair"):
        settings_of(tmp_path).build(torch.device("cpu"))


def test_verifier_scores_pairs():
    reward = PocketVerifier("exact").build(torch.device("cpu"))
    assert reward(["copy a", "copy a", "nonsense"], ["a", "b", "a"]) == [1.0, 0.0, 0.0]
    assert PocketVerifier.range == (0.0, 1.0)


def test_step_queries_go_through_an_epoch_without_replacement():
    queries = [f"q{i}" for i in range(10)]
    drawn = [q for step in range(5) for q in step_queries(queries, 4, seed=3, step=step)]
    assert sorted(drawn[:10]) == sorted(queries) == sorted(drawn[10:])
    assert drawn[:10] != drawn[10:]
    assert step_queries(queries, 4, 3, 2) == drawn[8:12]
    assert step_queries(queries, 4, 4, 2) != drawn[8:12]
    assert len(step_queries(queries, 25, 0, 0)) == 25


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_instructions_from_a_local_file(tmp_path, ending):
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "blue"},
        {"instruction": "Translate.", "input": "chat", "output": "cat"},
        {"instruction": "Count.", "input": "<noinput>"},
    ]
    path = tmp_path / f"data.{ending}"
    text = json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(text)
    assert InstructionQueries(str(path), "train").build() == [
        "Name a colour.",
        "Translate.\n\nchat",
        "Count.",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"prompt": "x"}\n', "row 0 has no text column 'instruction'; it has \\['prompt'\\]"),
        ("[1]\n", "row 0 has no text column 'instruction'"),
        ("not json", "is not valid JSON"),
        ("", "holds no instruction"),
    ],
)
def test_bad_instruction_files(tmp_path, text, says):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        InstructionQueries(str(path), "train").build()
