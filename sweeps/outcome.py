"""A sweep's points and the folders of their runs go in; how each ended and what its values came to
come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from lsp.report.claims import Estimate, estimate, holm, verdict
from lsp.run.folder import outcome, read_run
from lsp.tools.text import visible
from lsp.tracking.reader import RUN_FILE, SUMMARY, read_summary
from sweeps.space import Point, Sweep, hydra_value


class Ended(NamedTuple):
    """One run. ``value``: of the sweep's metric, None where it has none; ``reason``: why not."""

    point: Point
    folder: Path
    value: float | None
    status: str
    reason: str


@dataclass(frozen=True)
class Cell:
    """All runs of one combination of swept values. ``values``: as texts, one a swept setting."""

    values: tuple[str, ...]
    runs: tuple[Ended, ...]

    @property
    def by_seed(self) -> dict[Any, list[float]]:
        return {run.point.get("seed"): [run.value] for run in self.runs if run.value is not None}

    @property
    def mean(self) -> float | None:
        found = self.by_seed
        return mean(value for (value,) in found.values()) if found else None

    @property
    def over_seeds(self) -> Estimate | None:
        """The mean's interval; None of fewer than two seeds."""
        return estimate(self.by_seed) if len(self.by_seed) > 1 else None


def ended(sweep: Sweep, point: Point, folder: Path, failure: str | None = None) -> Ended:
    """``failure``: what the run's process said last, where it failed."""
    if failure is not None:
        return Ended(point, folder, None, "failed", visible(failure, 600))
    if not (folder / RUN_FILE).is_file():
        return Ended(point, folder, None, "not started", "")
    status, reason = outcome(folder, read_run(folder))
    if status != "finished":
        return Ended(point, folder, None, status, reason)
    value = (
        read_summary(folder).get(f"last/{sweep.metric}") if (folder / SUMMARY).is_file() else None
    )
    return Ended(point, folder, value, status, "" if value is not None else f"no {sweep.metric}")


def cells(sweep: Sweep, runs: Sequence[Ended]) -> list[Cell]:
    """In the order of the points."""
    found: dict[tuple[str, ...], list[Ended]] = {}
    for run in runs:
        values = tuple(text_of(run.point[name]) for name in sweep.settings)
        found.setdefault(values, []).append(run)
    return [Cell(values, tuple(own)) for values, own in found.items()]


def text_of(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else hydra_value(value)


def best(sweep: Sweep, all_cells: Sequence[Cell]) -> Cell | None:
    """By the mean over seeds; None where no run has the metric."""
    measured = [cell for cell in all_cells if cell.mean is not None]
    pick = min if sweep.goal == "minimize" else max
    return pick(measured, key=lambda cell: cell.mean or 0.0) if measured else None


def against(first: Cell, others: Sequence[Cell]) -> Mapping[tuple[str, ...], str]:
    """Values of each other cell that shares two seeds or more with ``first`` -> whether first is
    ``better`` (higher in the metric), ``worse`` (lower) or that is ``not shown``: paired by seed,
    corrected by Holm."""
    found = {}
    for cell in others:
        ours, theirs = first.by_seed, cell.by_seed
        pairs = {seed: [ours[seed][0] - theirs[seed][0]] for seed in ours if seed in theirs}
        if cell is not first and len(pairs) > 1:
            found[cell.values] = estimate(pairs)
    corrected = holm([one.p for one in found.values()])
    return {
        values: verdict(one, p) for (values, one), p in zip(found.items(), corrected, strict=True)
    }


def sentence(sweep: Sweep, all_cells: Sequence[Cell]) -> str:
    """Which values came out best, in one sentence."""
    first = best(sweep, all_cells)
    if first is None:
        return f"No outcome: no run has {sweep.metric}."
    word = "lowest" if sweep.goal == "minimize" else "highest"
    named = zip(sweep.settings, first.values, strict=True)
    values = ", ".join(f"{name}={value}" for name, value in named) or "the only point"
    text = f"{sweep.metric} is {word} with {values}: {first.mean:.4f}"
    if interval := first.over_seeds:
        ends = f"{interval.low:.4f} to {interval.high:.4f}"
        text += f" (95 % interval {ends}, over {interval.units} seeds)"
    if len(first.by_seed) < len(first.runs):
        text += f", by {len(first.by_seed)} of its {len(first.runs)} runs"
    return f"{text}."


def conditions(sweep: Sweep, all_cells: Sequence[Cell]) -> list[str]:
    """What that holds under, in sentences."""
    first = best(sweep, all_cells)
    if first is None or len(all_cells) < 2:
        return []
    said = against(first, all_cells)
    if not said:
        return [
            "No other point has two seeds in common with it, so that what differs may be chance;"
            " with several seeds of each (seed: {values: [0, 1, 2]}) there is an interval."
        ]
    wanted = "worse" if sweep.goal == "minimize" else "better"
    shown = sum(word == wanted for word in said.values())
    return [
        f"That it is {'lower' if wanted == 'worse' else 'higher'} is shown against {shown} of"
        f" {len(said)} others (paired by seed, corrected by Holm). It was picked as the best of"
        " these same runs, which flatters it: new seeds of the best few tell more."
    ]
