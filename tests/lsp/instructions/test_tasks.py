"""Held-out prompts: which there are, and that nobody trains on them."""

import json

import pytest

from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.instructions.queries import RuledInstructions
from lsp.instructions.rules import HELD_OUT, TRAIN, kinds, parse
from lsp.instructions.tasks import DEV, TEST, prompts
from lsp.settings.compose import compose


def kinds_in(prompts):
    return {constraint.kind for prompt in prompts for constraint in parse(prompt).constraints}


def test_the_three_sets_of_prompts():
    dev, test, new = prompts("dev"), prompts("test"), prompts("held_out_kinds")
    assert (len(dev), len(test), len(new)) == (65, 130, 96)
    assert len({*dev, *test, *new}) == 65 + 130 + 96  # no prompt twice
    assert kinds_in(dev) == kinds_in(test) == set(kinds(TRAIN))
    assert kinds_in(new) == set(kinds(HELD_OUT))
    assert not set(DEV) & set(TEST)
    for topic in TEST:
        assert not any(topic in prompt for prompt in dev)
    assert (
        dev[0] == "Write a short story about the first day at a new school. Do not use any commas."
    )


@pytest.fixture
def alpaca(tmp_path):
    path = tmp_path / "alpaca.jsonl"
    rows = [
        {"instruction": "Name three fruits.", "input": ""},
        {"instruction": "Sort these numbers.", "input": "3, 1, 2"},  # has an input
        {"instruction": "word " * 13, "input": ""},  # too long
        {"instruction": "Describe a lighthouse.", "input": ""},  # a test topic
        {"instruction": "Write a rhyme. Do not use any commas.", "input": ""},  # has a rule
        {"instruction": "Explain rain to a fish.", "input": ""},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_data_are_short_instructions_with_a_rule_of_a_train_kind(alpaca):
    config = compose(
        ["world=instructions", "model=smollm2_135m", "method=grpo", f"data.path={alpaca}"]
    )
    assert isinstance(config.data, RuledInstructions)
    queries = config.data.build(BuildContext(config))
    read = [parse(query) for query in queries]
    assert [each.task for each in read] == ["Name three fruits.", "Explain rain to a fish."]
    assert kinds_in(queries) <= set(kinds(TRAIN))
    assert queries == config.data.build(BuildContext(config))


def test_data_without_a_short_instruction_are_refused(alpaca):
    more = [
        "world=instructions",
        "model=smollm2_135m",
        "method=grpo",
        f"data.path={alpaca}",
        "data.max_words=1",
    ]
    with pytest.raises(RunError, match="holds no instruction of one line and at most 1 words"):
        compose(more).data.build(BuildContext(None))
