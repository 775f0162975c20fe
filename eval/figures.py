"""``python -m eval.figures RUN [RUN …] figure=2``: the paper's figures from our runs.

    python -m eval.figures outputs/figure-2/* figure=2 paper=v1 benchmark=pocket

Runs must have been evaluated (``python -m eval run=…``), one of them with ``control=true`` too: a
copy of the base against itself is a bar and a line, for a rate means little without it. Runs of one
method and start are one bar, its seeds averaged. Bars are *discrete* win rates with ties as losses,
which the paper's bars look like (whole wins over n); intervals are 95 %, by a bootstrap over seeds
and instructions together. Written: figure-N.{png,pdf,csv}, figure-N-curves.{png,pdf}.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.bars import (
    COPY,
    LABELS,
    Bar,
    all_bars,
    by_bar,
    check_alike,
    check_current,
    paper_values,
    read_control,
)
from eval.compare import read_evaluation
from eval.win_rate import OVERALL
from lsp.errors import RunError
from lsp.run.folder import find_run
from lsp.settings.command import read_command
from lsp.tracking.reader import read_metrics

# Okabe and Ito's colours, told apart by colour-blind readers; hatches tell them apart in print.
COLOURS = {
    COPY: "#999999",
    "grpo": "#0072B2",
    "lsp_zero": "#E69F00",
    "lsp": "#009E73",
    "lsp_zero_from_grpo": "#F0C75E",
    "lsp_from_grpo": "#56B4E9",
    "grpo_from_lsp_zero": "#D55E00",
    "grpo_from_lsp": "#CC79A7",
}
HATCHES = dict(zip(LABELS, ("", "//", "..", "\\\\", "xx", "--", "oo", "++"), strict=True))
CURVES = {
    "reward/solver/mean": "Solver's reward",
    "reward/challenger/mean": "Challenger's reward",
    "quality/mean": "quality R_Q (0 to 7)",
    "kl/solver/k2": "KL of the Solver (k2)",
    "kl/challenger/k2": "KL of the Challenger (k2)",
    "rollout/query_length/mean": "query length (tokens)",
}


@dataclass
class FigureSettings:
    """``paper``: whose numbers stand beside ours. ``out``: the folder of what is written."""

    figure: int = 2
    paper: str = "v1"
    benchmark: str = "alpaca_eval"
    runs_root: str = "outputs"
    out: str = "outputs/figures"


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(FigureSettings, arguments)
        print(make_figures(names, settings))
    except RunError as error:
        sys.exit(f"error: {error}")


def make_figures(names: Sequence[str], settings: FigureSettings) -> str:
    """Draw and write; the text is for the reader. Raises RunError for runs that do not serve."""
    paper = paper_values(settings.paper, settings.figure)
    if not names:
        raise RunError("name the runs: python -m eval.figures RUN [RUN …] figure=2")
    folders = [find_run(name, settings.runs_root) for name in names]
    runs = by_bar(folders, settings.figure)
    evaluations = {
        bar: [read_evaluation(run / "eval" / settings.benchmark) for run in own]
        for bar, own in runs.items()
    }
    for bar, own in runs.items():
        for run, evaluation in zip(own, evaluations[bar], strict=True):
            check_current(run, evaluation)
    evaluations = {COPY: [read_control(folders, settings.benchmark)], **evaluations}
    check_alike([e for own in evaluations.values() for e in own])
    bars = all_bars(evaluations, paper)
    out = Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"out={out} cannot be made: {error}; name another folder") from error
    stem = out / f"figure-{settings.figure}"
    write_csv(stem.with_suffix(".csv"), bars)
    judge = evaluations[COPY][0].results["judge"]
    draw_bars(stem, bars, settings, judge)
    draw_curves(out / f"{stem.name}-curves", runs)
    return report(bars, stem, judge, settings)


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """One line a dataclass instance, its fields as columns; None is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(vars(rows[0])))
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in vars(row).items()} for row in rows)


def report(bars: Sequence[Bar], stem: Path, judge: str, settings: FigureSettings) -> str:
    lines = [f"discrete win rates, ties as losses, judged by {judge}; 95 % intervals"]
    for bar in bars:
        if bar.set == OVERALL or bar.paper is not None:
            lines.append(
                f"  {LABELS[bar.bar]:<20} {bar.set:<13} {bar.win_rate:5.1f}"
                f" [{bar.low:.1f}, {bar.high:.1f}], {bar.seeds} seeds, n {bar.n}; {bar.verdict}"
            )
    lines.append(caution(settings))
    lines += [f"{stem}.png, .pdf, .csv", f"{stem}-curves.png, .pdf"]
    return "\n".join(lines)


