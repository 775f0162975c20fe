"""The page of several runs: records go in, one self-contained HTML file comes out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from matplotlib.figure import Figure

from lsp.files import write_text
from lsp.report import curves, game, html, sides
from lsp.report.comparison import compare, conditions, outcome
from lsp.report.page import REPORT, world_series
from lsp.report.record import Record
from lsp.report.sides import Side, not_common
from lsp.tools.text import visible
from lsp.tracking.labels import LABELS, Label

HERE = Path(__file__).parent
COMPARISON = "comparison.html"
BUDGET = 7_000_000  # bytes of plays in one page
LONGEST_TITLE = 60  # characters, of a chart
COLOURS = len(curves.GROUP_COLOURS)


class Panel(NamedTuple):
    """One metric: a chart on common axes, or one of each side and ``why``."""

    title: str
    charts: Sequence[curves.Chart]
    why: str


def write_comparison(records: Sequence[Record], path: Path) -> Path:
    """Write the page of two or more runs to ``path``, which is returned."""
    write_text(path, render(records, path.parent))
    return path


def render(records: Sequence[Record], home: Path) -> str:
    """``home``: the folder of the page, from which the runs' own reports are linked."""
    records = [_with_world_series(record) for record in records]
    found = compare(records)
    reach = max((abs(end) for c in found.claims for end in (c.found.low, c.found.high)), default=0)
    return html.page(
        HERE / "comparison.html",
        HERE / "comparison.js",
        HERE / "comparison.css",
        _games(found.sides),
        found=found,
        outcome=outcome(found),
        conditions=conditions(found),
        reach=reach or 1.0,
        places=html.interval_places,
        settings=sides.different_settings(found.sides),
        answered=sides.answered(found.sides, not found.apart),
        evaluated=sides.evaluated(found.sides),
        ends=sides.ends,
        benchmarks=sides.benchmarks(records),
        panels=panels(found.sides),
        colours=COLOURS,
        smoothing=curves.SMOOTHING,
        game=game,
        link=lambda record: report_link(record.folder, home),
    )


def report_link(run: Path, home: Path) -> str | None:
    """From a page's folder to the report of a run, for as long as they are moved together; None
    where the run has none."""
    report = run / REPORT
    return quote(os.path.relpath(report, home)) if report.is_file() else None


def _with_world_series(record: Record) -> Record:
    index = game.read_index(record.folder, record.world, record.steps)
    return replace(record, derived=world_series(record, index))


@curves.for_the_page
def panels(compared: Sequence[Side]) -> list[Panel]:
    """A panel a metric that any run has: a line a side on common axes where it is one quantity."""
    labels: dict[str, Label] = {}
    for words in curves.evaluation_panels(compared[0].runs[0], alone=False).values():
        labels |= words
    labels |= {key: LABELS[key] for keys in curves.PANELS.values() for key in keys}
    drawn = []
    for key, label in labels.items():
        lines = [line for i, side in enumerate(compared) if (line := _line(i, side, key)).points]
        if not lines:
            continue
        title = visible(f"{label.text[:1].upper()}{label.text[1:]}", LONGEST_TITLE)
        reasons = not_common(compared, key) if len(lines) > 1 else []
        together = [[line] for line in lines] if reasons else [lines]
        why = f"Not on common axes: another quantity in each, by {'; '.join(reasons)}."
        drawn.append(
            Panel(title, [_chart(title, each) for each in together], why if reasons else "")
        )
    return drawn


def _line(number: int, side: Side, key: str) -> curves.Line:
    colour = curves.GROUP_COLOURS[number % COLOURS]
    return curves.Line(side.letter, colour, "-", curves.mean_curve(side.runs, key))


def _chart(title: str, lines: Sequence[curves.Line]) -> curves.Chart:
    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    name = title if len(lines) > 1 else f"{title}, {lines[0].label}"
    words = curves.draw_panel(figure.subplots(), name, lines)
    return curves.Chart(words, curves.inline_svg(figure))


def _games(compared: Sequence[Side]) -> dict[str, Any]:
    """What comparison.js reads: of each run the steps that all have, each text once."""
    runs = [(side, run) for side in compared for run in side.runs]
    steps = sorted(set.intersection(*(set(run.steps) for _, run in runs)))
    texts: dict[str, int] = {}
    packed: list[dict[str, Any]] = []
    plays: list[game.Plays] = []
    whole = True
    if steps:
        indices = [game.read_index(run.folder, run.world, steps) for _, run in runs]
        extremes = tuple({step for index in indices for step in index.extremes})
        for (_, run), index in zip(runs, indices, strict=True):
            index = replace(index, extremes=extremes)
            found, all_of_it = game.sample(run.folder, index, run.world, BUDGET // len(runs))
            plays.append(found)
            whole = whole and all_of_it
        steps = sorted(set.intersection(*(set(found) for found in plays)))
    for (side, run), found in zip(runs, plays, strict=False):
        packed.append(
            {
                "name": visible(f"{side.letter}: {run.run['id']}"),
                "plays": [[_query(query, texts) for query in found[step]] for step in steps],
            }
        )
    return {"steps": steps, "runs": packed, "texts": list(texts), "whole": whole}


def _query(query: game.PlayedQuery, texts: dict[str, int]) -> dict[str, Any]:
    return {
        "text": _number_of(query.query, texts),
        "right": None
        if query.right_answer is None
        else _number_of(visible(query.right_answer), texts),
        "value": _finite(query.query_value),
        "end": "legal" if query.legal else _why_not(query),
        "answers": [
            [
                _number_of(answer.answer, texts),
                _finite(answer.reward),
                answer.times,
                _number_of(answer.checks, texts),
            ]
            for answer in query.answers
        ],
    }


def _why_not(query: game.PlayedQuery) -> str:
    reason = query.query_finish_reason
    return "not legal" if reason == "stop" else f"not played: {visible(reason)}"


def _number_of(text: str, texts: dict[str, int]) -> int:
    return texts.setdefault(text, len(texts))


def _finite(value: float | None) -> float | None:
    """JSON has no number for one that is not finite."""
    return value if value is not None and abs(value) < float("inf") else None
