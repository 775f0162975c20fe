"""The words of the roles: settings and texts in, messages out."""

from dataclasses import replace

import pytest

from lsp.settings.compose import compose
from lsp.settings.prompts import fill

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
