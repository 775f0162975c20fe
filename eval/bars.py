"""Which runs make which bar of the paper's figures, and what each bar comes to."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eval.compare import SAME, Evaluation, read_evaluation
from eval.win_rate import OVERALL, to_discrete
from lsp.errors import RunError
from lsp.run.checkpoint import newest_checkpoint
from lsp.run.folder import read_run
from lsp.settings.schema import flat_tree

PAPER = Path(__file__).with_name("paper.csv")
COPY = "base"
FIGURES = {
    2: (COPY, "grpo", "lsp_zero", "lsp"),
    3: (COPY, "grpo", "lsp_zero_from_grpo", "lsp_from_grpo", "grpo_from_lsp_zero", "grpo_from_lsp"),
}
LABELS = {
    COPY: "base, a second copy",
    "grpo": "GRPO",
    "lsp_zero": "LSP-Zero",
    "lsp": "LSP",
    "lsp_zero_from_grpo": "LSP-Zero from GRPO",
    "lsp_from_grpo": "LSP from GRPO",
    "grpo_from_lsp_zero": "GRPO from LSP-Zero",
    "grpo_from_lsp": "GRPO from LSP",
}
DRAWS = 4000
FREE = ("seed", "run_", "runs_root", "resume", "init.run", "tracker.", "eval", "checkpoint.")
"""Settings that may differ between the runs of one bar."""


@dataclass(frozen=True)
class Bar:
    """One bar of one set: percent, its interval, what it rests on, and the paper's value with how
    it was read (None where it is not known)."""

    set: str
    bar: str
    win_rate: float
    low: float
    high: float
    seeds: int
    n: int
    n_missing: int
    paper: float | None
    reading: str | None

    @property
    def verdict(self) -> str:
        if self.paper is None:
            return "the paper's value is not known"
        place = "inside" if self.low <= self.paper <= self.high else "outside"
        return f"the paper's {self.paper:g} ({self.reading}) lies {place} our interval"


def paper_values(version: str, figure: int) -> dict[tuple[str, str], tuple[float, str]]:
    """(bar, set) -> (percent, how it was read) of one version of the paper. Raises RunError for a
    figure or a version that is not there."""
    if figure not in FIGURES:
        raise RunError(f"figure={figure}: the paper has figures 2 and 3")
    with PAPER.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if version not in {row["version"] for row in rows}:
        raise RunError(f"paper={version}: the versions with numbers are v1 and v3")
    return {
        (row["bar"], row["set"]): (float(row["win_rate"]), row["reading"])
        for row in rows
        if row["version"] == version and row["figure"] == str(figure)
    }


def bar_of(run: dict[str, Any]) -> str:
    """Which bar a run belongs to: its method, and the method of the run it started from."""
    earlier = run["init"]["method"]
    return run["method"] if earlier is None else f"{run['method']}_from_{earlier}"


def by_bar(folders: Sequence[Path], figure: int) -> dict[str, list[Path]]:
    """Run folders of each bar of the figure, in its order. Raises RunError for a run of no bar, and
    for runs of one bar that are not the same but for their seeds."""
    found: dict[str, list[Path]] = {}
    seeds: dict[tuple[str, int], Path] = {}
    for folder in folders:
        run = read_run(folder)
        bar = bar_of(run)
        if bar not in FIGURES[figure]:
            raise RunError(
                f"{folder} is {LABELS.get(bar, bar)}, no bar of figure {figure}; its bars are"
                f" {', '.join(LABELS[name] for name in FIGURES[figure])}"
            )
        first = found.setdefault(bar, [folder])[0]
        twin = seeds.setdefault((bar, run["seed"]), folder)
        if twin is not folder:
            raise RunError(f"{twin} and {folder} are both {LABELS[bar]} of seed {run['seed']}")
        if differ := differences(first, folder):
            raise RunError(
                f"{first} and {folder} are both {LABELS[bar]}, and differ in {', '.join(differ)}:"
                " only seeds are averaged"
            )
        if first is not folder:
            found[bar].append(folder)
    return {bar: found[bar] for bar in FIGURES[figure] if bar in found}


def differences(one: Path, other: Path) -> list[str]:
    """Settings in which two runs differ, but for seeds, names and what does not touch training."""
    trees = [
        yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in (one, other)
    ]
    flat = [flat_tree(tree) for tree in trees]
    return sorted(
        key
        for key in flat[0].keys() | flat[1].keys()
        if flat[0].get(key) != flat[1].get(key) and not key.startswith(FREE)
    )


def check_current(run: Path, evaluation: Evaluation) -> None:
    """Raises RunError where the run has gone on since it was evaluated."""
    newest = newest_checkpoint(run).name
    if Path(evaluation.results["checkpoint"]).name != newest:
        raise RunError(
            f"{evaluation.folder} is of {Path(evaluation.results['checkpoint']).name}, and {run} is"
            f" at {newest}; evaluate it again"
        )


def read_control(folders: Sequence[Path], benchmark: str) -> Evaluation:
    """The base against a second copy of itself, from the first run that has it."""
    for folder in folders:
        place = folder / "eval" / benchmark / "control"
        if (place / "results.json").is_file():
            return read_evaluation(place)
    raise RunError(
        "no run has the control that the bars are read against, the base against a second sample"
        f" of itself; make it with `python -m eval run={folders[0]} eval={benchmark} control=true`"
    )


def check_alike(evaluations: Sequence[Evaluation]) -> None:
    """Raises RunError where judge, baseline or instructions differ."""
    first = evaluations[0]
    instructions = [row["instruction"] for row in first.rows]
    for other in evaluations[1:]:
        for key in (*SAME, "baseline_answers"):
            if other.results[key] != first.results[key]:
                raise RunError(
                    f"{other.folder} has {key}={other.results[key]}, and {first.folder}"
                    f" {key}={first.results[key]}: their bars cannot stand side by side"
                )
        if [row["instruction"] for row in other.rows] != instructions:
            raise RunError(f"{other.folder} is of other instructions than {first.folder}")


def all_bars(
    evaluations: dict[str, list[Evaluation]], paper: dict[tuple[str, str], tuple[float, str]]
) -> list[Bar]:
    """Overall first, then the sets in the order of their names."""
    first = next(iter(evaluations.values()))[0]
    sources = [row["dataset"] for row in first.rows]
    bars = []
    for source in [OVERALL, *sorted(set(sources))]:
        rows = [i for i, own in enumerate(sources) if source in (OVERALL, own)]
        for bar, own in evaluations.items():
            wins = np.array([win_values(evaluation) for evaluation in own])[:, rows]
            low, high = interval(wins)
            known = paper.get((bar, source), (None, None))
            missing = int(np.isnan(wins).sum())
            rate = float(np.nanmean(wins)) if missing < wins.size else math.nan
            bars.append(
                Bar(source, bar, rate, low, high, len(own),
                    wins.size - missing, missing, *known)
            )  # fmt: skip
    return bars


def win_values(evaluation: Evaluation) -> list[float]:
    """[n], 100 for a win, 0 for a loss or a tie, NaN without a verdict."""
    counted = to_discrete([row["preference"] for row in evaluation.rows], "loss")
    return [math.nan if value is None else 100 * (value - 1) for value in counted]


def interval(wins: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of [seeds, n] by drawing seeds and instructions anew, each on its
    own; with one seed it is over instructions alone."""
    if np.isnan(wins).all():
        return math.nan, math.nan
    seeds, n = wins.shape
    generator = np.random.default_rng(seed)
    there = ~np.isnan(wins)
    filled = np.where(there, wins, 0.0)
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    row_counts = generator.multinomial(n, np.full(n, 1 / n), DRAWS)
    total = ((seed_counts @ filled) * row_counts).sum(axis=1)
    count = ((seed_counts @ there) * row_counts).sum(axis=1)
    low, high = np.percentile(total[count > 0] / count[count > 0], [2.5, 97.5])
    return float(low), float(high)
