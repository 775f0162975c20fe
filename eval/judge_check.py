"""``benchmark=judge_check``: published verdicts go in, how far a judge agrees with them comes out.

AlpacaEval publishes its judges' verdicts as ``annotations.json`` beside each model's results; human
verdicts in the same columns do as well. Measures are pure functions of two lists of preferences.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers import read_rows
from eval.contracts import EvaluationContext, MeasurementSettings
from eval.types import Pair
from eval.win_rate import TIE
from lsp.errors import RunError
from lsp.settings.schema import setting, settings


@dataclass(frozen=True)
class Published:
    """Pairs (output_2 as the model's, output_1 as the baseline's) and what was published of them;
    ``n_identical`` and ``n_missing`` rows are left out."""

    pairs: list[Pair]
    preferences: list[float]
    n_identical: int
    n_missing: int


@settings
class JudgeCheck(MeasurementSettings):
    """A judge is measured, on rows of instruction, output_1, output_2 and the published preference
    ([1, 2], 2 where output_2 is preferred, null where there is no verdict)."""

    measures = "judge"
    name: str = setting("of the check; results go to <runs_root>/eval/<name>/<judge>/")
    data: str | None = setting("a .json or .jsonl file of published verdicts")
    max_pairs: int | None = setting("the first so many; null: all", ge=1, le=10_000_000)

    def build(self, context: EvaluationContext) -> Published:
        """Raises RunError for a file that lacks a column or holds no usable pair."""
        if self.data is None:
            raise RunError(
                "benchmark=judge_check needs benchmark.data=<file of published verdicts>"
            )
        rows = read_rows(Path(self.data))
        pairs, preferences, identical, missing = [], [], 0, 0
        for row_number, row in enumerate(rows):
            for column in ("instruction", "output_1", "output_2"):
                if not isinstance(row.get(column), str):
                    raise RunError(f"{self.data}: row {row_number} lacks text in {column!r}")
            preference = row.get("preference")
            if preference is None:
                missing += 1
                continue
            if not isinstance(preference, (int, float)) or not 1 <= preference <= 2:
                raise RunError(
                    f"{self.data}: preference={preference!r} in row {row_number} is not in [1, 2];"
                    " 1.5 is a tie (0 in old files), null no verdict"
                )
            if row["output_1"] == row["output_2"]:
                identical += 1
                continue
            source = str(row.get("dataset", "all"))
            texts = (row["instruction"], row["output_2"], row["output_1"])
            pairs.append(Pair(len(pairs), source, *texts))
            preferences.append(float(preference))
        if not pairs:
            raise RunError(f"{self.data} holds no pair of different answers with a verdict")
        return Published(pairs[: self.max_pairs], preferences[: self.max_pairs], identical, missing)


@dataclass(frozen=True)
class Agreement:
    """``agreement``: percent of the ``n`` pairs with both verdicts whose outcomes (win, tie, loss)
    are the same. ``kappa``: Cohen's, 1 for perfect, 0 for what chance gives; NaN where both judges
    always say one thing."""

    agreement: float
    kappa: float
    n: int
    n_missing: int


def outcome(preference: float) -> str:
    return "tie" if preference == TIE else "win" if preference > TIE else "loss"


def agreement(judged: Sequence[float | None], published: Sequence[float]) -> Agreement:
    """Agreement over wins, ties and losses, and J. Cohen's kappa (1960): (p_o - p_e) / (1 - p_e),
    p_e from each judge's own shares."""
    both = [
        (outcome(one), outcome(other))
        for one, other in zip(judged, published, strict=True)
        if one is not None
    ]
    n = len(both)
    if not n:
        return Agreement(math.nan, math.nan, 0, len(judged))
    observed = sum(one == other for one, other in both) / n
    judge_counts, published_counts = (
        Counter(one for one, _ in both),
        Counter(other for _, other in both),
    )
    expected = sum(judge_counts[kind] * published_counts[kind] for kind in judge_counts) / n**2
    kappa = (observed - expected) / (1 - expected) if expected < 1 else math.nan
    return Agreement(100 * observed, kappa, n, len(judged) - n)


def longer_rate(pairs: Sequence[Pair], preferences: Sequence[float | None]) -> float:
    """Percent of the verdicts that are no tie, over answers of different length, that prefer the
    longer one; NaN without any."""
    chosen = [
        (preference > TIE) == (len(pair.model_output) > len(pair.base_output))
        for pair, preference in zip(pairs, preferences, strict=True)
        if preference not in (None, TIE) and len(pair.model_output) != len(pair.base_output)
    ]
    return 100 * sum(chosen) / len(chosen) if chosen else math.nan


def check_table(results: dict[str, Any]) -> str:
    """The results of ``benchmark=judge_check`` for a reader."""
    lines = [
        f"{results['judge']} against {results['data']}, {results['date']}, order"
        f" {results['order']}, template {results['template']}",
        f"{'set':<16}{'agreement':>10}{'kappa':>8}{'n':>6}",
    ]
    for source, rate in results["agreement"].items():
        lines.append(f"{source:<16}{rate['agreement']:>9.1f}%{rate['kappa']:>8.2f}{rate['n']:>6}")
    effect = results["order_effect"]
    lines += [
        f"prefers the longer answer in {results['longer_rate']['judge']:.1f} % of its choices;"
        f" published verdicts do in {results['longer_rate']['published']:.1f} %",
        f"prefers the answer shown first in {effect['first_rate']:.1f} %; orders disagree on"
        f" {100 * effect['disagree_frac']:.1f} % of {effect['n']} pairs",
        f"{results['n_missing']} pairs have no verdict of this judge; left out beforehand:"
        f" {results['n_identical']} identical pairs, {results['n_unpublished']} without a published"
        " verdict",
        f"{results['usd_now']:.2f} dollars now, {results['calls_ever']} calls ever",
    ]
    return "\n".join(lines)
