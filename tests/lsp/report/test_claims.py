"""Intervals over bases: by hand, and their coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.report.claims import Estimate, estimate, holm, paired, verdict


def test_an_estimate_by_hand():
    # Means over seeds: .1, .2, .3. Mean .2, standard error .1 / sqrt 3 = .0577;
    # Student's 97.5 % point with 2 degrees of freedom is 4.303: .2 ± .248.
    one = estimate({1: [0.05, 0.15], 2: [0.2, 0.2], 3: [0.3, 0.3]})
    assert (one.mean, one.positive, one.units) == (pytest.approx(0.2), 3, 3)
    assert (one.low, one.high) == (
        pytest.approx(-0.0484, abs=1e-4),
        pytest.approx(0.4484, abs=1e-4),
    )
    # t = .2 / .0577 = 3.464: p = .0742
    assert one.p == pytest.approx(0.0742, abs=1e-4)


def test_seeds_of_one_base_add_nothing_of_other_bases():
    """The same differences, each seed counted a hundred times: the same interval."""
    few = {1: [0.1], 2: [0.2], 3: [0.4]}
    many = estimate({base: values * 100 for base, values in few.items()})
    assert vars(many) == pytest.approx(vars(estimate(few)))


def test_one_base_tells_nothing_of_others():
    with pytest.raises(ValueError, match="1 units: an interval over them needs two or more"):
        estimate({1: [0.1, 0.2]})


def test_differences_that_are_all_the_same():
    assert estimate({1: [0.0], 2: [0.0]}) == Estimate(0.0, 0.0, 0.0, 1.0, 0, 2)
    assert estimate({1: [0.5], 2: [0.5]}).p == 0


@pytest.mark.parametrize("shape", ["normal", "uniform", "skewed", "student"])
@pytest.mark.parametrize("between", [0.5, 2.0])
def test_ninety_five_percent_are_ninety_three_to_ninety_seven(shape, between):
    """Eight bases, two seeds: differences are a part of the base's and one of the seed's, the first
    ``between`` times as large. How often the interval holds the true mean, .3."""
    draw = np.random.default_rng(20251125)

    def parts(*size):
        match shape:
            case "normal":
                return draw.normal(size=size)
            case "uniform":
                return draw.uniform(-(3**0.5), 3**0.5, size=size)
            case "skewed":
                return (draw.gamma(4.0, size=size) - 4) / 2
        return draw.standard_t(5, size=size) / (5 / 3) ** 0.5

    held = 0
    for _ in range(1500):
        table = 0.3 + between * parts(8, 1) + parts(8, 2)
        one = estimate(dict(enumerate(table.tolist())))
        held += one.low <= 0.3 <= one.high
    assert 0.93 <= held / 1500 <= 0.97


def test_holm_by_hand():
    # Sorted: .01 x 4, .02 x 3, .03 x 2, .04 x 1, each at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_only_raises(values):
    corrected = holm(values)
    assert all(value <= c <= 1 for value, c in zip(values, corrected, strict=True))
    by_value = [c for _, c in sorted(zip(values, corrected, strict=True))]
    assert by_value == sorted(by_value)


@pytest.mark.parametrize(
    ("mean", "p", "word"), [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "not shown")]
)
def test_what_may_be_said(mean, p, word):
    assert verdict(Estimate(mean, 0, 0, p / 10, 0, 8), p) == word


def test_prompts_that_weigh_alike_are_a_mean_with_the_usual_error():
    # Differences .1, .2, .3: as the three bases above.
    one = paired([0.1, 0.2, 0.3], [1 / 3] * 3)
    assert vars(one) == pytest.approx(vars(estimate({1: [0.1], 2: [0.2], 3: [0.3]})))


def test_prompts_of_other_weights_by_hand():
    # Weights 1/2, 1/4, 1/4 of differences .4, 0, 0: mean .2. Parts n w (d - mean): 3 (.5) (.2) = .3
    # and twice 3 (.25) (-.2) = -.15, about .2: deviation sqrt((.09 + .0225 + .0225) / 2) = .2598,
    # standard error .15, times Student's 4.303 with 2 degrees of freedom: .6454.
    one = paired([0.4, 0.0, 0.0], [0.5, 0.25, 0.25])
    assert (one.mean, one.positive, one.units) == (pytest.approx(0.2), 1, 3)
    assert (one.low, one.high) == (
        pytest.approx(-0.4454, abs=1e-4),
        pytest.approx(0.8454, abs=1e-4),
    )


def test_a_difference_that_is_everywhere_the_same_has_no_error_whatever_the_weights():
    one = paired([0.25] * 3, [0.5, 0.25, 0.25])
    assert (one.mean, one.low, one.high) == pytest.approx((0.25, 0.25, 0.25))
