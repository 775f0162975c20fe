"""The game as it was played: each step's queries with their answers, from a run's trace.

``read_plays`` gives a step whole. ``sample`` chooses what a report of limited size holds: all of a
small run; of a large one evenly spaced steps, each with its best, worst and most repeated queries
before any other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lsp.tools.text import page_json, visible
from lsp.tracking.reader import read_trace, trace_steps

MAX_STEPS = 100
"""Steps of a run that does not fit whole."""
LONGEST, LONGEST_OF_SAMPLE = 20_000, 2_000
"""Characters of a text: where everything fits, and where it does not."""
FEWEST_ANSWERS = 4
"""Answers of a query in a step that must be cut short."""
BYTES_OF_NUMBERS = 60
"""Of a query or an answer beside its text."""


@dataclass(frozen=True)
class PlayedAnswer:
    text: str
    reward: float
    quality: float | None
    advantage: float
    tokens: int
    finish: str


@dataclass(frozen=True)
class PlayedQuery:
    """One query of a step; ``reward`` and ``advantage`` are the Challenger's, None where a data set
    asked or the query was not played. ``value`` is V, ``quality`` V_Q. ``same_step`` queries of the
    step have its text; ``first_step`` is where the text was first asked."""

    step: int
    query_id: str
    text: str
    finish: str
    valid: bool
    tokens: int | None
    value: float | None
    quality: float | None
    reward: float | None
    advantage: float | None
    answers: list[PlayedAnswer] = field(repr=False)
    same_step: int = 1
    first_step: int | None = None

    @property
    def rank(self) -> float:
        return _rank(self.advantage, self.value)


@dataclass(frozen=True)
class Index:
    """All of a run but its answers. ``queries``: step -> (text, finish reason) of each; ``asked``:
    text -> (times, first step); ``mean_rubric``: step -> mean true quality of its answers;
    ``extremes``: steps of the best, worst and most repeated query of all."""

    queries: dict[int, list[tuple[str, str]]]
    asked: dict[str, tuple[int, int]]
    rows: int
    mean_rubric: dict[int, float]
    extremes: tuple[int, ...]


def read_index(run: Path, rubric: Callable[[str, str], float] | None) -> Index:
    """``rubric``: the true quality of a (query, answer) pair where one is known."""
    columns = ["query_id", "query", "query_finish_reason", "query_value", "challenger_advantage"]
    columns += ["answer"] if rubric else []
    queries: dict[int, list[tuple[str, str]]] = {}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    ranks: dict[int, tuple[float, float]] = {}
    rows, rubric_of = 0, {}
    known: dict[tuple[str, str], float] = {}
    for step in trace_steps(run):
        table = _read(run, step, columns)
        rows += len(table["query"])
        seen: dict[str, tuple[str, str]] = {}
        for query_id, text, finish in zip(
            table["query_id"], table["query"], table["query_finish_reason"], strict=True
        ):
            seen.setdefault(query_id, (text, finish))
        queries[step] = list(seen.values())
        for text, _ in queries[step]:
            counts[text] += 1
            first.setdefault(text, step)
        own = zip(table["challenger_advantage"], table["query_value"], strict=True)
        played = [_rank(*pair) for pair in own if pair[1] is not None]
        if played:
            ranks[step] = (min(played), max(played))
        if rubric:
            pairs = [
                p for p in zip(table["query"], table["answer"], strict=True) if p[1] is not None
            ]
            for pair in pairs:
                if pair not in known:
                    known[pair] = rubric(*pair)
            if pairs:
                rubric_of[step] = sum(known[pair] for pair in pairs) / len(pairs)
    asked = {text: (times, first[text]) for text, times in counts.items()}
    extremes = [first[counts.most_common(1)[0][0]]]
    if ranks:
        extremes += [min(ranks, key=lambda s: ranks[s][0]), max(ranks, key=lambda s: ranks[s][1])]
    return Index(queries, asked, rows, rubric_of, tuple(extremes))


def _rank(advantage: float | None, value: float | None) -> float:
    """What cards are sorted by, highest first: the Challenger's advantage; where it has none, low
    value first; what was not played last."""
    if advantage is not None:
        return advantage
    return -value if value is not None else -math.inf


def _read(run: Path, step: int, columns: Sequence[str]) -> dict[str, list[Any]]:
    path = run / "trace" / f"step-{step:06d}.parquet"
    with pq.ParquetFile(path) as shard:
        return shard.read(columns=list(columns), use_threads=False).to_pydict()


def read_plays(
    run: Path,
    step: int,
    is_valid: Callable[[str], bool],
    asked: dict[str, tuple[int, int]] | None = None,
) -> list[PlayedQuery]:
    """The queries of one step, the Challenger's best first. ``is_valid``: whether a text that came
    to its end is a query that the world knows."""
    rows = read_trace(run, [step])
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row["query_id"])]
    times = Counter(group[0]["query"] for group in groups)
    found = []
    for group in groups:
        head = group[0]
        answers = [
            PlayedAnswer(
                row["answer"],
                row["reward"],
                row["quality"],
                row["solver_advantage"],
                row["answer_tokens"],
                row["answer_finish_reason"],
            )
            for row in group
            if row["answer"] is not None
        ]
        read = [a.quality for a in answers if a.quality is not None]
        found.append(
            PlayedQuery(
                step,
                head["query_id"],
                head["query"],
                head["query_finish_reason"],
                head["query_finish_reason"] == "stop" and is_valid(head["query"]),
                head["query_tokens"],
                head["query_value"],
                sum(read) / len(read) if read else None,
                head["challenger_reward"],
                head["challenger_advantage"],
                sorted(answers, key=lambda a: -a.advantage),
                times[head["query"]],
                asked[head["query"]][1] if asked else None,
            )
        )
    return sorted(found, key=lambda query: -query.rank)


@dataclass(frozen=True)
class Sample:
    """What a report shows: queries by step, their texts made visible and cut, and whether that is
    all there is."""

    plays: dict[int, list[PlayedQuery]]
    whole: bool

    @property
    def shown(self) -> int:
        return sum(len(query.answers) for queries in self.plays.values() for query in queries)


def sample(run: Path, index: Index, is_valid: Callable[[str], bool], budget: int) -> Sample:
    """Plays that take at most about ``budget`` bytes of the page."""
    steps = list(index.queries)
    if BYTES_OF_NUMBERS * index.rows <= budget:
        plays, left = {}, budget
        for step in steps:
            queries = read_plays(run, step, is_valid, index.asked)
            plays[step] = [_cut(query, LONGEST) for query in queries]
            left -= sum(_size(query) for query in plays[step])
            if left < 0:
                break
        else:
            return Sample(plays, True)
    chosen = sorted({*_spaced(steps, MAX_STEPS), *index.extremes})
    plays = {}
    for step in chosen:
        queries = read_plays(run, step, is_valid, index.asked)
        plays[step] = _fitting(queries, index.asked, budget // len(chosen))
    return Sample(plays, False)


def _fitting(
    queries: Sequence[PlayedQuery], asked: dict[str, tuple[int, int]], share: int
) -> list[PlayedQuery]:
    """The best, the worst and the most repeated query, however short they must be cut for it, then
    others from both ends of the ranks while ``share`` bytes last."""
    required, others = _first_things_first(queries, asked)
    longest = LONGEST_OF_SAMPLE
    kept = [_cut(query, longest) for query in required]
    while sum(map(_size, kept)) > share and longest > 20:
        longest //= 2
        kept = [_cut(query, longest, FEWEST_ANSWERS) for query in required]
    left = share - sum(map(_size, kept))
    for query in others:
        own = _cut(query, longest)
        if _size(own) <= left:
            kept.append(own)
            left -= _size(own)
    return sorted(kept, key=lambda query: -query.rank)


def _spaced(steps: Sequence[int], count: int) -> list[int]:
    """The first and the last step, and evenly spaced ones between."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def _first_things_first(
    queries: Sequence[PlayedQuery], asked: dict[str, tuple[int, int]]
) -> tuple[list[PlayedQuery], list[PlayedQuery]]:
    """(best, worst played and most repeated query of a step, the rest from both ends of the
    ranks); ``queries`` are ranked."""
    played = [query for query in queries if query.value is not None] or list(queries)
    repeated = max(queries, key=lambda query: (asked[query.text][0], query.rank))
    required = _unique([played[0], played[-1], repeated])
    known = {query.query_id for query in required}
    ends = [q for pair in zip(queries, reversed(queries), strict=True) for q in pair]
    return required, [query for query in _unique(ends) if query.query_id not in known]


def _unique(queries: Sequence[PlayedQuery]) -> list[PlayedQuery]:
    return list({query.query_id: query for query in queries}.values())


def _cut(query: PlayedQuery, longest: int, answers: int | None = None) -> PlayedQuery:
    """Texts made visible, of at most ``longest`` characters; of the answers so many, the best and
    the worst among them."""
    kept = query.answers
    if answers is not None and len(kept) > answers:
        kept = [*kept[: answers - 1], kept[-1]]
    return replace(
        query,
        text=visible(query.text, longest),
        answers=[replace(answer, text=visible(answer.text, longest)) for answer in kept],
    )


def _size(query: PlayedQuery) -> int:
    """Bytes of a query in a page, were no text in it twice."""
    texts = [query.text, *(answer.text for answer in query.answers)]
    return len(page_json(texts).encode()) + BYTES_OF_NUMBERS * len(texts)