def caution(settings: FigureSettings) -> str:
    """What must be said beside the paper's numbers."""
    text = "Paper: at n = 805 one standard error is 1.7 points"
    if settings.paper == "v1":
        text += ", so 40.1, 40.6 and 40.9 cannot be told apart; its v1 is known second-hand."
    else:
        text += "; which bar of v3 belongs to which set is inferred."
    if settings.benchmark == "pocket":
        text += " The pocket world is another task: compare orders, not heights."
    return text


def draw_bars(stem: Path, bars: Sequence[Bar], settings: FigureSettings, judge: str) -> None:
    pyplot = _pyplot()
    sets = list(dict.fromkeys(bar.set for bar in bars))
    kinds = list(dict.fromkeys(bar.bar for bar in bars))
    width = 0.8 / len(kinds)
    size = (max(7.0, 1.5 * len(sets)), 4.4)
    figure, axis = pyplot.subplots(figsize=size, layout="constrained")
    for number, kind in enumerate(kinds):
        own = [bar for bar in bars if bar.bar == kind]
        xs = np.arange(len(own)) + (number - (len(kinds) - 1) / 2) * width
        heights = [bar.win_rate for bar in own]
        below = [max(0.0, bar.win_rate - bar.low) for bar in own]
        above = [max(0.0, bar.high - bar.win_rate) for bar in own]
        axis.bar(xs, heights, width, color=COLOURS[kind], edgecolor="black", linewidth=0.6,
                 hatch=HATCHES[kind], label=LABELS[kind])  # fmt: skip
        axis.errorbar(xs, heights, yerr=[below, above], fmt="none", ecolor="black",
                      elinewidth=1, capsize=2)  # fmt: skip
        known = [(x, bar.paper) for x, bar in zip(xs, own, strict=True) if bar.paper is not None]
        if known:
            axis.plot(*zip(*known, strict=True), "D", color="white", markeredgecolor="black",
                      markersize=5, zorder=4)  # fmt: skip
    copy = next(bar.win_rate for bar in bars if bar.bar == COPY and bar.set == OVERALL)
    axis.axhline(copy, color="black", linestyle=":", linewidth=1, label="that copy, overall")
    if any(bar.paper is not None for bar in bars):
        axis.plot([], [], "D", color="white", markeredgecolor="black",
                  label=f"paper, {settings.paper}")  # fmt: skip
    axis.set_xticks(range(len(sets)), sets)
    axis.set_ylabel("win rate against the base (%)")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"Figure {settings.figure}: discrete wins, ties as losses; judge: {judge}",
                   fontsize=10)  # fmt: skip
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] not in LABELS.values())
    axis.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    figure.supxlabel(caution(settings), fontsize=8)
    _save(figure, stem)


def draw_curves(stem: Path, runs: dict[str, list[Path]]) -> None:
    """Training curves: mean over a bar's seeds, the band from the lowest to the highest seed."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), sharex=True, layout="constrained")
    for axis, (key, title) in zip(axes.flat, CURVES.items(), strict=True):
        for bar, folders in runs.items():
            steps, values = seed_curves(folders, key)
            if not len(steps):
                continue
            axis.plot(steps, np.nanmean(values, axis=0), color=COLOURS[bar], label=LABELS[bar])
            if len(folders) > 1:
                axis.fill_between(steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0),
                                  color=COLOURS[bar], alpha=0.2, linewidth=0)  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    _save(figure, stem)


def seed_curves(folders: Sequence[Path], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps that any run has the metric at, [runs, steps] with NaN where one lacks it)."""
    series = [
        {line["step"]: line[key] for line in read_metrics(folder) if line.get(key) is not None}
        for folder in folders
    ]
    steps = sorted(set().union(*series))
    values = [[own.get(step, math.nan) for step in steps] for own in series]
    return np.array(steps), np.array(values, dtype=float)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, stem: Path) -> None:
    for suffix in (".png", ".pdf"):
        figure.savefig(stem.with_suffix(suffix), dpi=130)
    _pyplot().close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
