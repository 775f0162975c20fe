"""What W&B's distributions draw and list, by formulas and by numbers worked by hand."""

import math
import random
from statistics import NormalDist, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.distributions import KEYS, NEEDED, distribution_of, draw, options, with_defaults

N = 2000
LOG = {"min": 0.01, "max": 1.0}
EXPONENTS = {"min": math.log(0.01), "max": 0}
MEDIANS = {
    "uniform": ({"min": 2, "max": 6}, 4),
    "log_uniform": (EXPONENTS, 0.1),  # of e^-4.6 to e^0, that is of 0.01 to 1
    "log_uniform_values": (LOG, 0.1),
    "inv_log_uniform": ({"min": 0, "max": math.log(100)}, 0.1),  # log(1/X) in that range
    "inv_log_uniform_values": (LOG, 0.1),
    "normal": ({"mu": 3, "sigma": 2}, 3),
    "log_normal": ({"mu": math.log(3), "sigma": 2}, 3),
    "beta": ({"a": 2, "b": 2}, 0.5),
    "int_uniform": ({"min": 1, "max": 9}, 5),
    "q_uniform": ({"min": 0, "max": 8, "q": 4}, 4),  # 0 a quarter, 4 half, 8 a quarter
    "q_log_uniform": ({"min": 0, "max": 2 * math.log(30), "q": 20}, 20),  # 10 to 30 is 20
    "q_log_uniform_values": ({"min": 1, "max": 900, "q": 20}, 20),
    "q_normal": ({"mu": 3, "sigma": 2, "q": 10}, 0),  # -5 to 5 is 0
    "q_log_normal": ({"mu": math.log(3), "sigma": 0.1, "q": 1.5}, 3.0),
    "q_beta": ({"a": 2, "b": 2, "q": 1.0}, None),
    "constant": ({"value": 7}, 7),
    "categorical": ({"values": [1, 2, 3]}, 2),
    "categorical_w_probabilities": ({"values": [1, 2, 3], "probabilities": [0.1, 0.8, 0.1]}, 2),
}


def drawn(kind, spec, seed=0):
    filled, source = with_defaults(kind, spec), random.Random(seed)
    return [draw(kind, filled, source) for _ in range(N)]


def test_every_distribution_is_tried_here():
    assert MEDIANS.keys() == KEYS.keys()


@pytest.mark.parametrize("kind", MEDIANS)
def test_half_of_the_draws_lie_below_the_median(kind):
    spec, median = MEDIANS[kind]
    values = drawn(kind, spec)
    assert values == drawn(kind, spec) and all(map(math.isfinite, values))
    if median is not None:
        below, at = sum(x < median for x in values), sum(x == median for x in values)
        limit = 4 * math.sqrt(N) / 2  # four standard deviations of a fair coin
        assert below <= N / 2 + limit and N - below - at <= N / 2 + limit


def test_limits_shares_and_types():
    assert set(drawn("int_uniform", {"min": 2, "max": 4})) == {2, 3, 4}
    assert all(0.01 <= x <= 1 for x in drawn("log_uniform_values", LOG))
    spread = drawn("normal", {"mu": 3, "sigma": 2})
    assert NormalDist.from_samples(spread).stdev == pytest.approx(2, rel=0.1)
    assert set(drawn("normal", {"sigma": 0})) == {0.0}
    weighted = drawn("categorical_w_probabilities", MEDIANS["categorical_w_probabilities"][0])
    assert fmean(x == 2 for x in weighted) == pytest.approx(0.8, abs=0.05)
    # A whole step gives whole numbers, whatever it is written as; another one multiples of it.
    for step in (4, 4.0):
        assert {type(x) for x in drawn("q_uniform", {"min": 0, "max": 9, "q": step})} == {int}
    assert set(drawn("q_beta", {"q": 0.5})) == {0.0, 0.5, 1.0}
    with pytest.raises(ValueError, match="log_normal draws numbers that are too large"):
        drawn("log_normal", {"mu": 800})


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"value": None}, "constant"),
        ({"values": [1]}, "categorical"),
        ({"values": [1], "probabilities": [1]}, "categorical_w_probabilities"),
        ({"min": 1, "max": 3}, "int_uniform"),
        ({"min": 1, "max": 3.0}, "uniform"),
        ({"min": 1.0, "max": 3}, "uniform"),
        ({"min": 1, "max": 3, "distribution": "uniform"}, "uniform"),
        ({"distribution": "beta"}, "beta"),
        ({}, "constant"),
    ],
)
def test_keys_mean_a_distribution(spec, kind):
    assert distribution_of(spec) == kind


