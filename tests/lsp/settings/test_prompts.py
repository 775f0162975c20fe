"""The words of the roles: settings and texts in, messages out."""

import re
from dataclasses import replace

import pytest

from lsp.errors import ConfigError
from lsp.settings.compose import compose
from lsp.settings.prompts import JudgeShot, fill, read_seeds

POCKET = compose([]).prompts
PAPER = compose(["world=paper"]).prompts


def test_placeholders_are_filled_in_one_pass():
    assert fill("{a} and {b}", {"a": "{b}", "b": "2"}) == "{b} and 2"
    assert fill("no {} here", {}) == "no {} here"
    with pytest.raises(ValueError, match=r"placeholder \{b\} has no value; known: \['a'\]"):
        fill("{a}{b}", {"a": "1"})


def test_the_challenger_is_asked_its_filled_prompt():
    prompts = replace(
        PAPER, challenger="do {task} as {template}", challenger_task="x", challenger_template="{y}"
    )
    assert prompts.challenger_messages() == [("user", "do x as {y}")]


def test_a_query_is_a_turn_of_its_own_after_the_system_message_if_any():
    assert PAPER.solver_messages("{task} why?") == [("user", "{task} why?")]
    assert replace(PAPER, solver="be brief").solver_messages("why?") == [
        ("system", "be brief"),
        ("user", "why?"),
    ]


def test_the_judge_sees_query_and_answer_as_turns_before_its_own_prompt():
    assert POCKET.judge_messages("copy a", "{query}") == [
        ("user", "copy a"),
        ("assistant", "{query}"),
        ("user", POCKET.judge),
    ]


def test_an_opening_begins_the_challengers_turn_with_drawn_examples_and_a_seed():
    prompts = replace(
        PAPER, challenger="ask of {seed}", challenger_opening="{examples}{number}. {seed}:",
        challenger_example="{number}. {example}\n",
    )  # fmt: skip
    assert prompts.challenger_messages("cats", ["a {seed}", "b"]) == [
        ("user", "ask of cats"),
        ("opening", "1. a {seed}\n2. b\n3. cats:"),  # an example is not filled in again
    ]


def test_a_rubric_and_judged_exchanges_stand_before_what_is_judged():
    shot = JudgeShot(query="q", answer="a", total="7")
    prompts = replace(
        PAPER, judge_rubric="be strict", judge_shots={"one": shot}, judge="total?",
        judge_opening="Total: ",
    )  # fmt: skip
    assert prompts.judge_messages("Q", "A") == [
        ("system", "be strict"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "total?"),
        ("assistant", "Total: 7"),
        ("user", "Q"),
        ("assistant", "A"),
        ("user", "total?"),
    ]


def test_seeds_are_the_lines_of_a_text_or_the_texts_of_objects(tmp_path):
    (tmp_path / "seeds.txt").write_text(" cats \n\ndogs\n")
    (tmp_path / "seeds.jsonl").write_text('{"text": "cats"}\n{"text": "dogs", "more": 1}\n')
    (tmp_path / "seeds.csv").write_text("text,more\ncats,\ndogs,1\n")
    for name in ("seeds.txt", "seeds.jsonl", "seeds.csv"):
        assert read_seeds(str(tmp_path / name)) == ("cats", "dogs")


MISTAKES = {
    "prompts.challenger_shots=2": "there are 0 examples to draw from. Add to prompts",
    "prompts=few_shot prompts.challenger_opening=''": "neither the Challenger's prompt nor",
    "prompts.challenger='ask {seed}'": "challenger_seeds: is not given, and used",
    "prompts.challenger_seeds=data/tasks.jsonl": "is given and used nowhere",
    "prompts.challenger='{seed}' prompts.challenger_seeds=none.txt": "there is no file none.txt",
    "prompts.challenger='{seed}' prompts.challenger_seeds=data/tasks.jsonl": "line 1 has no"
    " column 'text'; it has 'instruction'",
    "prompts.query_form=seed": "leaves out what the Challenger wrote",
    "prompts.query_form='{written} {what}'": "prompt placeholder {what} has no value",
    "prompts.challenger_example='{shot}'": "prompt placeholder {shot} has no value",
    "prompts.challenger='{who}'": "use {task}, {template}, {seed}, {examples} and {number} alone",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_prompts_that_cannot_be_filled_in_are_refused_with_the_way_out(words):
    with pytest.raises(ConfigError) as raised:
        compose(["world=paper", *quoted(words)])
    assert MISTAKES[words].lower() in str(raised.value).lower()


def quoted(words):
    """Words of a shell; quotes stay, as Hydra reads them."""
    return re.findall(r"(?:[^\s']|'[^']*')+", words)


def test_seeds_of_any_editor_are_read_as_they_stand(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffcats \r\nowls\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": " a\u2028b "}\n', encoding="utf-8")
    assert read_seeds(str(tmp_path / "a.txt")) == ("cats", "owls")
    assert read_seeds(str(tmp_path / "a.jsonl")) == ("a\u2028b",)


def test_what_a_seed_adds_to_a_query_is_counted(tmp_path):
    (tmp_path / "seeds.txt").write_text("cats\nmany cats\n")
    prompts = replace(PAPER, challenger_seeds=str(tmp_path / "seeds.txt"))
    assert prompts.longest_form() == ""
    assert replace(prompts, query_form="{written} of {seed}.").longest_form() == " of many cats."
