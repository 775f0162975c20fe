"""Curves as inline SVG: records go in, drawings fit for a page whose policy allows no style
attributes come out. Text takes the page's own colour, so one drawing serves light and dark.
"""

import io
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsp.contracts import World
from lsp.files import replacing
from lsp.report.matrix import draw_matrix, read_matrix
from lsp.report.record import Record
from lsp.report.river import Queries, draw_river, smoothed
from lsp.tracking.labels import COLOURS, LABELS, LEGAL_QUERIES, TRUE_QUALITY, Label

INK = "#123456"  # stands for the page's text colour until the SVG is written
GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f")
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
for_the_page = matplotlib.rc_context(STYLE | dict.fromkeys(INKED, INK))
PANELS = {
    "Reward of each role": ("reward/solver/mean", "reward/challenger/mean"),
    "External reward R": ("reward/external/mean",),
    "Quality R_Q": ("quality/mean", TRUE_QUALITY),
    "KL to the reference (k2)": ("kl/solver/k2", "kl/challenger/k2"),
    "Entropy a token": ("entropy/solver", "entropy/challenger"),
    "Gradient norm": ("optim/grad_norm/solver", "optim/grad_norm/challenger", "optim/grad_norm"),
    "Queries": ("rollout/played_query_frac", "rollout/distinct_query_frac", LEGAL_QUERIES),
}
"""Title -> the metrics in it; beside these there is the evaluation's first number."""

GAPS = {"challenger_gap": "challenger", "solver_gap": "solver", "nash_conv": None}
"""What an evaluation measures of a solved game -> whose it is."""
DASHES = {"-": "none", "--": "6 3", ":": "2 2"}
"""matplotlib's -> SVG's."""
SMOOTHED_PART = 10  # a bold line is the mean of the last tenth of its values
SMOOTHING = (
    "Bold: the mean of the last tenth of a line's values up to each step; faint behind it: the"
    " values. Lines of fewer than 20 values are as measured."
)
Points = list[tuple[int, float, float]]  # (step, mean, standard deviation) over seeds


class Line(NamedTuple):
    label: str
    colour: str
    dashes: str
    points: Points


class Key(NamedTuple):
    """What a colour of a drawing stands for. ``dashes``: of a line, as SVG has them; None: of an
    area. ``numbers``: its own, in words."""

    label: str
    colour: str
    dashes: str | None = None
    numbers: str = ""


class Chart(NamedTuple):
    """``svg`` is safe to put into a page; ``label`` says in words what it shows. Of one without
    words of its own: ``title``; ``keys``, where there is more than one line; ``ends``: what stands
    below its left and its right end, where it has no axis either."""

    label: str
    svg: str
    title: str = ""
    keys: Sequence[Key] = ()
    ends: tuple[str, str] | None = None


def panels(record: Record) -> dict[str, list[Line]]:
    """Title -> lines, each role in its colour. What nobody measured is left out."""
    labels_of = {title: {key: LABELS[key] for key in keys} for title, keys in PANELS.items()}
    labels_of |= evaluation_panels(record, alone=True)
    drawn = {}
    for title, labels in labels_of.items():
        lines = [
            Line(label.text, COLOURS[label.role], dashes, mean_curve([record], key))
            for (key, label), dashes in zip(labels.items(), DASHES, strict=False)
        ]
        if measured := [line for line in lines if line.points]:
            drawn[title] = measured
    return drawn


def evaluation_panels(record: Record, alone: bool) -> dict[str, dict[str, Label]]:
    """Of the evaluation's first number, and of those that were predicted: the prediction beside
    them, dashed, where a run stands ``alone``. Gaps to best responses share a panel."""
    prefix, found = f"eval/{record.evaluation}/", {}
    for i, (key, words) in enumerate(record.labels.items()):
        predicted = f"{prefix}predicted/{key}"
        if i and not record.series(predicted):
            continue
        lines = {prefix + key: Label(words, 3, "solver")}
        if alone:
            lines[predicted] = Label("predicted from the base", 3)
        found[f"{words[:1].upper()}{words[1:]}, dev split"] = lines
    gaps = {key: words for key, words in record.labels.items() if key in GAPS}
    if gaps:
        lines = {prefix + key: Label(words, 3, GAPS[key]) for key, words in gaps.items()}
        found["Worth of the best response beyond one's own"] = lines
    return found


def mean_curve(members: Sequence[Record], key: str) -> Points:
    """Over the steps that every run has which has the metric at all."""
    runs = [run for record in members if (run := dict(record.series(key)))]
    points = []
    for step in sorted(set.intersection(*map(set, runs))) if runs else []:
        values = [run[step] for run in runs]
        points.append((step, mean(values), stdev(values) if len(values) > 1 else 0.0))
    return points


