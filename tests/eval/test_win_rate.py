"""Win rates: by hand, by property, and against AlpacaEval's published numbers."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.win_rate import (
    bootstrap_interval,
    both_orders,
    by_source,
    compare_paired,
    discrete_win_rate,
    order_effect,
    seeded_switch,
    weighted_win_rate,
)

DATA = Path(__file__).parents[3] / "shared" / "alpaca_eval"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the AlpacaEval files lie in ../shared/alpaca_eval, which is absent"
)
preferences = st.lists(st.one_of(st.none(), st.floats(1, 2)), min_size=1, max_size=40)


def test_weighted_by_hand():
    found = weighted_win_rate([2.0, 1.0, 1.5, None])
    assert (found.win_rate, found.n, found.n_missing) == (50.0, 3, 1)
    assert found.standard_error == pytest.approx(100 * 0.5 / math.sqrt(3))
    none = weighted_win_rate([None])
    assert math.isnan(none.win_rate) and (none.n, none.n_missing) == (0, 1)
    assert math.isnan(weighted_win_rate([2.0]).standard_error)


@pytest.mark.parametrize(("rule", "rate"), [("half", 62.5), ("loss", 50.0), ("drop", 200 / 3)])
def test_discrete_by_hand(rule, rate):
    found = discrete_win_rate([1.9, 2.0, 1.5, 1.2, None], rule)
    assert found.win_rate == pytest.approx(rate)
    assert (found.wins, found.ties, found.losses, found.n_missing) == (2, 1, 1, 1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"1 preferences are outside \[1, 2\], for instance 0.0"):
        weighted_win_rate([0.0])
    with pytest.raises(ValueError, match="outside"):
        weighted_win_rate([float("nan")])
    with pytest.raises(ValueError, match="one of half, loss, drop"):
        discrete_win_rate([1.0], "win")
    with pytest.raises(ValueError, match="must be of the same pairs"):
        compare_paired([1.0], [])
    with pytest.raises(ValueError, match="verdict on both sides"):
        compare_paired([1.0, None], [None, 1.0])
    with pytest.raises(ValueError, match="one a pair and order"):
        order_effect([1.0], [])
    with pytest.raises(ValueError, match="1 sources and 0 preferences"):
        by_source(["a"], [], weighted_win_rate)


@given(preferences)
def test_swapping_the_sides_mirrors_the_rate(values):
    found = weighted_win_rate(values)
    mirrored = weighted_win_rate([None if v is None else 3 - v for v in values])
    if found.n:
        assert found.win_rate + mirrored.win_rate == pytest.approx(100)
    if found.n > 1:
        assert found.standard_error == pytest.approx(mirrored.standard_error)


@given(preferences, st.integers(0, 5))
def test_a_missing_verdict_moves_nothing_but_its_count(values, more):
    one, two = weighted_win_rate(values), weighted_win_rate([*values, *[None] * more])
    assert two.n_missing == one.n_missing + more and two.n == one.n
    assert two.win_rate == one.win_rate or math.isnan(one.win_rate)


def test_the_interval_holds_the_rate_and_repeats():
    values = [1.0, 2.0, 1.7, 1.2] * 30
    low, high = bootstrap_interval(values)
    assert low < weighted_win_rate(values).win_rate < high
    assert bootstrap_interval(values) == (low, high)
    error = weighted_win_rate(values).standard_error
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert all(map(math.isnan, bootstrap_interval([None])))


def test_paired_comparison_by_hand():
    better = compare_paired([2.0] * 12 + [None], [1.5] * 12 + [1.0])
    assert (better.difference, better.low, better.high, better.n) == (50.0, 50.0, 50.0, 12)
    # All signs alike: 2 of 4096 patterns are as extreme.
    assert better.p_value == pytest.approx(2 / 4096, abs=1e-3)
    same = compare_paired([1.0, 2.0] * 10, [2.0, 1.0] * 10)
    assert same.difference == 0.0 and same.p_value == 1.0


def test_order_effect_by_hand():
    # Pair 1: the model wins in both orders; pair 2: whoever is first wins; pair 3: a tie and none.
    found = order_effect([2.0, 2.0, 1.5], [1.8, 1.1, None])
    assert found.n == 2 and found.disagree_frac == 0.5
    # Shown first and won: pair 1 model (yes), base (no); pair 2 model (yes), base (yes).
    assert found.first_rate == 75.0
    assert (both_orders(2.0, 1.0), both_orders(None, 1.0)) == (1.5, None)


def test_by_source_and_overall():
    found = by_source(["b", "a", "b"], [2.0, 1.0, None], weighted_win_rate)
    assert list(found) == ["a", "b", "overall"]
    assert (found["a"].win_rate, found["b"].win_rate, found["overall"].win_rate) == (0, 100, 50)
    assert found["b"].n_missing == 1


def annotations():
    return sorted((DATA / "annotations").glob("*.jsonl.gz")) if DATA.is_dir() else []


@needs_data
@pytest.mark.parametrize("path", annotations(), ids=lambda path: path.name.split(".jsonl")[0])
def test_published_rates_are_reproduced(path):
    """Win rate, standard error and discrete win rate, overall and by set, to 1e-9."""
    name = path.name.removesuffix(".jsonl.gz")
    expected = json.loads((DATA / "expected_metrics.json").read_text()).get(name)
    if expected is None:
        pytest.skip(f"{name} has no published row in expected_metrics.json")
    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    values = [1.5 if r["preference"] == 0 else r["preference"] for r in rows]
    published = expected["recomputed_alpaca_eval_0_6_6"]
    groups = by_source([r["dataset"] for r in rows], values, lambda p: p)
    for source, want in {**published["by_dataset"], "overall": published["overall"]}.items():
        weighted, discrete = weighted_win_rate(groups[source]), discrete_win_rate(groups[source])
        assert weighted.win_rate == pytest.approx(want["win_rate"], abs=1e-9)
        assert weighted.standard_error == pytest.approx(want["standard_error"], abs=1e-9)
        assert discrete.win_rate == pytest.approx(want["discrete_win_rate"], abs=1e-9)
        assert (discrete.wins, discrete.ties) == (want["n_wins"], want["n_draws"])


@needs_data
def test_the_seeded_order_is_the_recorded_one_on_all_instructions():
    rows = json.loads((DATA / "alpaca_eval_instructions.json").read_text())
    assert len(rows) == 805
    wrong = [r for r in rows if seeded_switch(r["instruction"], 0) != r["is_switched_seed0"]]
    assert not wrong
