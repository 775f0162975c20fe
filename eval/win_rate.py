"""Win rates: pairwise preferences go in, rates with their intervals and p-values come out.

A preference lies in [1, 2]: 2 where the model's answer is preferred to the baseline's, 1 where the
baseline's is, 1.5 for a tie; None where no verdict came. None is left out and counted, never made
into a number: where no verdict at all is left, rates and errors are NaN with n = 0. Rates, errors
and differences are in percent, as AlpacaEval prints them
(https://github.com/tatsu-lab/alpaca_eval). Sequences run over the instructions, [n]; a preference
outside [1, 2] (NaN too), an empty sequence or sequences of different lengths raise ValueError.
"""

import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

TIE = 1.5
TIE_COUNTS_AS = {"half": TIE, "loss": 1.0, "drop": None}
DRAWS = 10_000  # of a bootstrap or a permutation test
OVERALL = "overall"

Preferences = Sequence[float | None]
Value = TypeVar("Value")
Measure = TypeVar("Measure")


@dataclass(frozen=True)
class WinRate:
    """``win_rate``, ``standard_error``: percent, over ``n`` verdicts; ``n_missing`` had none."""

    win_rate: float
    standard_error: float
    n: int
    n_missing: int


@dataclass(frozen=True)
class DiscreteWinRate:
    """Whole ``wins``, ``ties`` and ``losses``. ``win_rate``: percent, over the ``n`` of them that
    ``tie_rule`` counts; ``n_missing`` pairs had no verdict."""

    win_rate: float
    tie_rule: str
    wins: int
    ties: int
    losses: int
    n: int
    n_missing: int


@dataclass(frozen=True)
class Comparison:
    """Two models over the same instructions: mean ``difference`` of their win rates in percentage
    points, its 95 % bootstrap interval from ``low`` to ``high``, a two-sided ``p_value`` by sign
    flips; ``n`` instructions have both verdicts, ``n_missing`` lack one."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    n_missing: int


@dataclass(frozen=True)
class OrderEffect:
    """Both orders of the same pairs. ``first_rate``: how often the answer shown first won, in
    percent of the verdicts that are no tie, 50 without position bias; ``disagree_frac``, in
    [0, 1]: pairs whose orders name different winners; ``n``: pairs with both verdicts."""

    first_rate: float
    disagree_frac: float
    n: int


def weighted_win_rate(preferences: Preferences) -> WinRate:
    """AlpacaEval's weighted form: 100 mean(p - 1), and 100 std(ddof=1) / sqrt(n), NaN for n < 2."""
    present = _present(_verdicts(preferences))
    n = len(present)
    return WinRate(
        win_rate=float(100 * (present - 1).mean()) if n else math.nan,
        standard_error=float(100 * present.std(ddof=1) / n**0.5) if n > 1 else math.nan,
        n=n,
        n_missing=len(preferences) - n,
    )


def to_discrete(preferences: Preferences, tie_rule: str = "half") -> list[float | None]:
    """Each preference as a whole win (2), a loss (1), or a tie (exactly 1.5), which counts as
    ``tie_rule`` says: ``half`` a win (AlpacaEval's), a ``loss`` (most likely the paper's), or as no
    verdict (``drop``). Rates, intervals and comparisons of the result are of the discrete kind."""
    if tie_rule not in TIE_COUNTS_AS:
        raise ValueError(f"tie_rule={tie_rule!r}: it is one of {', '.join(TIE_COUNTS_AS)}")
    _verdicts(preferences)
    tie = TIE_COUNTS_AS[tie_rule]
    return [p if p is None else tie if p == TIE else 2.0 if p > TIE else 1.0 for p in preferences]


