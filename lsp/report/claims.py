"""Differences by base or prompt go in, estimates, corrected p-values and what may be said come out.

Seeds that share a base are not independent: the difference of two methods has a part of its own in
each base. With the same number of seeds in each, the mean over a base's seeds is all that a base
tells, so the interval is Student's over the bases' means: that of a random-effects model, exact
where the parts are normal (tests/lsp/report/test_claims.py simulates it, also where they are not).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

Differences = Mapping[int, Sequence[float]]
"""Base -> the difference of two methods for each of its seeds."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference over units (bases, seeds or prompts), its 95 % interval, the two-sided
    p-value of Student's test, and in how many of the units it is positive."""

    mean: float
    low: float
    high: float
    p: float
    positive: int
    units: int


def estimate(differences: Differences) -> Estimate:
    """Raises ValueError with fewer than two units, which tell nothing of the others."""
    from scipy import stats  # half a second, which `--help` need not wait for

    if len(differences) < 2:
        raise ValueError(f"{len(differences)} units: an interval over them needs two or more")
    means = np.array([mean(values) for values in differences.values()])
    center, error = float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5)
    positive = int((means > 0).sum())
    if error == 0:
        p = float(center == 0)
        return Estimate(center, center, center, p, positive, len(means))
    student = stats.t(len(means) - 1)
    reach, p = float(student.ppf(0.975)) * error, float(2 * student.sf(abs(center) / error))
    return Estimate(center, center - reach, center + reach, p, positive, len(means))


def paired(differences: Sequence[float], weights: Sequence[float]) -> Estimate:
    """Of two models on the same prompts, one difference a prompt; ``weights`` sum to 1. The error
    of the weighted mean is the linearised one (each prompt's part of it, n w (d - mean)), which of
    equal weights is the usual one. Raises ValueError with fewer than two prompts."""
    values, shares = np.array(differences), np.array(weights)
    mean = float((shares * values).sum())
    parts = mean + len(values) * shares * (values - mean)
    found = estimate({i: [part] for i, part in enumerate(parts.tolist())})
    return replace(found, mean=mean, positive=int((values > 0).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values of one family (Holm, Scandinavian Journal of Statistics 1979): the k-th
    smallest of n times n - k + 1, never below the one before, at most 1."""
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[i]))
        corrected[i] = largest
    return corrected


def verdict(estimate: Estimate, corrected_p: float) -> str:
    """What may be said at 5 % within the family."""
    if corrected_p >= 0.05:
        return "not shown"
    return "better" if estimate.mean > 0 else "worse"