def draw_panel(axis: Axes, title: str, lines: Sequence[Line]) -> str:
    """``draw_lines`` with title and legend."""
    words = draw_lines(axis, title, lines)
    axis.set_title(title)
    if len(lines) > 1:
        axis.legend()
    return words


def draw_lines(axis: Axes, title: str, lines: Sequence[Line]) -> str:
    """Smoothed means with bands of one standard deviation, the means themselves faint behind; the
    same in words."""
    words = []
    for label, colour, dashes, points in lines:
        steps, means, deviations = np.array(points).T
        window = max(1, len(points) // SMOOTHED_PART)
        marker = "o" if len(steps) < 12 else ""
        if window > 1:
            axis.plot(steps, means, color=colour, alpha=0.3, linewidth=0.8)
        bold, spread = (np.array(smoothed(values, window)) for values in (means, deviations))
        axis.plot(steps, bold, dashes, marker=marker, markersize=3, color=colour, label=label)
        if spread.any():
            axis.fill_between(
                steps, bold - spread, bold + spread, color=colour, alpha=0.2, linewidth=0
            )
        words.append(f"{label} from {bold[0]:.3g} to {bold[-1]:.3g}")
    axis.set(xlabel="step")
    axis.grid(alpha=0.25, linewidth=0.5, color="#808080")
    first, last = lines[0].points[0][0], lines[0].points[-1][0]
    return f"{title} over steps {first} to {last}: {'; '.join(words)}"


@for_the_page
def curve_charts(record: Record) -> list[Chart]:
    charts = []
    for title, lines in panels(record).items():
        figure = Figure(figsize=(3.5, 2.1), layout="constrained")
        words = draw_lines(figure.subplots(), title, lines)
        keys = [Key(label, colour, DASHES[dashes]) for label, colour, dashes, _ in lines]
        charts.append(Chart(words, inline_svg(figure), title, keys if len(keys) > 1 else ()))
    return charts


@matplotlib.rc_context(STYLE)
def save_curves(record: Record, path: Path) -> None:
    drawn = panels(record)
    rows = math.ceil(len(drawn) / 3)
    figure = Figure(figsize=(12, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).flat
    for axis, (title, lines) in zip(axes, drawn.items(), strict=False):
        draw_panel(axis, title, lines)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    figure.supxlabel(SMOOTHING, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


@for_the_page
def river_charts(queries: Queries, world: World) -> list[Chart]:
    """What was asked, sorted in each of the world's ways: areas without a word, which may be drawn
    at any width; the page writes the words."""
    charts = []
    legal = [text for step in queries.values() for text, is_legal in step if is_legal]
    for kind in world.kinds(legal):
        figure = Figure(figsize=(6, 3))
        axis = figure.add_axes((0, 0, 1, 1))
        areas = draw_river(axis, queries, kind)
        axis.set_axis_off()
        keys = [
            Key(name, colour, numbers=f"{shares[0]:.0%} → {shares[-1]:.0%}")
            for name, colour, shares in reversed(areas)
            if any(shares)
        ]
        svg = inline_svg(figure).replace("<svg ", '<svg preserveAspectRatio="none" ', 1)
        steps = list(queries)
        ends = f"step {steps[0]}", f"step {steps[-1]}"
        title = f"The Challenger's queries by {kind.title}"
        numbers = "; ".join(f"{key.label} {key.numbers}" for key in keys)
        words = f"{title}, as shares of each step: {numbers}"
        charts.append(Chart(words, svg, title, keys, ends))
    return charts


@for_the_page
def crossplay_chart(folder: Path) -> Chart:
    rows = read_matrix(folder)
    played = [row for row in rows if row["reward_mean"] is not None]
    words = [f"{r['challenger']} asks {r['solver']}: {r['reward_mean']:.2f}" for r in played]
    label = f"Cross-play, mean reward R. {'; '.join(words)}"
    return Chart(label, inline_svg(draw_matrix(rows)))


ELEMENT = (
    'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' aria-hidden="true" stroke-linejoin="round" stroke-linecap="butt"'
)
_numbers = itertools.count(1)


def inline_svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element: presentation attributes in place of styles, ids of its own
    on a page with others, no fonts or outside references."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The page's font draws what matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' style="([^"]*)"', _attributes, text)
    prefix = f"c{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = text.replace(INK, "currentColor")
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1 {ELEMENT}>", text, count=1)


def _attributes(style: re.Match[str]) -> str:
    """``style="fill: none; font: 9px serif"`` -> `` fill="none" font-size="9px"``."""
    longhand = re.sub(r"\bfont: [^;]*?([\d.]+px)[^;]*", r"font-size: \1", style[1])
    return re.sub(r"([\w-]+): *([^;]*[^;\s])\s*;?\s*", r' \1="\2"', longhand)
