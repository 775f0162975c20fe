"""``lsp figures RUN [RUN …] figure=2``: evaluated runs in, the paper's figures out.

    lsp figures outputs/figure-2/* figure=2 paper=v1 benchmark=pocket

Runs must have been evaluated (``lsp eval run=…``), one of them with ``control=true`` too: a
copy of the base against itself is a bar and a line, for a rate means little without it. Runs of one
method and start are one bar, its seeds averaged. Bars are *discrete* win rates with ties as losses,
which the paper's bars look like (whole wins over n); intervals are 95 %, by a bootstrap over seeds
and instructions together. Written: figure-N.{png,pdf,csv}, figure-N-curves.{png,pdf}.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from eval.bars import COPY, LABELS, Bar, all_bars, by_bar, paper_values, read_evaluations
from eval.compare import check_alike
from eval.win_rate import OVERALL
from lsp.cli.main import run
from lsp.errors import RunError
from lsp.files import write_csv
from lsp.run.folder import find_run
from lsp.settings.command import read_command
from lsp.settings.schema import setting, settings
from lsp.tracking.reader import read_metrics

# Okabe and Ito's colours, told apart by colour-blind readers; hatches tell them apart in print.
INKS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#F0C75E", "#56B4E9", "#D55E00", "#CC79A7")
COLOURS = dict(zip(LABELS, INKS, strict=True))
HATCHES = dict(zip(LABELS, ("", "//", "..", "\\\\", "xx", "--", "oo", "++"), strict=True))
CURVES = {
    "reward/solver/mean": "Solver's reward",
    "reward/challenger/mean": "Challenger's reward",
    "quality/mean": "quality R_Q (0 to 7)",
    "kl/solver/k2": "KL of the Solver (k2)",
    "kl/challenger/k2": "KL of the Challenger (k2)",
    "rollout/query_length/mean": "query length (tokens)",
}


@settings
class FigureSettings:
    """Which figure is drawn, and from which evaluations of the runs."""

    figure: Literal[2, 3] = setting("the paper's number of it", default=2)
    paper: Literal["v1", "v3"] = setting("whose numbers stand beside ours", default="v1")
    benchmark: str = setting("what the runs were evaluated on", default="alpaca_eval")
    runs_root: str = setting("where run ids are looked up", default="outputs")
    out: str = setting("the folder of what is written", default="outputs/figures")


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(FigureSettings, arguments)
        print(make_figures(names, settings))
    except RunError as error:
        sys.exit(f"error: {error}")


def make_figures(names: Sequence[str], settings: FigureSettings) -> str:
    """Draw and write; the text is for the reader. Raises RunError for runs that do not serve."""
    if not names:
        raise RunError("name the runs: lsp figures RUN [RUN …] figure=2")
    folders = [find_run(name, settings.runs_root) for name in names]
    runs = by_bar(folders, settings.figure)
    evaluations = read_evaluations(runs, settings.benchmark, folders)
    check_alike([evaluation for seeds in evaluations.values() for evaluation in seeds])
    bars = all_bars(evaluations, paper_values(settings.paper, settings.figure))
    out = Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"out={out} cannot be made: {error}; name another folder") from error
    stem = out / f"figure-{settings.figure}"
    write_csv(stem.with_suffix(".csv"), bars)
    judge = evaluations[COPY][0].results["judge"]
    pictures = {stem: bars_figure(bars, settings, judge), f"{stem}-curves": curves_figure(runs)}
    for name, picture in pictures.items():
        picture.savefig(f"{name}.png", dpi=130)
        picture.savefig(f"{name}.pdf", dpi=130)
    lines = [
        f"  {LABELS[bar.bar]:<20} {bar.set:<13} {bar.win_rate:5.1f}"
        f" [{bar.low:.1f}, {bar.high:.1f}], {bar.seeds} seeds, n {bar.n}; {bar.verdict}"
        for bar in bars
        if bar.set == OVERALL or bar.paper is not None
    ]
    heading = f"discrete win rates, ties as losses, judged by {judge}; 95 % intervals"
    files = [f"{stem}.png, .pdf, .csv", f"{stem}-curves.png, .pdf"]
    return "\n".join([heading, *lines, caution(settings), *files])


def caution(settings: FigureSettings) -> str:
    """What must be said beside the paper's numbers."""
    version = {
        "v1": ", so 40.1, 40.6 and 40.9 cannot be told apart; its v1 is known second-hand.",
        "v3": "; which bar of v3 belongs to which set is inferred.",
    }[settings.paper]
    pocket = " The pocket world is another task: compare orders, not heights."
    text = f"Paper: at n = 805 one standard error is 1.7 points{version}"
    return text + pocket if settings.benchmark == "pocket" else text