def discrete_win_rate(preferences: Preferences, tie_rule: str = "half") -> DiscreteWinRate:
    """Wins, ties and losses counted, and their rate under a tie rule of ``to_discrete``."""
    counted = weighted_win_rate(to_discrete(preferences, tie_rule))
    present = _present(_verdicts(preferences))
    return DiscreteWinRate(
        win_rate=counted.win_rate,
        tie_rule=tie_rule,
        wins=int((present > TIE).sum()),
        ties=int((present == TIE).sum()),
        losses=int((present < TIE).sum()),
        n=counted.n,
        n_missing=len(preferences) - len(present),
    )


def bootstrap_interval(preferences: Preferences, seed: int = 0) -> tuple[float, float]:
    """``mean_interval`` of the weighted win rate over instructions, in percent."""
    return mean_interval(100 * (_verdicts(preferences) - 1), seed)


def mean_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of [n] values, or of a [rows, n] table whose
    rows and columns are drawn anew, each on its own. NaN is no value; without any value both ends
    are NaN. The same seed gives the same interval."""
    from scipy.stats import bootstrap

    table = np.asarray(values, dtype=float)
    if table.ndim == 1 or 1 in table.shape:
        table = _present(table)
    if np.isnan(table).all():
        return math.nan, math.nan
    if table.size == 1:
        return (table.item(),) * 2
    filled, present = np.nan_to_num(table), ~np.isnan(table)

    def mean(*drawn: np.ndarray, axis: int) -> np.ndarray:
        """Of the rows and columns drawn, [draws, size] places each."""
        places = drawn if table.ndim == 1 else (drawn[0][..., None], drawn[1][..., None, :])
        axes = tuple(range(-table.ndim, 0))
        return filled[places].sum(axis=axes) / present[places].sum(axis=axes)

    options = {"method": "percentile", "vectorized": True, "batch": max(1, 2**20 // table.size)}
    numbers = tuple(map(np.arange, table.shape))
    # A draw may meet no value at all; its mean is NaN and left out.
    with np.errstate(invalid="ignore"), warnings.catch_warnings(action="ignore"):
        draws = bootstrap(numbers, mean, n_resamples=DRAWS, **options, rng=seed)
    low, high = np.nanpercentile(draws.bootstrap_distribution, [2.5, 97.5])
    return float(low), float(high)


def compare_paired(one: Preferences, other: Preferences, seed: int = 0) -> Comparison:
    """Preferences of two models against one baseline, instruction by instruction (same order):
    ``one`` minus ``other``. An instruction without a verdict on either side is left out and
    counted. The two-sided p-value is that of the mean under all signs of the differences or, where
    there are more than DRAWS patterns of them, under DRAWS random ones."""
    from scipy.stats import permutation_test

    _same_length("preferences", one, "preferences of the other model", other)
    differences = _present(100 * (_verdicts(one) - _verdicts(other)))
    n = len(differences)
    low, high = mean_interval(differences, seed)
    p_value = 1.0 if n else math.nan
    if n > 1:
        flips = {"permutation_type": "samples", "n_resamples": DRAWS, "batch": max(1, 2**20 // n)}
        p_value = float(permutation_test((differences,), np.mean, **flips, rng=seed).pvalue)
    mean = float(differences.mean()) if n else math.nan
    return Comparison(mean, low, high, p_value, n, len(one) - n)


def order_effect(model_first: Preferences, base_first: Preferences) -> OrderEffect:
    """Position bias and disagreement from the preferences of both orders; NaN without pairs."""
    _same_length("model_first", model_first, "base_first", base_first)
    orders = np.stack([_verdicts(model_first, least=0), _verdicts(base_first, least=0)])
    model, base = orders[:, ~np.isnan(orders).any(axis=0)] - TIE
    first_wins = np.concatenate([model[model != 0] > 0, base[base != 0] < 0])
    return OrderEffect(
        first_rate=float(100 * first_wins.mean()) if len(first_wins) else math.nan,
        disagree_frac=float((model * base < 0).mean()) if len(model) else math.nan,
        n=len(model),
    )


def both_orders(one: float | None, other: float | None) -> float | None:
    """A pair's preference over its two orders; None unless both are there."""
    return None if one is None or other is None else (one + other) / 2


