"""The game as it was played: a trace goes in, each step's queries with their answers come out.

``read_plays`` gives a step whole. ``sample`` chooses what a report of limited size holds: all of a
small run; of a large one evenly spaced steps, each with its best, worst and most repeated queries
before any other.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import fmean

from lsp.contracts import World
from lsp.tools.text import page_json, visible
from lsp.tracking.reader import read_columns, read_trace, trace_steps

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
    """Each field is a column of the trace."""

    answer: str
    reward: float
    quality: float | None
    solver_advantage: float
    answer_tokens: int
    answer_finish_reason: str


@dataclass(frozen=True)
class QueryColumns:
    """Each field is a column of the trace. The Challenger's are None where a data set asked or the
    query was not played."""

    step: int
    query_id: str
    query: str
    query_finish_reason: str
    query_tokens: int | None
    query_value: float | None
    challenger_reward: float | None
    challenger_advantage: float | None

    @property
    def rank(self) -> float:
        return _rank(self.challenger_advantage, self.query_value)


@dataclass(frozen=True)
class PlayedQuery(QueryColumns):
    """One query of a step. ``query_quality`` is V_Q, None where no score was read. ``same_step``
    queries of the step have its text; ``first_step`` is where the text was first asked."""

    legal: bool
    query_quality: float | None
    answers: list[PlayedAnswer] = field(repr=False)
    same_step: int = 1
    first_step: int | None = None


COLUMNS = {kind: [f.name for f in fields(kind)] for kind in (QueryColumns, PlayedAnswer)}
"""What is read of a trace."""


@dataclass(frozen=True)
class Index:
    """All of a run but its answers. ``queries``: step -> (text, whether it was played and is legal)
    of each; ``asked``: text -> (times, first step); ``extremes``: steps of the best, worst and most
    repeated query of all."""

    queries: dict[int, list[tuple[str, bool]]]
    asked: dict[str, tuple[int, int]]
    rows: int
    extremes: tuple[int, ...]


def read_index(run: Path, world: World) -> Index:
    columns = ["query_id", "query", "query_finish_reason", "query_value", "challenger_advantage"]
    queries: dict[int, list[tuple[str, bool]]] = {}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    ranks: dict[int, tuple[float, float]] = {}
    rows, is_legal = 0, cache(world.is_legal)
    for step in trace_steps(run):
        table = read_columns(run, step, columns)
        ids, texts, ends, values, advantages = (table[name] for name in columns)
        rows += len(ids)
        distinct = {i: (text, end) for i, text, end in zip(ids, texts, ends, strict=True)}
        queries[step] = [(t, end == "stop" and is_legal(t)) for t, end in distinct.values()]
        for text, _ in queries[step]:
            counts[text] += 1
            first.setdefault(text, step)
        pairs = zip(advantages, values, strict=True)
        played = [_rank(*pair) for pair in pairs if pair[1] is not None]
        if played:
            ranks[step] = (min(played), max(played))
    asked = {text: (times, first[text]) for text, times in counts.items()}
    extremes = [first[counts.most_common(1)[0][0]]]
    if ranks:
        extremes += [min(ranks, key=lambda s: ranks[s][0]), max(ranks, key=lambda s: ranks[s][1])]
    return Index(queries, asked, rows, tuple(extremes))


def true_quality(run: Path, world: World) -> list[tuple[int, float]]:
    """(step, mean true quality of its answers), where the world knows any."""
    quality, points = cache(world.quality), []
    for step in trace_steps(run):
        table = read_columns(run, step, ["query", "answer"])
        pairs = zip(table["query"], table["answer"], strict=True)
        known = [quality(*pair) for pair in pairs if pair[1] is not None]
        if values := [value for value in known if value is not None]:
            points.append((step, fmean(values)))
    return points


def _rank(advantage: float | None, value: float | None) -> float:
    """What cards are sorted by, highest first: the Challenger's advantage; where it has none, low
    value first; what was not played last."""
    if advantage is not None:
        return advantage
    return -value if value is not None else -math.inf


def read_plays(
    run: Path, step: int, world: World, asked: Mapping[str, tuple[int, int]] | None = None
) -> list[PlayedQuery]:
    """The queries of one step, the Challenger's best first, each with its best answers first."""
    rows = read_trace(run, [step])
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row["query_id"])]
    times = Counter(group[0]["query"] for group in groups)
    queries = []
    for group in groups:
        head, text = group[0], group[0]["query"]
        answers = [PlayedAnswer(*(row[name] for name in COLUMNS[PlayedAnswer])) for row in group]
        answers = [answer for answer in answers if answer.answer is not None]
        scores = [answer.quality for answer in answers if answer.quality is not None]
        queries.append(
            PlayedQuery(
                *(head[name] for name in COLUMNS[QueryColumns]),
                legal=head["query_finish_reason"] == "stop" and world.is_legal(text),
                query_quality=fmean(scores) if scores else None,
                answers=sorted(answers, key=lambda answer: -answer.solver_advantage),
                same_step=times[text],
                first_step=asked[text][1] if asked else None,
            )
        )
    return sorted(queries, key=lambda query: -query.rank)


