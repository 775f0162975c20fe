"""Shares and their errors, by hand and against the textbook."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.instructions.scores import difference, ifeval_number, joint, of_prompts, share


def test_prompt_and_instruction_level_by_hand():
    # Two prompts of two constraints, one of one: 3 of 5 followed, 1 of 3 prompts wholly.
    strict = [[True, True], [True, False], [False]]
    assert share(strict).percent == pytest.approx(60.0)
    assert share(of_prompts(strict)).percent == pytest.approx(100 / 3)
    assert ifeval_number(strict) == pytest.approx((60 + 100 / 3) / 2)
    # Residuals of the groups: .8, -.2, -.6; sqrt(3/2 (.64 + .04 + .36)) / 5.
    assert share(strict).standard_error == pytest.approx(100 * math.sqrt(1.5 * 1.04) / 5)


def test_one_verdict_a_prompt_has_the_usual_error():
    # Of 1, 1, 0, 0: std 1/sqrt(3), over sqrt(4).
    assert share([[True], [True], [False], [False]]).standard_error == pytest.approx(
        100 / math.sqrt(12)
    )


def test_a_copy_of_each_verdict_adds_no_certainty():
    once, twice = [[True], [False], [True]], [[True] * 2, [False] * 2, [True] * 2]
    assert share(twice).standard_error == pytest.approx(share(once).standard_error)
    assert share(twice).n == 6


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([True, True], True),
        ([True, False], False),
        ([None, False], False),
        ([True, None], None),
    ],
)
def test_a_prompt_is_followed_wholly_or_not(verdicts, whole):
    assert joint(verdicts) is whole


def test_missing_verdicts_are_counted_and_never_zeros():
    found = share([[True, None], [None]])
    assert (found.percent, found.n, found.n_missing) == (100.0, 1, 2)
    assert math.isnan(found.standard_error)
    assert math.isnan(share([[None]]).percent)


def test_a_paired_difference_by_hand():
    # Differences 1, 0, 0, none: mean 1/3, residuals 2/3, -1/3, -1/3, so the error is 1/3.
    found = difference([[True], [True], [False], [None]], [[False], [True], [False], [True]])
    assert (found.difference, found.n) == (pytest.approx(100 / 3), 3)
    assert found.high - found.difference == pytest.approx(100 * 1.959964 / 3)
    assert found.low == pytest.approx(found.difference - 100 * 1.959964 / 3)


VERDICTS = st.lists(st.lists(st.sampled_from([True, False, None]), min_size=1), min_size=1)


@given(VERDICTS)
def test_a_model_does_not_differ_from_itself(groups):
    found = difference(groups, groups)
    assert found.n == share(groups).n
    if found.n:
        assert found.difference == 0