def label_preference(logprob_m: float, logprob_M: float, switched: bool) -> float:
    """Preference in [1, 2] from the log-probs of the judge's two labels: 2 - P(m) / (P(m) + P(M)).

    The judge says m for the output shown first, M for the second. ``switched``: the model's
    answer was shown first, so the preference is turned round; AlpacaEval shows the baseline's
    first otherwise. A label that the judge does not list has log-prob -inf. Raises ValueError where
    both are -inf, or one is NaN or +inf."""
    higher = max(logprob_m, logprob_M)
    if math.isnan(logprob_m + logprob_M) or math.isinf(higher):
        problem = f"log-probs {logprob_m} of m and {logprob_M} of M give no preference"
        rule = "at least one must be finite, neither NaN nor inf"
        raise ValueError(f"{problem}: {rule}; a pair without them has no verdict (None)")
    # Divided by the larger first: nothing underflows, and equal log-probs are an exact tie.
    weight_m, weight_M = math.exp(logprob_m - higher), math.exp(logprob_M - higher)
    second_preferred = 2 - weight_m / (weight_m + weight_M)
    return 3 - second_preferred if switched else second_preferred


def seeded_switch(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval's protocol shows the two outputs of an instruction swapped, the model's
    first: the first draw from [False, True] of a generator that is seeded by the texts below."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]


def mean_length(outputs: Sequence[str]) -> float:
    """In characters; what AlpacaEval calls ``avg_length`` (there cut to a whole number)."""
    if not outputs:
        raise ValueError("there are no outputs to take a mean length of; pass at least one")
    return sum(map(len, outputs)) / len(outputs)


def by_source(
    sources: Sequence[str], values: Sequence[Value], measure: Callable[[list[Value]], Measure]
) -> dict[str, Measure]:
    """``measure`` of the values of each source set, sets in the order of their names, and of all as
    ``overall``. Values are whatever the measure takes: preferences for a rate or an interval,
    answers for ``mean_length``, pairs for ``lambda pairs: compare_paired(*zip(*pairs))``."""
    _same_length("sources", sources, "values", values)
    if OVERALL in sources:
        raise ValueError(f"a source set is called {OVERALL!r}, as the total is; rename it")
    groups: dict[str, list[Value]] = {source: [] for source in sorted(set(sources))}
    for source, value in zip(sources, values, strict=True):
        groups[source].append(value)
    groups[OVERALL] = list(values)
    return {name: measure(group) for name, group in groups.items()}


def _verdicts(preferences: Preferences, least: int = 1) -> np.ndarray:
    """[n], NaN where there is no verdict."""
    if len(preferences) < least:
        advice = "pass one a pair, None where there is no verdict"
        raise ValueError(f"there are no preferences to take a rate of; {advice}")
    rows = [row for row, p in enumerate(preferences) if p is not None and not 1 <= p <= 2]
    if rows:
        raise ValueError(
            f"{len(rows)} of {len(preferences)} preferences are outside [1, 2], first"
            f" {preferences[rows[0]]} in row {rows[0]}; 2 means that the model's answer is"
            " preferred, 1.5 a tie (0 in old AlpacaEval files), 1 the baseline's, None that there"
            " is no verdict"
        )
    return np.array(preferences, dtype=float)


def _present(values: np.ndarray) -> np.ndarray:
    """Those that are not NaN, [n]."""
    return values[~np.isnan(values)]


def _same_length(name: str, one: Sequence, other_name: str, other: Sequence) -> None:
    if len(one) != len(other):
        problem = f"{len(one)} {name} but {len(other)} {other_name}"
        rule = "row i of both must be of the same instruction"
        raise ValueError(f"{problem}: {rule}; where one lacks a verdict, pass None")