def sample(
    run: Path, index: Index, world: World, budget: int
) -> tuple[dict[int, list[PlayedQuery]], bool]:
    """(queries by step, their texts made visible and cut, which take at most about ``budget`` bytes
    of the page; whether that is all there is)."""
    steps, left = list(index.queries), budget
    plays: dict[int, list[PlayedQuery]] = {}
    if BYTES_OF_NUMBERS * index.rows <= budget:
        for step in steps:
            queries = read_plays(run, step, world, index.asked)
            plays[step] = [_cut(query, LONGEST) for query in queries]
            left -= sum(map(_size, plays[step]))
            if left < 0:
                break
        else:
            return plays, True
    spaced = (round(i * (len(steps) - 1) / (MAX_STEPS - 1)) for i in range(MAX_STEPS))
    chosen = sorted({*(steps[i] for i in spaced), *index.extremes})
    plays = {}
    for step in chosen:
        queries = read_plays(run, step, world, index.asked)
        plays[step] = _fitting(queries, index.asked, budget // len(chosen))
    return plays, False


def _fitting(
    queries: Sequence[PlayedQuery], asked: Mapping[str, tuple[int, int]], share: int
) -> list[PlayedQuery]:
    """The best, the worst and the most repeated query, however short they must be cut for it, then
    others from both ends of the ranks while ``share`` bytes last; ``queries`` are ranked."""
    played = [query for query in queries if query.query_value is not None] or list(queries)
    repeated = max(queries, key=lambda query: (asked[query.query][0], query.rank))
    required = {query.query_id: query for query in (played[0], played[-1], repeated)}
    ends = [query for pair in zip(queries, reversed(queries), strict=True) for query in pair]
    others = {query.query_id: query for query in ends if query.query_id not in required}
    longest = LONGEST_OF_SAMPLE
    kept = [_cut(query, longest) for query in required.values()]
    while sum(map(_size, kept)) > share and longest > 20:
        longest //= 2
        kept = [_cut(query, longest, FEWEST_ANSWERS) for query in required.values()]
    left = share - sum(map(_size, kept))
    for query in others.values():
        shortened = _cut(query, longest)
        if _size(shortened) <= left:
            kept.append(shortened)
            left -= _size(shortened)
    return sorted(kept, key=lambda query: -query.rank)


def _cut(query: PlayedQuery, longest: int, count: int | None = None) -> PlayedQuery:
    """Texts made visible, of at most ``longest`` characters; of the answers ``count``, the best and
    the worst among them."""
    answers = query.answers
    if count is not None and len(answers) > count:
        answers = [*answers[: count - 1], answers[-1]]
    return replace(
        query,
        query=visible(query.query, longest),
        answers=[replace(a, answer=visible(a.answer, longest)) for a in answers],
    )


def _size(query: PlayedQuery) -> int:
    """Bytes of a query in a page, were no text in it twice."""
    texts = [query.query, *(answer.answer for answer in query.answers)]
    return len(page_json(texts).encode()) + BYTES_OF_NUMBERS * len(texts)
