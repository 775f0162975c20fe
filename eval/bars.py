"""Run folders go in, the bars of the paper's figures come out."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare import Evaluation, read_evaluation
from eval.win_rate import OVERALL, mean_interval, to_discrete
from lsp.errors import RunError
from lsp.files import read_csv
from lsp.run.checkpoint import newest_checkpoint
from lsp.run.commands import path_word
from lsp.run.folder import read_run, saved_tree
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
    """(bar, set) -> (percent, how it was read) of one version of the paper."""
    return {
        (row["bar"], row["set"]): (float(row["win_rate"]), row["reading"])
        for row in read_csv(PAPER)
        if row["version"] == version and row["figure"] == str(figure)
    }


def bar_of(run: Mapping[str, Any]) -> str:
    """Which bar a run belongs to: its method, and the method of the run it started from."""
    earlier = run["init"]["method"]
    return run["method"] if earlier is None else f"{run['method']}_from_{earlier}"


def by_bar(folders: Sequence[Path], figure: int) -> dict[str, list[Path]]:
    """Run folders of each bar of the figure, in its order. Raises RunError for a run of no bar, and
    for runs of one bar that are not the same but for their seeds."""
    bars: dict[str, list[Path]] = {bar: [] for bar in FIGURES[figure]}
    seeds: dict[tuple[str, int], Path] = {}
    for folder in folders:
        run = read_run(folder)
        bar = bar_of(run)
        label = LABELS.get(bar, bar)
        if bar not in bars:
            labels = ", ".join(LABELS[name] for name in bars)
            raise RunError(f"{folder} is {label}, no bar of figure {figure}; its bars are {labels}")
        if twin := seeds.get((bar, run["seed"])):
            raise RunError(f"{twin} and {folder} are both {label} of seed {run['seed']}")
        first = (bars[bar] or [folder])[0]
        one, other = flat_tree(saved_tree(first)), flat_tree(saved_tree(folder))
        differ = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
        if differ := [key for key in differ if not key.startswith(FREE)]:
            problem = f"are both {label}, and differ in {', '.join(differ)}"
            raise RunError(f"{first} and {folder} {problem}: only seeds are averaged")
        seeds[bar, run["seed"]] = folder
        bars[bar].append(folder)
    return {bar: runs for bar, runs in bars.items() if runs}


def read_evaluations(
    bars: Mapping[str, Sequence[Path]], benchmark: str, folders: Sequence[Path]
) -> dict[str, list[Evaluation]]:
    """Those of each bar's runs. Before them the base against a second copy of itself, from the
    first of ``folders`` that has it. Raises RunError where a run has gone on since."""
    evaluations: dict[str, list[Evaluation]] = {COPY: []}
    for bar, runs in bars.items():
        evaluations[bar] = [read_evaluation(run / "eval" / benchmark) for run in runs]
        for run, evaluation in zip(runs, evaluations[bar], strict=True):
            checkpoint, newest = Path(evaluation.results["checkpoint"]), newest_checkpoint(run)
            if checkpoint.name != newest.name:
                problem = f"is of {checkpoint.name}, and {run} is at {newest.name}"
                raise RunError(f"{evaluation.folder} {problem}; evaluate it again")
    controls = [folder / "eval" / benchmark / "control" for folder in folders]
    control = next((place for place in controls if (place / "results.json").is_file()), None)
    if control is None:
        run = shlex.quote(path_word("run", folders[0]))
        make = f"make it with `python -m eval {run} benchmark={benchmark} control=true`"
        problem = "no run has the control that the bars are read against"
        raise RunError(f"{problem}, the base against a second sample of itself; {make}")
    return evaluations | {COPY: [read_evaluation(control)]}


def all_bars(
    evaluations: Mapping[str, Sequence[Evaluation]],
    paper: Mapping[tuple[str, str], tuple[float, str]],
) -> list[Bar]:
    """Overall first, then the sets in the order of their names."""
    sources = np.array(next(iter(evaluations.values()))[0].column("dataset"))
    wins = {bar: np.array([win_values(e) for e in runs]) for bar, runs in evaluations.items()}
    bars = []
    for source in [OVERALL, *sorted(set(sources.tolist()))]:
        for bar, table in wins.items():
            of_set = table[:, (sources == source) | (source == OVERALL)]
            present = of_set[~np.isnan(of_set)]
            rate = float(present.mean()) if present.size else math.nan
            counts = len(of_set), present.size, of_set.size - present.size
            value = paper.get((bar, source), (None, None))
            bars.append(Bar(source, bar, rate, *mean_interval(of_set), *counts, *value))
    return bars


def win_values(evaluation: Evaluation) -> list[float]:
    """[n], 100 for a win, 0 for a loss or a tie, NaN without a verdict."""
    counted = np.array(to_discrete(evaluation.column("preference"), "loss"), dtype=float)
    return (100 * (counted - 1)).tolist()