def test_defaults_are_those_of_the_documentation():
    assert with_defaults("normal", {}) == {"mu": 0, "sigma": 1}
    assert with_defaults("q_beta", {"distribution": "q_beta"}) == {"a": 1, "b": 1, "q": 1}


@pytest.mark.parametrize(
    ("kind", "spec", "listed"),
    [
        ("constant", {"value": None}, [None]),
        ("categorical", {"values": [1, "a"]}, [1, "a"]),
        ("int_uniform", {"min": 3, "max": 5}, [3, 4, 5]),
        ("q_uniform", {"min": 1, "max": 6, "q": 2}, [1, 3, 5]),
        ("q_uniform", {"min": 0.0, "max": 1.0, "q": 0.5}, [0.0, 0.5]),  # without the maximum
        ("uniform", LOG, None),
        ("categorical_w_probabilities", {"values": [1], "probabilities": [1]}, None),
    ],
)
def test_what_a_grid_goes_through(kind, spec, listed):
    assert options(kind, with_defaults(kind, spec)) == listed


def test_a_range_that_no_grid_can_go_through_is_refused_before_it_is_listed():
    with pytest.raises(ValueError, match="has 4,611,686,018,427,387,905 values, and a grid takes"):
        options("int_uniform", with_defaults("int_uniform", {"min": 0, "max": 2**62}))


@pytest.mark.parametrize(
    ("kind", "spec", "says"),
    [
        ("nrmal", {}, "distribution=nrmal is none of constant, categorical"),
        ("normal", {"min": 1}, "normal has no min; it takes mu, sigma"),
        ("constant", {}, "constant needs value"),
        ("categorical", {}, "categorical needs values"),
        ("uniform", {"min": 1}, "uniform needs max"),
        ("categorical", {"values": []}, "values is no list of values"),
        ("categorical", {"values": "ab"}, "values is no list of values"),
        ("uniform", {"min": 2, "max": 1}, "needs numbers min < max, and has min=2, max=1"),
        ("uniform", {"min": 1, "max": 1}, "needs numbers min < max"),
        ("uniform", {"min": "a", "max": 1}, "min='a' is no number"),
        ("uniform", {"min": True, "max": 2}, "min=True is no number"),
        ("uniform", {"min": math.nan, "max": 2}, "min=nan is no number"),
        ("uniform", {"min": 0, "max": math.inf}, "max=inf is no number"),
        ("int_uniform", {"min": 1, "max": 2.5}, "needs whole numbers, and has max=2.5"),
        ("log_uniform_values", {"min": 0, "max": 1}, "a log scale needs min above 0"),
        ("log_uniform", {"min": 1, "max": 1000}, "are exponents of e in log_uniform; write the"),
        ("q_uniform", {"min": 1, "max": 2, "q": 0}, "q=0 must be above 0"),
        ("beta", {"a": 0}, "a=0 must be above 0"),
        ("normal", {"sigma": -1}, "sigma=-1 must not be below 0"),
        *(
            ("categorical_w_probabilities", {"values": [1, 2], "probabilities": shares}, says)
            for shares, says in (
                ([1], "probabilities must be 2 numbers from 0, one a value"),
                ([-1, 2], "probabilities must be 2 numbers from 0"),
                ("ab", "probabilities must be 2 numbers"),
                ([0.5, 0.4], "probabilities add up to 0.9, and must to 1"),
            )
        ),
    ],
)
def test_what_cannot_be_drawn_from_is_one_line(kind, spec, says):
    with pytest.raises(ValueError, match=says) as raised:
        with_defaults(kind, spec)
    assert "\n" not in str(raised.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KEYS)))
def test_any_numbers_are_drawn_from_or_refused(data, kind):
    """A draw of what was accepted is a finite number, or is said to be too large."""
    number = st.integers() | st.floats() | st.booleans() | st.text(max_size=2)
    spec = {
        key: data.draw(number if default is not NEEDED or key in ("min", "max") else st.just([1]))
        for key, default in KEYS[kind].items()
    }
    try:
        filled = with_defaults(kind, spec)
        for seed in range(5):
            value = draw(kind, filled, random.Random(seed))
            assert value == [1] or math.isfinite(value)
    except ValueError as error:
        assert "\n" not in str(error)
