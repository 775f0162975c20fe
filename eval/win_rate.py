"""Win rates from pairwise preferences, pure.

A preference lies in [1, 2]: 2 where the model's answer is preferred to the baseline's, 1 where the
baseline's is, 1.5 for a tie; None where no verdict came. None is left out and counted, never made
into a number: where no verdict at all is left, rates and errors are NaN with n = 0. Rates, errors
and differences are in percent, as AlpacaEval prints them
(https://github.com/tatsu-lab/alpaca_eval). Sequences run over the instructions, [n]; a preference
outside [1, 2] (NaN too), an empty sequence or sequences of different lengths raise ValueError.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

TIE = 1.5
TIE_COUNTS_AS = {"half": TIE, "loss": 1.0, "drop": None}
DRAWS = 10_000  # of a bootstrap or a permutation test
OVERALL = "overall"

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


def weighted_win_rate(preferences: Sequence[float | None]) -> WinRate:
    """AlpacaEval's weighted form: 100 mean(p - 1), and 100 std(ddof=1) / sqrt(n).

    With fewer than two verdicts the error is NaN.
    """
    present = _present(preferences)
    n = len(present)
    return WinRate(
        win_rate=float(100 * (present - 1).mean()) if n else float("nan"),
        standard_error=float(100 * present.std(ddof=1) / n**0.5) if n > 1 else float("nan"),
        n=n,
        n_missing=len(preferences) - n,
    )


def to_discrete(preferences: Sequence[float | None], tie_rule: str = "half") -> list[float | None]:
    """Each preference as a whole win (2), a loss (1), or a tie (exactly 1.5), which counts as
    ``tie_rule`` says: ``half`` a win (AlpacaEval's), a ``loss`` (most likely the paper's), or as no
    verdict (``drop``). Rates, intervals and comparisons of the result are of the discrete kind.
    """
    if tie_rule not in TIE_COUNTS_AS:
        raise ValueError(f"tie_rule={tie_rule!r}: it is one of {', '.join(TIE_COUNTS_AS)}")
    _present(preferences)
    tie = TIE_COUNTS_AS[tie_rule]
    return [p if p is None else tie if p == TIE else 2.0 if p > TIE else 1.0 for p in preferences]


def discrete_win_rate(
    preferences: Sequence[float | None], tie_rule: str = "half"
) -> DiscreteWinRate:
    """Wins, ties and losses counted, and their rate under a tie rule of ``to_discrete``."""
    counted = weighted_win_rate(to_discrete(preferences, tie_rule))
    present = _present(preferences)
    return DiscreteWinRate(
        win_rate=counted.win_rate,
        tie_rule=tie_rule,
        wins=int((present > TIE).sum()),
        ties=int((present == TIE).sum()),
        losses=int((present < TIE).sum()),
        n=counted.n,
        n_missing=len(preferences) - len(present),
    )


def bootstrap_interval(preferences: Sequence[float | None], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the weighted win rate over instructions, in percent; NaN where
    there is no verdict. The same seed gives the same interval."""
    return _bootstrap(100 * (_present(preferences) - 1), seed)


def compare_paired(
    one: Sequence[float | None], other: Sequence[float | None], seed: int = 0
) -> Comparison:
    """Preferences of two models against one baseline, instruction by instruction (same order):
    ``one`` minus ``other``.

    An instruction without a verdict on either side is left out and counted. The p-value is that of
    the mean under random signs of the differences, at least 1 / (1 + DRAWS).
    """
    _same_length("preferences", one, "preferences of the other model", other)
    _present(one), _present(other)
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    differences = 100 * np.array([a - b for a, b in both])
    low, high = _bootstrap(differences, seed)
    return Comparison(
        difference=float(differences.mean()) if both else float("nan"),
        low=low,
        high=high,
        p_value=_sign_flip_p_value(differences, seed) if both else float("nan"),
        n=len(both),
        n_missing=len(one) - len(both),
    )


def order_effect(
    model_first: Sequence[float | None], base_first: Sequence[float | None]
) -> OrderEffect:
    """Position bias and disagreement from the preferences of both orders, pair by pair.

    Without pairs (all answers identical, none judged) both are NaN.
    """
    _same_length("model_first", model_first, "base_first", base_first)
    _check_range(model_first), _check_range(base_first)
    both = [
        (a, b)
        for a, b in zip(model_first, base_first, strict=True)
        if a is not None and b is not None
    ]
    first_wins = [a > TIE for a, _ in both if a != TIE] + [b < TIE for _, b in both if b != TIE]
    disagree = [(a - TIE) * (b - TIE) < 0 for a, b in both]
    return OrderEffect(
        first_rate=100 * sum(first_wins) / len(first_wins) if first_wins else float("nan"),
        disagree_frac=sum(disagree) / len(both) if both else float("nan"),
        n=len(both),
    )


