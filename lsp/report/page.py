"""The page: one self-contained HTML file that runs its own script and fetches nothing.

Model text is hostile: it reaches the page as JSON whose angle brackets are escaped, or through
jinja2's escaping, and the script puts it in as text alone. The policy in the file allows that one
script and that one style sheet, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lsp.pocket.language import form_rubric, parse
from lsp.report import curves as charts
from lsp.report import facts
from lsp.report.game import PlayedQuery, Sample, read_index, sample
from lsp.report.matrix import read_matrix
from lsp.report.record import Record
from lsp.tools.text import page_json, visible

HERE = Path(__file__).parent
REPORT = "report.html"
CROSSPLAY = Path("crossplay") / "crossplay.csv"
BUDGET = 7_000_000
"""Bytes of plays in one report; with charts and escapes it stays under 10 MB."""


def write_report(records: Sequence[Record], path: Path) -> Path:
    """Write the report of one run, or of several compared; atomic. Returns ``path``."""
    text = render(records)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def render(records: Sequence[Record]) -> str:
    pocket = records[0].world == "pocket"
    groups = facts.grouped(records)
    extra: dict[str, dict[str, list[tuple[int, float]]]] = {}
    games, rivers, texts = [], [], Texts()
    firsts = {id(members[0]): name for name, members in groups.items()}
    for record in records:
        index = read_index(record.folder, form_rubric if pocket else None)
        curves = {"valid queries": _valid_share(index.queries)} if pocket else {}
        extra[record.run["id"]] = curves | {"true rubric": sorted(index.mean_rubric.items())}
        chosen = sample(record.folder, index, is_valid(record), BUDGET // len(records))
        games.append(_game(record, chosen, len(index.queries), index.rows, texts))
        asks = record.settings["method.queries"] == "challenger"
        if asks and id(record) in firsts:
            name = firsts[id(record)] if len(groups) > 1 else ""
            rivers.append((name, charts.river_charts(index.queries, pocket)))
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
        charts=charts.curve_charts(groups, extra),
        rivers=rivers,
        crossplay=[_crossplay(r) for r in records if (r.folder / CROSSPLAY).is_file()],
        pocket=pocket,
        Markup=Markup,
    )


def _crossplay(record: Record) -> charts.Chart:
    return charts.crossplay_chart(read_matrix((record.folder / CROSSPLAY).parent))


def is_valid(record: Record):
    """Whether the run's world knows a query: in the pocket world, whether it is a legal task."""
    return (lambda text: parse(text) is not None) if record.world == "pocket" else lambda text: True


class Texts:
    """Every text once; a play refers to it by its number."""

    def __init__(self):
        self.all: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, shown: str) -> int:
        if shown not in self._number:
            self._number[shown] = len(self.all)
            self.all.append(shown)
        return self._number[shown]


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
    return [
        texts.number(query.text),
        query.finish,
        int(query.valid),
        query.tokens,
        _short(query.value),
        _short(query.quality),
        _short(query.reward),
        _short(query.advantage),
        query.same_step,
        query.first_step,
        [
            [
                texts.number(answer.text),
                _short(answer.reward),
                _short(answer.quality),
                _short(answer.advantage),
                answer.tokens,
                answer.finish,
            ]
            for answer in query.answers
        ],
    ]


def _short(value: float | None) -> float | None:
    """Four digits; JSON has no number for one that is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _valid_share(queries: dict[int, list[tuple[str, str]]]) -> list[tuple[int, float]]:
    return [
        (step, sum(end == "stop" and parse(text) is not None for text, end in asked) / len(asked))
        for step, asked in queries.items()
    ]


def _run(record: Record) -> dict[str, Any]:
    """What the template says of one run."""
    summary = record.summary
    reward = facts.windows(record, "reward/external/mean", "R", 3)
    return {
        "id": record.run["id"],
        "method": record.run["method"],
        "start": record.run["init"].get("text", ""),
        "seed": record.settings.get("seed"),
        "state": record.state,
        "verdict": facts.verdict(record),
        "numbers": facts.numbers(record),
        "lights": facts.lights(record),
        "alerts": record.alerts,
        "differences": facts.differences(record),
        "provenance": facts.provenance(record),
        "command": facts.command_again(record),
        "commit": record.run.get("git_commit", ""),
        "accuracy": (summary["base/accuracy"], summary["final/accuracy"])
        if "final/accuracy" in summary
        else None,
        "reward": reward,
    }


def _source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
