"""The page: records go in, one self-contained HTML file comes out, which runs its own script alone.

Model text is hostile: it reaches the page as JSON whose angle brackets are escaped, or through
jinja2's escaping, and the script puts it in as text alone. The policy in the file allows that one
script and that one style sheet, by their hashes, and nothing else; it fetches nothing.
"""

import math
import shlex
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lsp.files import write_text
from lsp.report import curves as charts
from lsp.report import facts, game, lights
from lsp.report.glossary import Terms
from lsp.report.record import Record
from lsp.tools.text import page_json, visible
from lsp.tracking.labels import LEGAL_QUERIES, TRUE_QUALITY

HERE = Path(__file__).parent
REPORT = "report.html"
BUDGET = 7_000_000  # bytes of plays in one report, which with charts and escapes stays under 10 MB


def write_report(records: Sequence[Record], path: Path) -> Path:
    """Write the report of one run, or of several compared, to ``path``, which is returned."""
    write_text(path, render(records))
    return path


def render(records: Sequence[Record]) -> str:
    indices = {r.folder: game.read_index(r.folder, r.world, r.steps) for r in records}
    records = [replace(r, derived=world_series(r, indices[r.folder])) for r in records]
    groups = facts.grouped(records)
    texts: dict[str, int] = {}  # every text once, with its number
    games = [_game(r, indices[r.folder], BUDGET // len(records), texts) for r in records]
    rivers = {
        name: charts.river_charts(indices[first.folder].queries, first.world)
        for name, (first, *_) in groups.items()
        if first.settings["method.queries"] == "challenger"
    }
    folders = [record.folder / "crossplay" for record in records]
    script, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (script, style)]
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    glossary = Terms()
    environment.filters |= {"visible": lambda value: visible(str(value)), "terms": glossary.mark}
    return environment.get_template("page.html").render(
        title=records[0].run["id"] if len(records) == 1 else f"{len(records)} runs compared",
        policy=f"default-src 'none'; script-src 'sha256-{hashes[0]}';"
        f" style-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'",
        script=Markup(script),
        style=Markup(style),
        data=Markup(page_json({"games": games, "texts": list(texts)})),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        runs=records,
        facts=facts,
        lights=lights,
        game=game,
        glossary=glossary,
        section=glossary.section,
        smoothing=charts.SMOOTHING,
        seeds={name: len(members) for name, members in groups.items()},
        charts=charts.curve_charts(groups),
        rivers=rivers,
        crossplay=[charts.crossplay_chart(f) for f in folders if (f / "crossplay.csv").is_file()],
        Markup=Markup,
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
    return {"id": record.run["id"], "note": note, "steps": list(plays), "plays": packed}


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
