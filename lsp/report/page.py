"""The page: records go in, one self-contained HTML file comes out, which runs its own script alone.

Model text is hostile: it reaches the page as JSON whose angle brackets are escaped, or through
jinja2's escaping, and the script puts it in as text alone. The policy in the file allows that one
script and that one style sheet, by their hashes, and nothing else; it fetches nothing.
"""

import base64
import hashlib
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lsp.files import write_text
from lsp.report import curves as charts
from lsp.report import facts
from lsp.report.game import PlayedQuery, Sample, read_index, sample, true_quality
from lsp.report.record import Record
from lsp.report.river import legal_texts
from lsp.tools.text import page_json, visible
from lsp.tracking.labels import LEGAL_QUERIES, TRUE_QUALITY

HERE = Path(__file__).parent
REPORT = "report.html"
CROSSPLAY = Path("crossplay") / "crossplay.csv"
BUDGET = 7_000_000
"""Bytes of plays in one report; with charts and escapes it stays under 10 MB."""


def write_report(records: Sequence[Record], path: Path) -> Path:
    """Write the report of one run, or of several compared, in one step. Returns ``path``."""
    write_text(path, render(records))
    return path


def render(records: Sequence[Record]) -> str:
    """The page's text."""
    games, rivers, texts = [], {}, Texts()
    indices = [read_index(record.folder, record.world) for record in records]
    records = [
        replace(record, derived=known_of_the_world(record, index.queries))
        for record, index in zip(records, indices, strict=True)
    ]
    groups = facts.grouped(records)
    firsts = {id(members[0]): name for name, members in groups.items()}
    for record, index in zip(records, indices, strict=True):
        chosen = sample(record.folder, index, record.world, BUDGET // len(records))
        games.append(_game(record, chosen, len(index.queries), index.rows, texts))
        if record.settings["method.queries"] == "challenger" and id(record) in firsts:
            kinds = record.world.kinds(legal_texts(index.queries))
            rivers[firsts[id(record)]] = charts.river_charts(index.queries, kinds)
    script, style = (_source(name) for name in ("page.js", "page.css"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["visible"] = lambda value: visible(str(value))
    return environment.get_template("page.html").render(
        title=records[0].run["id"] if len(records) == 1 else f"{len(records)} runs compared",
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " base-uri 'none'; form-action 'none'",
        script=Markup(script),
        style=Markup(style),
        data=Markup(page_json({"games": games, "texts": texts.all})),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        runs=[_run(record) for record in records],
        seeds={name: len(members) for name, members in groups.items()},
        charts=charts.curve_charts(groups),
        rivers=rivers,
        crossplay=[
            charts.crossplay_chart((record.folder / CROSSPLAY).parent)
            for record in records
            if (record.folder / CROSSPLAY).is_file()
        ],
        Markup=Markup,
    )


def known_of_the_world(
    record: Record, queries: dict[int, list[tuple[str, bool]]]
) -> dict[str, list[tuple[int, float]]]:
    """Series that the run's world knows of its trace."""
    legal = {step: [legal for _, legal in asked] for step, asked in queries.items()}
    return {
        LEGAL_QUERIES: [(step, sum(flags) / len(flags)) for step, flags in legal.items()],
        TRUE_QUALITY: true_quality(record.folder, record.world),
    }


class Texts:
    """Every text once; a play refers to it by its number."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, text: str) -> int:
        if text not in self._number:
            self._number[text] = len(self.all)
            self.all.append(text)
        return self._number[text]


def _game(record: Record, chosen: Sample, steps: int, rows: int, texts: Texts) -> dict[str, Any]:
    note = f"All {rows:,} rows of {steps:,} steps."
    if not chosen.whole:
        note = (
            f"A sample: {chosen.shown:,} answers of {len(chosen.plays)} of {steps:,} steps"
            f" ({rows:,} rows in all), the best, worst and most repeated queries always in; python"
            f" -m lsp.show {shlex.quote(str(record.folder))} --step N shows any step whole."
        )
    return {
        "id": record.run["id"],
        "note": note,
        "steps": list(chosen.plays),
        "plays": [[_query(query, texts) for query in queries] for queries in chosen.plays.values()],
    }


def _query(query: PlayedQuery, texts: Texts) -> list[Any]:
    """As page.js reads it."""
    numbers = (
        query.query_value,
        query.query_quality,
        query.challenger_reward,
        query.challenger_advantage,
    )
    return [
        texts.number(query.query),
        query.query_finish_reason,
        int(query.legal),
        query.query_tokens,
        *_short(numbers),
        query.same_step,
        query.first_step,
        [
            [
                texts.number(answer.answer),
                *_short((answer.reward, answer.quality, answer.solver_advantage)),
                answer.answer_tokens,
                answer.answer_finish_reason,
            ]
            for answer in query.answers
        ],
    ]


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Four digits each; JSON has no number for one that is not finite."""
    return [float(f"{v:.4g}") if v is not None and math.isfinite(v) else None for v in values]


def _run(record: Record) -> dict[str, Any]:
    """What the template says of one run."""
    return {
        "id": record.run["id"],
        "method": record.run["method"],
        "start": record.run["init"].get("text", ""),
        "seed": record.settings.get("seed"),
        "state": record.state,
        "warning": record.warning,
        "verdict": facts.verdict(record),
        "evaluated": facts.evaluated_numbers(record),
        "training": facts.training_numbers(record),
        "lights": facts.lights(record),
        "alerts": record.alerts,
        "differences": facts.differences(record),
        "provenance": facts.provenance(record),
        "command": facts.command_again(record),
        "commit": record.run.get("git_commit", ""),
        "reward": facts.windows(record, facts.REWARD),
    }


def _source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
