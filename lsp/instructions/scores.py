"""Verdicts on answers go in, shares with their standard errors and paired differences come out.

Verdicts come in groups, one a prompt: of each of its constraints True, False, or None where there
is no verdict. Shares, errors and differences are in percent. None is left out and counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Verdict = bool | None
Groups = Sequence[Sequence[Verdict]]
NORMAL_95 = 1.959964  # standard errors to either side


@dataclass(frozen=True)
class Share:
    """``percent`` of the ``n`` verdicts are True; ``n_missing`` more are None."""

    percent: float
    standard_error: float
    n: int
    n_missing: int


@dataclass(frozen=True)
class Difference:
    """Mean ``difference`` in percentage points over the ``n`` verdicts that both sides have, and
    its 95 % interval from ``low`` to ``high``."""

    difference: float
    low: float
    high: float
    n: int


def share(groups: Groups) -> Share:
    """Verdicts of one group move together, so the error is one between groups; with one verdict a
    group it is the usual std(ddof=1) / sqrt(n). NaN of fewer than two groups."""
    present = [[float(v) for v in group if v is not None] for group in groups]
    mean, error, n = _mean(present)
    return Share(100 * mean, 100 * error, n, sum(map(len, groups)) - n)


def difference(ours: Groups, theirs: Groups) -> Difference:
    """Ours minus theirs, verdict by verdict; where either side has none it is left out."""
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(ours, theirs, strict=True)]
    present = [
        [float(a) - float(b) for a, b in group if a is not None and b is not None]
        for group in pairs
    ]
    mean, error, n = _mean(present)
    low, high = mean - NORMAL_95 * error, mean + NORMAL_95 * error
    return Difference(100 * mean, 100 * low, 100 * high, n)


def of_prompts(groups: Groups) -> list[list[Verdict]]:
    """One verdict a prompt: whether all of its constraints are followed."""
    return [[joint(group)] for group in groups]


def joint(verdicts: Sequence[Verdict]) -> Verdict:
    """Of all: False where one is False, whatever the others are; None where one is missing."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def ifeval_number(strict: Groups) -> float:
    """The one number that model cards print, and ``base/ifeval`` and ``final/ifeval`` of a run's
    summary are: the mean of prompt and instruction level, strict, in percent."""
    return (share(of_prompts(strict)).percent + share(strict).percent) / 2


def _mean(groups: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """(mean of all values, its standard error between groups, number of values). A ratio's error,
    linearised: the residuals of a group are summed before they are squared."""
    filled = [np.array(group) for group in groups if group]
    n, count = sum(map(len, filled)), len(filled)
    if not n:
        return math.nan, math.nan, 0
    mean = float(np.concatenate(filled).mean())
    if count < 2:
        return mean, math.nan, n
    residuals = np.array([(group - mean).sum() for group in filled])
    return mean, float(np.sqrt(count / (count - 1) * (residuals**2).sum())) / n, n
