"""Curves as inline SVG: matplotlib draws, and what it writes is made fit for a page whose policy
allows no style attributes. Text takes the page's own colour, so one drawing serves light and dark.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from lsp.loop.finish import CHALLENGER_COLOUR, SOLVER_COLOUR
from lsp.report.matrix import draw_matrix
from lsp.report.record import Record
from lsp.report.river import Asked, draw_river

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f")
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


class Curve(NamedTuple):
    """A metric under its label; ``role`` gives its colour, ``dashes`` its line."""

    key: str
    label: str
    role: str | None = None
    dashes: str = "-"


PANELS: dict[str, tuple[Curve, ...]] = {
    "Reward of each role": (
        Curve("reward/solver/mean", "Solver", "solver"),
        Curve("reward/challenger/mean", "Challenger", "challenger"),
    ),
    "External reward R": (Curve("reward/external/mean", "R", "solver"),),
    "Quality R_Q": (
        Curve("quality/mean", "R_Q by the reference", "solver"),
        Curve("true rubric", "true rubric", None, "--"),
    ),
    "Exact accuracy, dev split": (Curve("eval/pocket/accuracy", "exact accuracy", "solver"),),
    "KL to the reference (k2)": (
        Curve("kl/solver/k2", "Solver", "solver"),
        Curve("kl/challenger/k2", "Challenger", "challenger"),
    ),
    "Entropy a token": (
        Curve("entropy/solver", "Solver", "solver"),
        Curve("entropy/challenger", "Challenger", "challenger"),
    ),
    "Gradient norm": (
        Curve("optim/grad_norm/solver", "Solver", "solver"),
        Curve("optim/grad_norm/challenger", "Challenger", "challenger"),
        Curve("optim/grad_norm", "both", None, ":"),
    ),
    "Queries": (
        Curve("rollout/played_query_frac", "played", "challenger"),
        Curve("rollout/distinct_query_frac", "distinct in the step", "challenger", "--"),
        Curve("valid queries", "legal", None, ":"),
    ),
}
ROLE_COLOURS = {"solver": SOLVER_COLOUR, "challenger": CHALLENGER_COLOUR, None: "#808080"}

Extra = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Run id -> name of a curve that is no metric -> its points."""


class Chart(NamedTuple):
    """``svg`` is safe to put into a page; ``label`` says in words what it shows."""

    title: str
    label: str
    svg: str


def curve_charts(groups: Mapping[str, Sequence[Record]], extra: Extra) -> list[Chart]:
    """One chart a panel. One group: both roles in their colours. Several: one chart a curve, a
    colour a group. Over seeds: the mean, and a band of one standard deviation."""
    charts = []
    for title, curves in PANELS.items():
        if len(groups) == 1:
            (members,) = groups.values()
            lines = [
                (c.label, ROLE_COLOURS[c.role], c.dashes, _mean_curve(members, c.key, extra))
                for c in curves
            ]
            charts += _chart(title, lines)
            continue
        for curve in curves:
            name = title if len(curves) == 1 else f"{title}: {curve.label}"
            colours = itertools.cycle(GROUP_COLOURS)
            lines = [
                (group, colour, "-", _mean_curve(members, curve.key, extra))
                for colour, (group, members) in zip(colours, groups.items(), strict=False)
            ]
            charts += _chart(name, lines)
    return charts


Points = list[tuple[int, float, float]]
"""(step, mean, standard deviation) over seeds."""


def _mean_curve(members: Sequence[Record], key: str, extra: Extra) -> Points:
    """Over the steps that every run has which has the metric at all."""
    runs = [dict(extra.get(r.run["id"], {}).get(key) or r.series(key)) for r in members]
    runs = [run for run in runs if run]
    if not runs:
        return []
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[step] for run in runs] for step in steps]
    return [
        (step, mean(own), stdev(own) if len(own) > 1 else 0.0)
        for step, own in zip(steps, values, strict=True)
    ]


def _chart(title: str, lines: Sequence[tuple[str, str, str, Points]]) -> list[Chart]:
    """None where nothing of it was measured."""
    lines = [line for line in lines if line[3]]
    if not lines:
        return []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axis = figure.subplots()
        said = []
        for label, colour, dashes, points in lines:
            steps, means, deviations = zip(*points, strict=True)
            marker = "o" if len(steps) < 12 else ""
            axis.plot(steps, means, dashes, marker=marker, markersize=3, color=colour, label=label)
            if any(deviations):
                low = [m - d for m, d in zip(means, deviations, strict=True)]
                high = [m + d for m, d in zip(means, deviations, strict=True)]
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            said.append(f"{label} from {means[0]:.3g} to {means[-1]:.3g}")
        _finish(axis, title)
        if len(lines) > 1:
            axis.legend()
        words = f"{title} over steps {lines[0][3][0][0]} to {lines[0][3][-1][0]}: "
        return [Chart(title, words + "; ".join(said), inline_svg(figure))]


def river_charts(queries: Asked, pocket: bool) -> list[Chart]:
    """What was asked, by two properties."""
    kinds = (
        {"family": "family", "length": "length of the argument"}
        if pocket
        else {"words": "number of words", "opening": "first two words"}
    )
    charts = []
    for by, words in kinds.items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 2.9), layout="constrained")
            axis = figure.subplots()
            draw_river(axis, queries, by)
            title = f"The Challenger's queries by {words}"
            _finish(axis, title)
            axis.set_ylabel("share of queries")
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
            charts.append(Chart(title, f"{title}, as shares of each step", inline_svg(figure)))
    return charts


def crossplay_chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """The matrix of a cross-play; ``rows`` as ``lsp.report.matrix.read_matrix`` returns them."""
    with matplotlib.rc_context(STYLE):
        svg = inline_svg(draw_matrix(rows))
    told = "; ".join(
        f"{row['challenger']} asks {row['solver']}: {row['reward_mean']:.2f}"
        for row in rows
        if row["reward_mean"] is not None
    )
    return Chart("Cross-play", f"Cross-play, mean reward R. {told}", svg)


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
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" '
                  'xmlns="http://www.w3.org/2000/svg" '
                  'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" '
                  'stroke-linejoin="round" stroke-linecap="butt">', text, count=1)  # fmt: skip
    return text


def _attributes(style: str) -> str:
    """``fill: none; font: 9px serif`` -> `` fill="none" font-size="9px"``."""
    found = []
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            name, value = "font-size", size.group() if size else "9px"
        if name:
            found.append(f' {name}="{value}"')
    return "".join(found)
