"""The page of a sweep: how its runs ended goes in, one self-contained HTML file comes out.

Each point is a link to the report of its run, relative to the page, so that a folder that is moved
stays whole.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from lsp.files import write_text
from lsp.report import html
from lsp.report.comparison_page import report_link
from sweeps import outcome
from sweeps.outcome import Cell, Ended
from sweeps.space import Sweep

HERE = Path(__file__).parent
SHADES = 10
MOST_GRIDS = 12
TOP, HEIGHT, LEFT, ROOM = 16, 260, 70, 700  # of a chart, in pixels
NARROWEST, WIDEST = 84, 120  # of one value's column


class Grid(NamedTuple):
    """Two settings against each other; ``title``: the values of the others; ``lines``: of each
    value of the second its cells by the values of the first, None where no point lies."""

    title: str
    across: str
    down: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Cell | None]]]


class Mark(NamedTuple):
    """Where a run's value, or a cell's mean with its interval, lies in a chart."""

    x: float
    y: float
    run: Ended | None = None
    low: float | None = None
    high: float | None = None


class Chart(NamedTuple):
    """The metric over the values of one setting, in pixels. ``ticks``: (place, text)."""

    name: str
    width: int
    height: int
    columns: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]
    points: Sequence[Mark]
    means: Sequence[Mark]


def write_sweep(sweep: Sweep, runs: Sequence[Ended], path: Path) -> Path:
    """Write the page of a sweep to ``path``, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(sweep, runs, path.parent))
    return path


def render(sweep: Sweep, runs: Sequence[Ended], home: Path) -> str:
    cells = outcome.cells(sweep, runs)
    values = [cell.mean for cell in cells if cell.mean is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    drawn = grids(sweep, cells)
    return html.page(
        HERE / "page.html",
        HERE / "page.js",
        HERE / "page.css",
        None,
        sweep=sweep,
        cells=cells,
        best=outcome.best(sweep, cells),
        outcome=outcome.sentence(sweep, cells),
        conditions=outcome.conditions(sweep, cells),
        left_out=[run for run in runs if run.value is None],
        count=len(runs),
        grids=drawn,
        charts=[] if drawn else [c for name in sweep.settings if (c := chart(sweep, cells, name))],
        shade=lambda value: shade(value, low, high),
        shades=range(SHADES),
        low=low,
        high=high,
        text_of=outcome.text_of,
        link=lambda run: report_link(run.folder, home),
    )


def shade(value: float, low: float, high: float) -> int:
    """0 for the lowest value of a sweep, SHADES - 1 for the highest."""
    return (
        min(SHADES - 1, int(SHADES * (value - low) / (high - low))) if high > low else SHADES // 2
    )


def grids(sweep: Sweep, cells: Sequence[Cell]) -> list[Grid]:
    """Two settings against each other, a grid for each combination of the others; none where fewer
    than two were swept or most places would be empty, as with random points."""
    if len(sweep.settings) < 2:
        return []
    values = [_ordered({cell.values[i] for cell in cells}) for i in range(len(sweep.settings))]
    # The two that have the most values, numbers before words, the file's order among equals.
    rank = sorted(range(len(values)), key=lambda i: (not _numeric(values[i]), -len(values[i]), i))
    across, down = sorted(rank[:2])
    others = [i for i in range(len(values)) if i not in (across, down)]
    found: dict[tuple[str, ...], dict[tuple[str, str], Cell]] = {}
    for cell in cells:
        title = tuple(cell.values[i] for i in others)
        found.setdefault(title, {})[cell.values[across], cell.values[down]] = cell
    places = len(found) * len(values[across]) * len(values[down])
    if len(found) > MOST_GRIDS or 2 * len(cells) < places:
        return []
    return [
        Grid(
            ", ".join(f"{sweep.settings[i]}={v}" for i, v in zip(others, title, strict=True)),
            sweep.settings[across],
            sweep.settings[down],
            values[across],
            [(y, [own.get((x, y)) for x in values[across]]) for y in values[down]],
        )
        for title, own in found.items()
    ]


def chart(sweep: Sweep, cells: Sequence[Cell], name: str) -> Chart | None:
    """The metric over one setting's values, evenly spaced in their order: every run a point, and
    where it is the only setting the means with their intervals over seeds. None without a value."""
    place = sweep.settings.index(name)
    names = _ordered({cell.values[place] for cell in cells})
    runs = [(cell, run) for cell in cells for run in cell.runs if run.value is not None]
    if not runs:
        return None
    alone = len(sweep.settings) == 1
    intervals = {cell.values: cell.over_seeds for cell in cells} if alone else {}
    ends = [end for one in intervals.values() if one for end in (one.low, one.high)]
    lowest, highest = _limits([*(run.value for _, run in runs if run.value is not None), *ends])

    column = max(NARROWEST, min(WIDEST, ROOM // len(names)))

    def x(cell: Cell) -> float:
        return LEFT + column * (names.index(cell.values[place]) + 0.5)

    def y(value: float) -> float:
        return round(TOP + HEIGHT * (highest - value) / (highest - lowest), 1)

    means = []
    for cell in cells if alone else ():
        one = intervals[cell.values]
        if cell.mean is not None:
            low, high = (y(one.low), y(one.high)) if one else (None, None)
            means.append(Mark(x(cell), y(cell.mean), None, low, high))
    return Chart(
        name,
        LEFT + column * len(names),
        TOP + HEIGHT + 44,
        [(LEFT + column * (i + 0.5), text) for i, text in enumerate(names)],
        [(y(value), f"{value:.3g}") for value in _ticks(lowest, highest)],
        [
            Mark(x(cell) + (22 if alone else 0), y(run.value), run)
            for cell, run in runs
            if run.value is not None
        ],
        means,
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis that holds all values."""
    low, high = min(values), max(values)
    room = (high - low) / 20 or abs(high) / 20 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the limits of an axis."""
    return [value for value in MaxNLocator(5).tick_values(low, high) if low <= value <= high]


def _ordered(values: set[str]) -> list[str]:
    """Numbers by their size, texts as they are spelled."""
    texts = sorted(values)
    return sorted(texts, key=float) if _numeric(texts) else texts


def _numeric(texts: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False