def bars_figure(bars: Sequence[Bar], settings: FigureSettings, judge: str) -> Figure:
    """A group of bars a set, the paper's values as diamonds on them."""
    sets = list(dict.fromkeys(bar.set for bar in bars))
    kinds = list(dict.fromkeys(bar.bar for bar in bars))
    width = 0.8 / len(kinds)
    figure = Figure(figsize=(max(7.0, 1.5 * len(sets)), 4.4), layout="constrained")
    axis = figure.add_subplot()
    diamonds = {"color": "white", "markeredgecolor": "black"}
    for number, kind in enumerate(kinds):
        of_kind = [bar for bar in bars if bar.bar == kind]
        xs = np.arange(len(of_kind)) + (number - (len(kinds) - 1) / 2) * width
        numbers = [(bar.win_rate, bar.low, bar.high, bar.paper) for bar in of_kind]
        rate, low, high, paper = np.array(numbers, dtype=float).T  # NaN is not drawn
        axis.bar(xs, rate, width, color=COLOURS[kind], edgecolor="black", linewidth=0.6,
                 hatch=HATCHES[kind], label=LABELS[kind])  # fmt: skip
        axis.errorbar(xs, rate, yerr=np.fmax(0, [rate - low, high - rate]), fmt="none",
                      ecolor="black", elinewidth=1, capsize=2)  # fmt: skip
        axis.plot(xs, paper, "D", markersize=5, zorder=4, **diamonds)
    copy = next(bar.win_rate for bar in bars if bar.bar == COPY and bar.set == OVERALL)
    axis.axhline(copy, color="black", linestyle=":", linewidth=1, label="that copy, overall")
    if any(bar.paper is not None for bar in bars):
        axis.plot([], [], "D", label=f"paper, {settings.paper}", **diamonds)
    axis.set_xticks(range(len(sets)), sets)
    axis.set_ylabel("win rate against the base (%)")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    title = f"Figure {settings.figure}: discrete wins, ties as losses; judge: {judge}"
    axis.set_title(title, fontsize=10)
    entries = zip(*axis.get_legend_handles_labels(), strict=True)
    bars_first = sorted(entries, key=lambda entry: entry[1] not in LABELS.values())
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axis.legend(*zip(*bars_first, strict=True), frameon=False, fontsize=8, **beside)
    figure.supxlabel(caution(settings), fontsize=8)
    return figure


def curves_figure(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Training curves: mean over a bar's seeds, the band from the lowest to the highest seed."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    for axis, (key, title) in zip(axes.flat, CURVES.items(), strict=True):
        for bar, folders in runs.items():
            steps, values = seed_curves(folders, key)
            if len(steps):
                colour, band = COLOURS[bar], (np.nanmin(values, axis=0), np.nanmax(values, axis=0))
                axis.plot(steps, np.nanmean(values, axis=0), color=colour, label=LABELS[bar])
                axis.fill_between(steps, *band, color=colour, alpha=0.2, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def seed_curves(folders: Sequence[Path], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps that any run has the metric at, [runs, steps] with NaN where one lacks it)."""
    series = [
        {line["step"]: line[key] for line in read_metrics(folder) if line.get(key) is not None}
        for folder in folders
    ]
    steps = sorted(set().union(*series))
    values = [[points.get(step, math.nan) for step in steps] for points in series]
    return np.array(steps), np.array(values, dtype=float)


if __name__ == "__main__":
    sys.exit(run("figures", sys.argv[1:]))
