"""Win rates from pairwise preferences, pure.

A preference lies in [1, 2]: 2 where the model's answer is preferred to the baseline's, 1 where the
baseline's is, 1.5 for a tie; None where no verdict came. None is left out and counted, never made
into a number. Rates and errors are in percent, as AlpacaEval prints them
(https://github.com/tatsu-lab/alpaca_eval).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TIE = 1.5
TIE_RULES = ("half", "loss", "drop")


@dataclass(frozen=True)
class WinRate:
    """``win_rate``, ``standard_error``: percent, over ``n`` verdicts; ``n_missing`` had none."""

    win_rate: float
    standard_error: float
    n: int
    n_missing: int


@dataclass(frozen=True)
class DiscreteWinRate:
    """Whole wins, ties and losses; ``win_rate`` in percent under ``tie_rule``."""

    win_rate: float
    tie_rule: str
    wins: int
    ties: int
    losses: int
    n_missing: int


@dataclass(frozen=True)
class Comparison:
    """Two models over the same instructions: mean difference of their win rates in percentage
    points, its 95 % bootstrap interval, and a two-sided p-value by sign flips."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int


@dataclass(frozen=True)
class OrderEffect:
    """Both orders of the same pairs. ``first_rate``: how often the answer shown first won, in
    percent of the verdicts that are no tie; ``disagree_frac``: pairs whose orders name different
    winners; ``n``: pairs with both verdicts."""

    first_rate: float
    disagree_frac: float
    n: int


def _present(preferences: Sequence[float | None]) -> np.ndarray:
    """The verdicts that are there. Raises ValueError for one outside [1, 2]."""
    present = np.array([p for p in preferences if p is not None], dtype=float)
    wrong = present[~((present >= 1) & (present <= 2))]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} preferences are outside [1, 2], for instance {wrong[0]}; 2 means that"
            " the model's answer is preferred, None that there is no verdict"
        )
    return present


def weighted_win_rate(preferences: Sequence[float | None]) -> WinRate:
    """AlpacaEval's weighted form: the mean of p - 1, and 100 std(ddof=1) / sqrt(n).

    With fewer than two verdicts the error is NaN, with none the rate is too.
    """
    present = _present(preferences)
    n = len(present)
    return WinRate(
        win_rate=float(100 * (present - 1).mean()) if n else float("nan"),
        standard_error=float(100 * present.std(ddof=1) / n**0.5) if n > 1 else float("nan"),
        n=n,
        n_missing=len(preferences) - n,
    )


def discrete_win_rate(
    preferences: Sequence[float | None], tie_rule: str = "half"
) -> DiscreteWinRate:
    """Verdicts as whole wins, ties (exactly 1.5) and losses.

    ``tie_rule``: a tie counts ``half`` (AlpacaEval's), as a ``loss`` (most likely the paper's), or
    is left out (``drop``).
    """
    if tie_rule not in TIE_RULES:
        raise ValueError(f"tie_rule={tie_rule!r}: it is one of {', '.join(TIE_RULES)}")
    present = _present(preferences)
    wins, ties = int((present > TIE).sum()), int((present == TIE).sum())
    losses = len(present) - wins - ties
    counted = wins + losses + (0 if tie_rule == "drop" else ties)
    score = wins + (ties / 2 if tie_rule == "half" else 0)
    rate = 100 * score / counted if counted else float("nan")
    return DiscreteWinRate(rate, tie_rule, wins, ties, losses, len(preferences) - len(present))


def bootstrap_interval(
    preferences: Sequence[float | None], seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """95 % percentile interval of the weighted win rate, in percent; resampling is seeded."""
    present = _present(preferences)
    if not len(present):
        return float("nan"), float("nan")
    return _interval(100 * (present - 1), seed, draws)


def _interval(values: np.ndarray, seed: int, draws: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    means = np.array(
        [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare_paired(
    one: Sequence[float | None], other: Sequence[float | None], seed: int = 0, draws: int = 10_000
) -> Comparison:
    """Preferences of two models against one baseline, instruction by instruction (same order).

    An instruction without a verdict on either side is left out. The p-value is that of the mean
    under random signs of the differences.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} preferences: they must be of the same pairs")
    _present(one), _present(other)
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        raise ValueError("no instruction has a verdict on both sides")
    differences = 100 * np.array([a - b for a, b in both])
    low, high = _interval(differences, seed, draws)
    generator = np.random.default_rng(seed)
    observed = abs(differences.mean())
    flips = generator.choice((-1.0, 1.0), (draws, len(differences)))
    extreme = (np.abs((flips * differences).mean(axis=1)) >= observed - 1e-12).sum()
    p_value = (1 + int(extreme)) / (1 + draws)
    return Comparison(float(differences.mean()), low, high, p_value, len(differences))


def order_effect(
    model_first: Sequence[float | None], base_first: Sequence[float | None]
) -> OrderEffect:
    """Position bias from both orders' preferences, pair by pair."""
    if len(model_first) != len(base_first):
        raise ValueError(f"{len(model_first)} and {len(base_first)} verdicts: one a pair and order")
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


def seeded_switch(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval's protocol shows the two outputs of an instruction swapped: the first
    draw of ``random.Random("is_switched_outputs" + instruction + seed)`` from [False, True]."""
    source = random.Random(f"is_switched_outputs{instruction}{seed}")
    return source.choices([False, True])[0]


def by_source(
    sources: Sequence[str],
    preferences: Sequence[float | None],
    rate: Callable[[Sequence[float | None]], object],
) -> dict[str, object]:
    """``rate`` of each source set, in the order of their names, and ``overall``."""
    if len(sources) != len(preferences):
        raise ValueError(f"{len(sources)} sources and {len(preferences)} preferences")
    groups = {
        source: [p for s, p in zip(sources, preferences, strict=True) if s == source]
        for source in sorted(set(sources))
    }
    return {name: rate(group) for name, group in groups.items()} | {"overall": rate(preferences)}