def both_orders(one: float | None, other: float | None) -> float | None:
    """A pair's preference over its two orders; None unless both are there."""
    return None if one is None or other is None else (one + other) / 2


def label_preference(logprob_m: float, logprob_M: float, switched: bool) -> float:
    """Preference in [1, 2] from the log-probs of the judge's two labels: 2 - P(m) / (P(m) + P(M)).

    The judge says m for the output shown first, M for the second. ``switched``: the model's
    answer was shown first, so the preference is turned round; AlpacaEval shows the baseline's
    first otherwise. A label that the judge does not list has log-prob -inf. Raises ValueError where
    both are -inf, or one is NaN or +inf.
    """
    higher = max(logprob_m, logprob_M)
    if math.isnan(logprob_m + logprob_M) or math.isinf(higher):
        raise ValueError(
            f"log-probs {logprob_m} of m and {logprob_M} of M give no preference: at least one must"
            " be finite, neither NaN nor inf; a pair without them has no verdict (None)"
        )
    # Divided by the larger first: nothing underflows, and equal log-probs are an exact tie.
    weight_m, weight_M = math.exp(logprob_m - higher), math.exp(logprob_M - higher)
    second_preferred = 2 - weight_m / (weight_m + weight_M)
    return 3 - second_preferred if switched else second_preferred


def seeded_switch(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval's protocol shows the two outputs of an instruction swapped, the model's
    first: the first draw of ``random.Random("is_switched_outputs" + instruction + seed)`` from
    [False, True]."""
    source = random.Random(f"is_switched_outputs{instruction}{seed}")
    return source.choices([False, True])[0]


def mean_length(outputs: Sequence[str]) -> float:
    """Mean length of answers in characters, what AlpacaEval calls ``avg_length`` (there cut to a
    whole number)."""
    if not outputs:
        raise ValueError("there are no outputs to take a mean length of; pass at least one")
    return sum(map(len, outputs)) / len(outputs)


def by_source(
    sources: Sequence[str], values: Sequence[Value], measure: Callable[[list[Value]], Measure]
) -> dict[str, Measure]:
    """``measure`` of the values of each source set, sets in the order of their names, and of all
    values as ``overall``.

    ``values`` are whatever the measure takes: preferences for a rate or an interval, answers for
    ``mean_length``, pairs for ``lambda pairs: compare_paired(*zip(*pairs))``.
    """
    _same_length("sources", sources, "values", values)
    if OVERALL in sources:
        raise ValueError(f"a source set is called {OVERALL!r}, as the total is; rename it")
    groups: dict[str, list[Value]] = {source: [] for source in sorted(set(sources))}
    for source, value in zip(sources, values, strict=True):
        groups[source].append(value)
    groups[OVERALL] = list(values)
    return {name: measure(group) for name, group in groups.items()}


def _present(preferences: Sequence[float | None]) -> np.ndarray:
    """The verdicts that are there, [n]."""
    if not len(preferences):
        raise ValueError(
            "there are no preferences to take a rate of; pass one a pair, None where there is no"
            " verdict"
        )
    _check_range(preferences)
    return np.array([p for p in preferences if p is not None], dtype=float)


def _check_range(preferences: Sequence[float | None]) -> None:
    wrong = [(row, p) for row, p in enumerate(preferences) if p is not None and not 1 <= p <= 2]
    if wrong:
        row, value = wrong[0]
        raise ValueError(
            f"{len(wrong)} of {len(preferences)} preferences are outside [1, 2], first {value} in"
            f" row {row}; 2 means that the model's answer is preferred, 1.5 a tie (0 in old"
            " AlpacaEval files), 1 the baseline's, None that there is no verdict"
        )


def _same_length(name: str, one: Sequence, other_name: str, other: Sequence) -> None:
    if len(one) != len(other):
        raise ValueError(
            f"{len(one)} {name} but {len(other)} {other_name}: row i of both must be of the same"
            " instruction; where one lacks a verdict, pass None"
        )


def _batches(n: int) -> list[int]:
    """DRAWS in portions that keep a [portion, n] array small."""
    portion = max(1, 2**20 // n)
    full, rest = divmod(DRAWS, portion)
    return [portion] * full + [rest] * (rest > 0)


def _bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, [n] -> (low, high)."""
    n = len(values)
    if not n:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, n, (portion, n))].mean(axis=1) for portion in _batches(n)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _sign_flip_p_value(differences: np.ndarray, seed: int) -> float:
    n = len(differences)
    generator = np.random.default_rng(seed)
    observed = abs(differences.sum()) * (1 - 1e-9)  # sums that are equal but for rounding count
    extreme = 0
    for portion in _batches(n):
        signs = 2 * generator.integers(0, 2, (portion, n), dtype=np.int8) - 1
        extreme += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + extreme) / (1 + DRAWS)
