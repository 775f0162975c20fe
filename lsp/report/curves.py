"""Curves as inline SVG: records go in, drawings fit for a page whose policy allows no style
attributes come out. Text takes the page's own colour, so one drawing serves light and dark.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from lsp.contracts import QueryKinds
from lsp.files import replacing
from lsp.report.matrix import draw_matrix, read_matrix
from lsp.report.record import Record
from lsp.report.river import Asked, draw_river
from lsp.tracking.labels import COLOURS, LABELS, LEGAL_QUERIES, TRUE_QUALITY, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
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
IN_INK = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
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

Points = list[tuple[int, float, float]]
"""(step, mean, standard deviation) over seeds."""


class Line(NamedTuple):
    """One line of a panel."""

    label: str
    colour: str
    dashes: str
    points: Points


class Chart(NamedTuple):
    """``svg`` is safe to put into a page; ``label`` says in words what it shows."""

    label: str
    svg: str


def panels(records: Sequence[Record]) -> dict[str, dict[str, Label]]:
    """Title -> key -> label of what is drawn of some runs."""
    drawn = {title: {key: LABELS[key] for key in keys} for title, keys in PANELS.items()}
    for record in records:
        for key, label in itertools.islice(record.labels.items(), 1):
            title = f"{label[:1].upper()}{label[1:]}, dev split"
            drawn[title] = {f"eval/{record.evaluation}/{key}": Label(label, 3, "solver")}
    return drawn


def role_lines(members: Sequence[Record], labels: Mapping[str, Label]) -> list[Line]:
    """A panel of one experiment: each role in its colour, further lines of that colour dashed."""
    lines: list[Line] = []
    for key, label in labels.items():
        colour = COLOURS[label.role]
        dashes = "--" if label.role is None or any(colour == o.colour for o in lines) else "-"
        lines.append(Line(label.text, colour, dashes, mean_curve(members, key)))
    return [line for line in lines if line.points]


def group_lines(groups: Mapping[str, Sequence[Record]], key: str) -> list[Line]:
    """One metric of several experiments, each in a colour of its own."""
    colours = zip(itertools.cycle(GROUP_COLOURS), groups.items(), strict=False)
    lines = [Line(name, colour, "-", mean_curve(own, key)) for colour, (name, own) in colours]
    return [line for line in lines if line.points]


def mean_curve(members: Sequence[Record], key: str) -> Points:
    """Over the steps that every run has which has the metric at all."""
    runs = [run for record in members if (run := dict(record.series(key)))]
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    values = [[run[step] for run in runs] for step in steps]
    return [
        (step, mean(at), stdev(at) if len(at) > 1 else 0.0)
        for step, at in zip(steps, values, strict=True)
    ]


def draw_panel(axis: Axes, title: str, lines: Sequence[Line]) -> str:
    """Means with bands of one standard deviation; the same in words."""
    words = []
    for label, colour, dashes, points in lines:
        steps, means, deviations = zip(*points, strict=True)
        marker = "o" if len(steps) < 12 else ""
        axis.plot(steps, means, dashes, marker=marker, markersize=3, color=colour, label=label)
        if any(deviations):
            low = [m - d for m, d in zip(means, deviations, strict=True)]
            high = [m + d for m, d in zip(means, deviations, strict=True)]
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        words.append(f"{label} from {means[0]:.3g} to {means[-1]:.3g}")
    _finish(axis, title)
    if len(lines) > 1:
        axis.legend()
    ends = lines[0].points[0][0], lines[0].points[-1][0]
    return f"{title} over steps {ends[0]} to {ends[1]}: {'; '.join(words)}"


def curve_charts(groups: Mapping[str, Sequence[Record]]) -> list[Chart]:
    """One group: a chart a panel. Several: a chart a metric. What nobody measured is left out."""
    records = [record for members in groups.values() for record in members]
    drawn: dict[str, list[Line]] = {}
    for title, labels in panels(records).items():
        if len(groups) == 1:
            drawn[title] = role_lines(records, labels)
        else:
            drawn |= {
                title if len(labels) == 1 else label.text: group_lines(groups, key)
                for key, label in labels.items()
            }
    charts = []
    for title, lines in drawn.items():
        if lines:
            with for_the_page(4.2, 2.5) as (figure, axis):
                charts.append(Chart(draw_panel(axis, title, lines), inline_svg(figure)))
    return charts


def save_curves(record: Record, path: Path) -> None:
    """The panels of one run as a picture."""
    drawn = {title: role_lines([record], labels) for title, labels in panels([record]).items()}
    drawn = {title: lines for title, lines in drawn.items() if lines}
    rows = -(-len(drawn) // 3)
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure = Figure(figsize=(12, 3 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False).flat
        for axis, (title, lines) in zip(axes, drawn.items(), strict=False):
            draw_panel(axis, title, lines)
        for axis in axes:  # those that are left over
            axis.set_axis_off()
        figure.savefig(temporary, dpi=110)


def river_charts(queries: Asked, kinds: Sequence[QueryKinds]) -> list[Chart]:
    """What was asked, sorted in each of a world's ways."""
    charts = []
    for kind in kinds:
        with for_the_page(6.4, 2.9) as (figure, axis):
            draw_river(axis, queries, kind)
            title = f"The Challenger's queries by {kind.title}"
            _finish(axis, title)
            axis.set_ylabel("share of queries")
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
            charts.append(Chart(f"{title}, as shares of each step", inline_svg(figure)))
    return charts


def crossplay_chart(folder: Path) -> Chart:
    """The matrix of a cross-play in its folder."""
    rows = read_matrix(folder)
    with matplotlib.rc_context(STYLE | IN_INK):
        svg = inline_svg(draw_matrix(rows))
    words = "; ".join(
        f"{row['challenger']} asks {row['solver']}: {row['reward_mean']:.2f}"
        for row in rows
        if row["reward_mean"] is not None
    )
    return Chart(f"Cross-play, mean reward R. {words}", svg)


@contextmanager
def for_the_page(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axis in the page's colours."""
    with matplotlib.rc_context(STYLE | IN_INK):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.grid(alpha=0.25, linewidth=0.5, color="#808080")


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
    text = re.sub(r' style="([^"]*)"', lambda m: _attributes(m.group(1)), text)
    prefix = f"c{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = text.replace(INK, "currentColor")
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" '
                  'xmlns="http://www.w3.org/2000/svg" '
                  'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" '
                  'stroke-linejoin="round" stroke-linecap="butt">', text, count=1)  # fmt: skip


def _attributes(style: str) -> str:
    """``fill: none; font: 9px serif`` -> `` fill="none" font-size="9px"``."""
    attributes = []
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            name, value = "font-size", size.group() if size else "9px"
        if name:
            attributes.append(f' {name}="{value}"')
    return "".join(attributes)
