"""``benchmark=judge_check``: published verdicts go in, how far a judge agrees with them comes out.

AlpacaEval publishes its judges' verdicts as ``annotations.json`` beside each model's results; human
verdicts in the same columns do as well. Measures are pure functions of two lists of preferences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.answers import local_file
from eval.contracts import EvaluationContext, MeasurementSettings
from eval.types import Pair
from eval.win_rate import TIE
from lsp.errors import RunError
from lsp.settings.schema import setting, settings
from lsp.tools.rows import read_rows
from lsp.tools.text import text_table


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
    data: str | None = setting("a file of rows with published verdicts")
    max_pairs: int | None = setting("the first so many; null: all", ge=1, le=10_000_000)

    def build(self, context: EvaluationContext) -> Published:
        """Raises RunError for a file that lacks a column or holds no usable pair."""
        if self.data is None:
            needs = "benchmark.data=<file of published verdicts>"
            raise RunError(f"benchmark=judge_check needs {needs}")
        pairs, preferences, identical, missing = [], [], 0, 0
        for row in read_rows(local_file(self.data)):
            instruction = row.text("instruction", may_be_empty=True)
            outputs = [row.text(name, may_be_empty=True) for name in ("output_2", "output_1")]
            preference = row.number("preference")
            if preference is None:
                missing += 1
            elif not 1 <= preference <= 2:
                scale = "[1, 2]; 1.5 is a tie (0 in old files), null no verdict"
                raise RunError(f"{row.place}: preference={preference:g} is not in {scale}")
            elif outputs[0] == outputs[1]:
                identical += 1
            else:
                source = str(row.get("dataset", "all"))
                pairs.append(Pair(len(pairs), source, instruction, *outputs))
                preferences.append(preference)
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


def agreement(judged: Sequence[float | None], published: Sequence[float]) -> Agreement:
    """Agreement over wins, ties and losses, and J. Cohen's kappa (1960): (p_o - p_e) / (1 - p_e),
    p_e from each judge's own shares."""
    pairs = zip(judged, published, strict=True)
    # 1 a win, 0 a tie, -1 a loss
    outcomes = np.sign([(one - TIE, other - TIE) for one, other in pairs if one is not None])
    n = len(outcomes)
    if not n:
        return Agreement(math.nan, math.nan, 0, len(judged))
    observed = float((outcomes[:, 0] == outcomes[:, 1]).mean())
    shares = np.array([(outcomes == kind).mean(axis=0) for kind in (1, 0, -1)])
    expected = float(shares.prod(axis=1).sum())
    kappa = (observed - expected) / (1 - expected) if expected < 1 else math.nan
    return Agreement(100 * observed, kappa, n, len(judged) - n)


def longer_rate(pairs: Sequence[Pair], preferences: Sequence[float | None]) -> float:
    """Percent of choices between answers of other lengths that are the longer one; NaN of none."""
    prefers_longer = [
        (preference > TIE) == (len(pair.model_output) > len(pair.base_output))
        for pair, preference in zip(pairs, preferences, strict=True)
        if preference not in (None, TIE) and len(pair.model_output) != len(pair.base_output)
    ]
    return 100 * sum(prefers_longer) / len(prefers_longer) if prefers_longer else math.nan


def check_table(results: dict[str, Any]) -> str:
    """The results of ``benchmark=judge_check`` for a reader."""
    rows = [["set", "agreement", "kappa", "n"]]
    for source, rate in results["agreement"].items():
        rows.append([source, f"{rate['agreement']:.1f}%", f"{rate['kappa']:.2f}", str(rate["n"])])
    effect, longer = results["order_effect"], results["longer_rate"]
    lines = [
        f"{results['judge']} against {results['data']}, {results['date']}, order"
        f" {results['order']}, template {results['template']}",
        text_table(rows),
        f"prefers the longer answer in {longer['judge']:.1f} % of its choices;"
        f" published verdicts do in {longer['published']:.1f} %",
        f"prefers the answer shown first in {effect['first_rate']:.1f} %; orders disagree on"
        f" {100 * effect['disagree_frac']:.1f} % of {effect['n']} pairs",
        f"{results['n_missing']} pairs have no verdict of this judge; left out beforehand:"
        f" {results['n_identical']} identical pairs, {results['n_unpublished']} without a published"
        " verdict",
    ]
    return "\n".join(lines)
