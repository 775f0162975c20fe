"""The report of a run: a record goes in, one self-contained HTML file comes out.

Model text is hostile: it reaches the page as JSON whose angle brackets are escaped, or through
jinja2's escaping, and the script puts it in as text alone (lsp/report/html.py has the policy).
"""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lsp.files import write_text
from lsp.report import curves as charts
from lsp.report import facts, game, html, lights
from lsp.report.record import Record
from lsp.tracking.labels import LEGAL_QUERIES, TRUE_QUALITY

HERE = Path(__file__).parent
REPORT = "report.html"
BUDGET = 7_000_000  # bytes of plays in one report, which with charts and escapes stays under 10 MB


def write_report(record: Record, path: Path) -> Path:
    """Write the report of one run to ``path``, which is returned."""
    write_text(path, render(record))
    return path


def render(record: Record) -> str:
    """Of a run, finished or not."""
    index = game.read_index(record.folder, record.world, record.steps)
    record = replace(record, derived=world_series(record, index))
    texts: dict[str, int] = {}  # every text once, with its number
    plays = _game(record, index, BUDGET, texts)
    asks = record.settings["method.queries"] == "challenger"
    matrix = record.folder / "crossplay"
    return html.page(
        HERE / "page.html",
        HERE / "page.js",
        None,
        {"game": plays, "texts": list(texts)},
        run=record,
        facts=facts,
        lights=lights,
        game=game,
        smoothing=charts.SMOOTHING,
        charts=charts.curve_charts(record),
        rivers=charts.river_charts(index.queries, record.world) if asks else [],
        crossplay=charts.crossplay_chart(matrix) if (matrix / "crossplay.csv").is_file() else None,
    )


def world_series(record: Record, index: game.Index) -> dict[str, list[tuple[int, float]]]:
    """What the run's world knows of its trace, step by step."""
    shares = [(step, fmean(legal for _, legal in q)) for step, q in index.queries.items()]
    quality = game.true_quality(record.folder, record.world, record.steps)
    return {LEGAL_QUERIES: shares, TRUE_QUALITY: quality}


def _game(record: Record, index: game.Index, budget: int, texts: dict[str, int]) -> dict[str, Any]:
    plays, whole = game.sample(record.folder, index, record.world, budget)
    steps, rows = len(index.queries), index.rows
    note = f"All {rows:,} rows of {steps:,} steps."
    if not whole:
        answers = (a for queries in plays.values() for query in queries for a in query.answers)
        shown = sum(answer.times for answer in answers)
        note = (
            f"A sample: {shown:,} answers of {len(plays)} of {steps:,} steps"
            f" ({rows:,} rows in all), the best, worst and most repeated queries always in; python"
            f" -m lsp.show {shlex.quote(str(record.folder))} step=N shows any step whole."
        )
    packed = [[_packed(query, texts) for query in step] for step in plays.values()]
    return {"note": note, "steps": list(plays), "plays": packed}


def _packed(item: game.PlayedQuery | game.PlayedAnswer, texts: dict[str, int]) -> list[Any]:
    """Fields as page.js reads them, in their order, each text by its number."""
    values: list[Any] = []
    for name, value in vars(item).items():
        if name in ("query", "answer", "checks", "right_answer") and value is not None:
            value = texts.setdefault(value, len(texts))
        elif name == "answers":
            value = [_packed(answer, texts) for answer in value]
        elif isinstance(value, float):  # JSON has no number for one that is not finite
            value = float(f"{value:.4g}") if math.isfinite(value) else None
        values.append(value)
    return values
