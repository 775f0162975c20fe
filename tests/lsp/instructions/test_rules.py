"""Sentences and what checks them: each rule reads back what it writes, and nothing else."""

import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lsp.instructions.checkers import Constraint, problem_of
from lsp.instructions.rules import HELD_OUT, RULES, TRAIN, fit, kinds, parse, seeds

CONF = Path(__file__).parents[3] / "conf"


def test_a_query_is_a_task_and_its_rules_in_their_order():
    text = (
        "Write a greeting to a friend. Do not use any commas. Use fewer than 20 words. End with"
        ' exactly these words: "That is all."'
    )
    instruction = parse(text)
    assert instruction.task == "Write a greeting to a friend."
    assert instruction.constraints == (
        Constraint("punctuation:no_comma", {}),
        Constraint("length_constraints:number_words", {"num_words": 20, "relation": "less than"}),
        Constraint("startend:end_checker", {"end_phrase": "That is all."}),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sentence)
def test_every_sentence_reads_back_as_its_own_rule(rule):
    sentences = list(rule.sentences())
    assert sentences
    for sentence in sentences:
        instruction = parse(f"Write a poem {sentence}\n")
        assert instruction.task == "Write a poem"
        ((kind, arguments),) = instruction.constraints
        assert kind == rule.kind and arguments.keys() == rule.arguments.keys()
        assert problem_of(Constraint(kind, arguments)) is None  # the package takes these arguments


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Write a poem.",  # no rule
        "Do not use any commas.",  # no task
        "... 12 Do not use any commas.",  # nor here: not a letter
        "Write a poem. Do not use any commas. Thank you.",  # a rule that is not at the end
        "Write a poem. do not use any commas.",
        "Write a poem. Use at least 401 words.",  # beyond what an answer has room for
        "Write a poem. Use at least 0 words.",
        "Write a poem. Use at least 20 words. Use fewer than 30 words.",  # one kind twice
        "Write a poem. Include the words light and light.",
        "Write a poem.Do not use any commas.",
        "Write a poem. Do not use any commas. Use capital letters only. Put the whole answer in"
        " double quotation marks. Use at least 20 words.",  # four
    ],
)
def test_what_is_no_instruction(text):
    assert parse(text) is None


@given(st.text(max_size=200), st.sampled_from([s for r in RULES for s in r.sentences()]))
def test_any_text_is_read_without_an_error_and_words_before_a_rule_are_the_task(text, sentence):
    instruction = parse(f"{text} {sentence}")
    if instruction is not None:
        assert instruction.constraints and instruction.task in text


def test_kinds_are_split_for_ever():
    train, held_out = set(kinds(TRAIN)), set(kinds(HELD_OUT))
    assert (len(train), len(held_out)) == (12, 8) and not train & held_out


def test_seeds_have_each_rule_alike_and_every_third_has_two():
    found = seeds(TRAIN, 6)
    read = [parse(f"Write. {seed}") for seed in found]
    assert len(found) == 6 * len(TRAIN) and None not in read
    assert [len(each.constraints) for each in read[:6]] == [1, 1, 2, 1, 1, 2]
    by_kind = {rule.kind: rule for rule in TRAIN}
    pairs = [[by_kind[c.kind] for c in each.constraints] for each in read]
    assert all(fit(*pair) for pair in pairs if len(pair) == 2)


def test_no_two_rules_that_no_answer_can_follow_stand_together():
    by_kind = {rule.kind: rule for rule in TRAIN}
    apart = [
        {one, other}
        for one, other in itertools.combinations(by_kind, 2)
        if not fit(by_kind[one], by_kind[other])
    ]
    assert {"change_case:english_lowercase", "change_case:english_capital"} in apart
    assert len(apart) == 3 and not fit(TRAIN[0], TRAIN[0])


def test_the_challengers_seeds_are_those_of_the_train_kinds():
    written = (CONF / "data" / "instruction_rules.txt").read_text().splitlines()
    assert written == seeds(TRAIN, 6)


def test_the_examples_in_the_challengers_turn_are_legal():
    tree = yaml.safe_load((CONF / "prompts" / "instructions.yaml").read_text())
    for example in tree["challenger_examples"]:
        rule, task = example.removeprefix("Rule: ").split(" Task: ")
        assert parse(f"{task} {rule}").task == task
