"""Win rates: by hand, by property, and against AlpacaEval's published numbers."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.win_rate import (
    bootstrap_interval,
    both_orders,
    by_source,
    compare_paired,
    discrete_win_rate,
    label_preference,
    mean_interval,
    mean_length,
    order_effect,
    seeded_switch,
    to_discrete,
    weighted_win_rate,
)

JUDGED = [
    "FuseChat-Llama-3.2-3B-Instruct",
    "gpt-3.5-turbo-1106",
    "gpt35_turbo_instruct.ae1_alpaca_eval_gpt4",
    "phi-2",
]
INF, NAN = float("inf"), float("nan")
preferences = st.lists(st.one_of(st.none(), st.floats(1, 2)), min_size=1, max_size=40)
verdicts = st.lists(st.one_of(st.none(), st.sampled_from([1.0, 1.5, 2.0])), min_size=1, max_size=40)


def mirrored(values):
    return [None if p is None else 3 - p for p in values]


def test_weighted_by_hand():
    found = weighted_win_rate([2.0, 1.0, 1.5, None])
    assert (found.win_rate, found.n, found.n_missing) == (50.0, 3, 1)
    assert found.standard_error == pytest.approx(100 * 0.5 / math.sqrt(3))
    none = weighted_win_rate([None])
    assert math.isnan(none.win_rate) and (none.n, none.n_missing) == (0, 1)
    assert math.isnan(weighted_win_rate([2.0]).standard_error)


@pytest.mark.parametrize(
    ("rule", "rate", "n"), [("half", 62.5, 4), ("loss", 50.0, 4), ("drop", 200 / 3, 3)]
)
def test_discrete_by_hand(rule, rate, n):
    found = discrete_win_rate([1.9, 2.0, 1.5, 1.2, None], rule)
    assert found.win_rate == pytest.approx(rate)
    assert (found.tie_rule, found.n) == (rule, n)
    assert (found.wins, found.ties, found.losses, found.n_missing) == (2, 1, 1, 1)


def test_a_tie_is_exactly_one_and_a_half():
    just_over, just_under = math.nextafter(1.5, 2), math.nextafter(1.5, 1)
    assert to_discrete([just_over, 1.5, just_under, None]) == [2.0, 1.5, 1.0, None]
    assert to_discrete([1.5, 1.7], "loss") == [1.0, 2.0]
    assert to_discrete([1.5, 1.7], "drop") == [None, 2.0]


def test_the_interval_holds_the_rate_and_repeats():
    values = [1.0, 2.0, 1.7, 1.2] * 30
    low, high = bootstrap_interval(values)
    assert low < weighted_win_rate(values).win_rate < high
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)
    error = weighted_win_rate(values).standard_error
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert bootstrap_interval([*values, None]) == (low, high)
    assert bootstrap_interval([1.25]) == (25.0, 25.0)
    assert all(map(math.isnan, bootstrap_interval([None])))


def test_the_interval_of_a_mean_by_hand():
    assert mean_interval([0.25, 0.25]) == (0.25, 0.25)
    low, high = mean_interval([1.0, 2.0, 3.0, 2.0])
    assert 1.0 <= low < 2.0 < high <= 3.0 and (low, high) == mean_interval([1, 2, 3, 2])
    # Rows and columns of a table: where all are alike there is nothing to draw anew.
    assert mean_interval(np.full((3, 10), 100.0)) == (100.0, 100.0)
    # One row of 400 coins: the binomial interval, 50 -+ 1.96 * 2.5.
    low, high = mean_interval(np.tile([0.0, 100.0], 200)[None])
    assert (low, high) == pytest.approx((45.1, 54.9), abs=0.6)
    # Two rows that disagree on everything: their means are 0, 50 or 100.
    assert mean_interval(np.array([[0.0] * 50, [100.0] * 50])) == (0.0, 100.0)
    # A missing value is left out, not counted as 0; so is a draw that meets no value at all.
    assert mean_interval([[100.0, NAN]]) == (100.0, 100.0)
    assert mean_interval([[NAN] * 4, [100.0, 100.0, NAN, 100.0]]) == (100.0, 100.0)
    for nothing in ([], [NAN], np.full((2, 3), NAN)):
        assert all(map(math.isnan, mean_interval(nothing)))


def test_the_interval_covers_the_true_rate_about_95_times_in_100():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(1 + generator.binomial(1, 0.3, 80), seed)
        covered += low <= 30 <= high
    assert 88 <= covered <= 100


def test_paired_comparison_by_hand():
    better = compare_paired([2.0] * 12 + [None], [1.5] * 12 + [1.0])
    assert (better.difference, better.low, better.high) == (50.0, 50.0, 50.0)
    assert (better.n, better.n_missing) == (12, 1)
    # All signs alike: 2 of 4096 patterns are as extreme.
    assert better.p_value == pytest.approx(2 / 4096, abs=1e-3)
    same = compare_paired([1.0, 2.0] * 10, [2.0, 1.0] * 10)
    assert same.difference == 0.0 and same.p_value == 1.0
    # +100, +100, +100, -100: 10 of 16 patterns sum to +-200 or more.
    mixed = compare_paired([2.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 2.0])
    assert mixed.difference == 50.0 and mixed.p_value == pytest.approx(10 / 16, abs=0.02)
    none = compare_paired([1.0, None], [None, 2.0])
    assert (none.n, none.n_missing) == (0, 2)
    assert all(map(math.isnan, (none.difference, none.low, none.high, none.p_value)))


def test_order_effect_by_hand():
    # Pair 1: the model wins in both orders; pair 2: whoever is first wins; pair 3: a tie and none.
    found = order_effect([2.0, 2.0, 1.5], [1.8, 1.1, None])
    assert found.n == 2 and found.disagree_frac == 0.5
    # Shown first and won: pair 1 model (yes), base (no); pair 2 model (yes), base (yes).
    assert found.first_rate == 75.0
    assert (both_orders(2.0, 1.0), both_orders(None, 1.0)) == (1.5, None)
    # A tie names no winner, so it neither disagrees nor speaks of the first.
    tie = order_effect([1.5], [2.0])
    assert (tie.first_rate, tie.disagree_frac, tie.n) == (0.0, 0.0, 1)
    none = order_effect([], [])
    assert none.n == 0 and math.isnan(none.first_rate) and math.isnan(none.disagree_frac)


def test_label_preference_by_hand():
    # P(m) = 0.6, P(M) = 0.2, a fifth of the mass elsewhere: 2 - 0.75.
    assert label_preference(math.log(0.6), math.log(0.2), False) == pytest.approx(1.25)
    assert label_preference(math.log(0.6), math.log(0.2), True) == pytest.approx(1.75)
    # A label that is not listed has no probability; far below underflow the ratio still counts.
    assert label_preference(-INF, -0.1, False) == 2.0
    assert label_preference(-0.1, -INF, False) == 1.0
    assert label_preference(-2000.0, -2000.0, True) == 1.5


def test_the_seeded_order_draws_from_no_then_yes():
    for seed in range(20):
        draw = random.Random(f"is_switched_outputsHi{seed}").random()
        assert seeded_switch("Hi", seed) is (draw >= 0.5)
    assert seeded_switch("Hi") is seeded_switch("Hi", 0)


def test_by_source_and_overall():
    sources, values = ["b", "a", "b"], [2.0, 1.0, None]
    found = by_source(sources, values, weighted_win_rate)
    assert list(found) == ["a", "b", "overall"]
    assert (found["a"].win_rate, found["b"].win_rate, found["overall"].win_rate) == (0, 100, 50)
    assert found["b"].n_missing == 1
    assert by_source(sources, ["xy", "", "wxyz"], mean_length) == {
        "a": 0.0,
        "b": 3.0,
        "overall": 2.0,
    }
    pairs = list(zip(values, [1.0, 1.0, 1.0], strict=True))
    paired = by_source(sources, pairs, lambda group: compare_paired(*zip(*group, strict=True)))
    assert [c.difference for c in paired.values()] == [0.0, 100.0, 50.0]


RANGE = (
    "1 of 2 preferences are outside [1, 2], first {} in row 1; 2 means that the model's answer is"
    " preferred, 1.5 a tie (0 in old AlpacaEval files), 1 the baseline's, None that there is no"
    " verdict"
)
EMPTY = (
    "there are no preferences to take a rate of; pass one a pair, None where there is no verdict"
)
LENGTHS = (
    "1 {} but 2 {}: row i of both must be of the same instruction; where one lacks a verdict, pass"
    " None"
)
UNEQUAL = ([1.0], [1.0, 1.0])
LOGPROBS = (
    "log-probs {} of m and {} of M give no preference: at least one must be finite, neither NaN nor"
    " inf; a pair without them has no verdict (None)"
)


@pytest.mark.parametrize(
    ("call", "arguments", "says"),
    [
        (weighted_win_rate, ([1.0, 0.0],), RANGE.format(0.0)),
        (weighted_win_rate, ([1.0, NAN],), RANGE.format("nan")),
        (discrete_win_rate, ([None, 2.5],), RANGE.format(2.5)),
        (bootstrap_interval, ([1.0, INF],), RANGE.format("inf")),
        (compare_paired, ([1.0, 1.0], [1.0, -1.0]), RANGE.format(-1.0)),
        (order_effect, ([1.0, 3.0], [1.0, 1.0]), RANGE.format(3.0)),
        (order_effect, ([1.0, 1.0], [1.0, NAN]), RANGE.format("nan")),
        (weighted_win_rate, ([],), EMPTY),
        (discrete_win_rate, ([],), EMPTY),
        (bootstrap_interval, ([],), EMPTY),
        (compare_paired, ([], []), EMPTY),
        (compare_paired, UNEQUAL, LENGTHS.format("preferences", "preferences of the other model")),
        (order_effect, UNEQUAL, LENGTHS.format("model_first", "base_first")),
        (by_source, (*UNEQUAL, weighted_win_rate), LENGTHS.format("sources", "values")),
        (
            by_source,
            (["overall"], [1.0], weighted_win_rate),
            "a source set is called 'overall', as the total is; rename it",
        ),
        (discrete_win_rate, ([1.0], "win"), "tie_rule='win': it is one of half, loss, drop"),
        (mean_length, ([],), "there are no outputs to take a mean length of; pass at least one"),
        (label_preference, (-INF, -INF, False), LOGPROBS.format("-inf", "-inf")),
        (label_preference, (NAN, -1.0, False), LOGPROBS.format("nan", "-1.0")),
        (label_preference, (-1.0, INF, True), LOGPROBS.format("-1.0", "inf")),
    ],
)
def test_bad_input_is_refused(call, arguments, says):
    with pytest.raises(ValueError) as error:
        call(*arguments)
    assert str(error.value) == says


@given(preferences)
def test_swapping_the_sides_mirrors_the_rate(values):
    found, other = weighted_win_rate(values), weighted_win_rate(mirrored(values))
    if found.n:
        assert found.win_rate + other.win_rate == pytest.approx(100)
    if found.n > 1:
        assert found.standard_error == pytest.approx(other.standard_error)


@given(verdicts)
def test_swapping_the_sides_swaps_wins_and_losses(values):
    found, other = discrete_win_rate(values), discrete_win_rate(mirrored(values))
    assert (found.wins, found.ties, found.losses) == (other.losses, other.ties, other.wins)
    if found.n:
        assert found.win_rate + other.win_rate == pytest.approx(100)
        loss, drop = discrete_win_rate(values, "loss"), discrete_win_rate(values, "drop")
        assert loss.win_rate <= found.win_rate
        assert math.isnan(drop.win_rate) or loss.win_rate <= drop.win_rate


@given(preferences, st.integers(0, 5))
def test_a_missing_verdict_moves_nothing_but_its_count(values, more):
    longer = [*values, *[None] * more]
    for rate in (weighted_win_rate, discrete_win_rate):
        one, two = rate(values), rate(longer)
        assert two.n_missing == one.n_missing + more and two.n == one.n
        assert two.win_rate == one.win_rate or math.isnan(one.win_rate)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 2), st.floats(1, 2)), min_size=1, max_size=12))
def test_a_paired_difference_is_that_of_the_rates_and_turns_with_the_sides(pairs):
    one, other = zip(*pairs, strict=True)
    found, turned = compare_paired(one, other), compare_paired(other, one)
    rates = weighted_win_rate(one).win_rate - weighted_win_rate(other).win_rate
    assert found.difference == pytest.approx(rates, abs=1e-9)
    assert turned.difference == -found.difference and turned.p_value == found.p_value
    assert found.low - 1e-9 <= found.high and 0 < found.p_value <= 1


@given(st.floats(-1000, 0), st.floats(-1000, 0))
def test_label_preferences_are_in_range_and_turn_with_the_order(logprob_m, logprob_M):
    found = label_preference(logprob_m, logprob_M, False)
    assert 1 <= found <= 2
    assert label_preference(logprob_m, logprob_M, True) == pytest.approx(3 - found)
    assert label_preference(logprob_M, logprob_m, True) == pytest.approx(found)


def test_every_judged_model_of_the_folder_is_checked_here(published):
    names = {
        path.name.removesuffix(".jsonl.gz") for path in (published.folder / "annotations").iterdir()
    }
    assert names == set(JUDGED)


@pytest.mark.parametrize("name", JUDGED)
def test_published_rates_are_reproduced(published, name):
    """Win rate, standard error and discrete win rate, overall and by set, to 1e-9."""
    expected = published.json("expected_metrics.json")[name]
    rows, values = published.annotations(name)
    sources = [row["dataset"] for row in rows]
    weighted = by_source(sources, values, weighted_win_rate)
    discrete = by_source(sources, values, discrete_win_rate)
    recomputed = expected["recomputed_alpaca_eval_0_6_6"]
    wanted = [*recomputed["by_dataset"].items(), ("overall", recomputed["overall"])]
    assert {source for source, _ in wanted} == set(weighted)
    for source, want in [*wanted, ("overall", expected["published"])]:
        assert weighted[source].win_rate == pytest.approx(want["win_rate"], abs=1e-9)
        assert weighted[source].standard_error == pytest.approx(want["standard_error"], abs=1e-9)
        assert discrete[source].win_rate == pytest.approx(want["discrete_win_rate"], abs=1e-9)
        assert weighted[source].n == discrete[source].n == want["n_total"]
        counts = (discrete[source].wins, discrete[source].ties, discrete[source].losses)
        assert counts == (want["n_wins"], want["n_draws"], want["n_wins_base"])


def test_the_baseline_against_itself_is_half_of_everything(published):
    want = published.leaderboard()["gpt4_1106_preview"]
    weighted, discrete = weighted_win_rate([1.5] * 805), discrete_win_rate([1.5] * 805)
    assert (weighted.win_rate, weighted.standard_error) == (50.0, 0.0)
    assert (weighted.win_rate, discrete.win_rate, discrete.ties) == (
        float(want["win_rate"]),
        float(want["discrete_win_rate"]),
        int(want["n_draws"]),
    )


def test_published_discrete_rates_follow_from_their_counts(published):
    """On all models of the leaderboard but one, whose published rate contradicts its counts."""
    for name, row in published.leaderboard().items():
        wins, ties, losses = (int(row[key]) for key in ("n_wins", "n_draws", "n_wins_base"))
        found = discrete_win_rate([2.0] * wins + [1.5] * ties + [1.0] * losses)
        same = found.win_rate == pytest.approx(float(row["discrete_win_rate"]), abs=1e-9)
        assert same == (name != "aligner-2b_gpt-4-turbo-2024-04-09"), name
        assert found.n == int(row["n_total"])


def test_the_seeded_order_is_the_recorded_one_on_all_instructions(published):
    rows = published.json("alpaca_eval_instructions.json")
    assert len(rows) == 805
    assert [seeded_switch(row["instruction"]) for row in rows] == [
        row["is_switched_seed0"] for row in rows
    ]


@pytest.mark.parametrize("name", ["gpt-3.5-turbo-1106", "phi-2"])
def test_recorded_preferences_follow_from_the_judges_log_probs(published, name):
    texts = [row["instruction"] for row in published.json("alpaca_eval_instructions.json")]
    rows, _ = published.annotations(name)
    judged = [row for row in rows if row["top_logprobs"]]
    assert len(judged) == len(rows) - sum(row["identical"] for row in rows)
    for row in judged:
        logprobs = dict(row["top_logprobs"])
        found = label_preference(
            logprobs.get("m", -INF), logprobs.get("M", -INF), seeded_switch(texts[row["index"]])
        )
        assert found == pytest.approx(row["preference"], abs=1e-9), row["index"]


@pytest.mark.parametrize("name", ["FuseChat-Llama-3.2-3B-Instruct", "gpt4_1106_preview"])
def test_published_lengths_are_reproduced(published, name):
    outputs = [row["output"] for row in published.rows(f"model_outputs/{name}")]
    assert int(mean_length(outputs)) == int(published.leaderboard()[name]["avg_length"])
