"""The game as it was played: a trace goes in, each step's queries with their answers come out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import numpy as np

from lsp.contracts import World
from lsp.tools.text import page_json, visible
from lsp.tracking.reader import read_columns, read_trace, trace_steps

MAX_STEPS = 100  # of a run that does not fit whole
LONGEST, LONGEST_OF_SAMPLE = 20_000, 2_000  # characters of a text: where all fits; where not
FEWEST_ANSWERS = 4  # of a query in a step that must be cut short
BYTES_OF_NUMBERS = 60  # of a query or an answer, beside its text


@dataclass(frozen=True)
class AnswerColumns:
    """Each field is a column of the trace."""

    answer: str
    reward: float
    quality: float | None
    solver_advantage: float
    answer_tokens: int
    answer_finish_reason: str


@dataclass(frozen=True)
class PlayedAnswer(AnswerColumns):
    """One answer, and how often the query got it. ``checks``: what its world held it to, in words,
    with ticks and crosses."""

    checks: str = ""
    times: int = 1


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
    right_answer: str | None = None

    @property
    def texts(self) -> list[str]:
        return [self.query, *(answer.answer for answer in self.answers)]


COLUMNS = {kind: [f.name for f in fields(kind)] for kind in (QueryColumns, AnswerColumns)}
"""What is read of a trace."""


Plays = dict[int, list[PlayedQuery]]  # by step
Uses = Mapping[str, tuple[int, int]]  # text of a query -> (times asked, first step)


@dataclass(frozen=True)
class Index:
    """All of a run but its answers. ``queries``: step -> (text, whether it was played and is legal)
    of each; ``extremes``: steps of the most repeated, the worst and the best query of all."""

    queries: dict[int, list[tuple[str, bool]]]
    uses: Uses
    rows: int
    extremes: tuple[int, ...]


def read_index(run: Path, world: World, steps: Sequence[int] | None = None) -> Index:
    """Of ``steps``, or of all that have a shard."""
    columns = ["query_id", "query", "query_finish_reason", "query_value", "challenger_advantage"]
    queries: dict[int, list[tuple[str, bool]]] = {}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    ranks: list[tuple[float, int]] = []  # of played queries, with their steps
    rows, is_legal = 0, cache(world.is_legal)
    for step in trace_steps(run) if steps is None else steps:
        table = read_columns(run, step, columns)
        rows += len(table["query_id"])
        lines = zip(*(table[name] for name in columns), strict=True)
        distinct = {query_id: rest for query_id, *rest in lines}  # rows are answers
        queries[step] = []
        for text, finish_reason, value, advantage in distinct.values():
            queries[step].append((text, finish_reason == "stop" and is_legal(text)))
            counts[text] += 1
            first.setdefault(text, step)
            if value is not None:
                ranks.append((_rank(advantage, value), step))
    uses = {text: (times, first[text]) for text, times in counts.items()}
    extremes = [first[counts.most_common(1)[0][0]]]
    if ranks:
        extremes += [pick(ranks, key=itemgetter(0))[1] for pick in (min, max)]
    return Index(queries, uses, rows, tuple(extremes))


def true_quality(
    run: Path, world: World, steps: Sequence[int] | None = None
) -> list[tuple[int, float]]:
    """(step, mean true quality of its answers), where the world knows any."""
    quality, points = cache(world.quality), []
    for step in trace_steps(run) if steps is None else steps:
        table = read_columns(run, step, ["query", "answer"])
        pairs = zip(table["query"], table["answer"], strict=True)
        qualities = [quality(query, answer) for query, answer in pairs if answer is not None]
        if values := [value for value in qualities if value is not None]:
            points.append((step, fmean(values)))
    return points


def _rank(advantage: float | None, value: float | None) -> float:
    """What cards are sorted by, highest first: the Challenger's advantage; where it has none, low
    value first; what was not played last."""
    if advantage is not None:
        return advantage
    return -value if value is not None else -math.inf


def read_plays(run: Path, step: int, world: World, uses: Uses | None = None) -> list[PlayedQuery]:
    """The queries of one step, the Challenger's best first, each with its best answers first."""
    rows = read_trace(run, [step])
    groups = [list(group) for _, group in groupby(rows, key=itemgetter("query_id"))]
    times = Counter(group[0]["query"] for group in groups)
    queries = []
    for group in groups:
        head, text = group[0], group[0]["query"]
        counts = Counter(
            AnswerColumns(*(row[name] for name in COLUMNS[AnswerColumns]))
            for row in group
            if row["answer"] is not None
        )
        answers = [
            PlayedAnswer(**vars(one), checks=ticks(world, text, one.answer), times=times_given)
            for one, times_given in counts.items()
        ]
        scores = [row["quality"] for row in group if row["quality"] is not None]
        queries.append(
            PlayedQuery(
                *(head[name] for name in COLUMNS[QueryColumns]),
                legal=head["query_finish_reason"] == "stop" and world.is_legal(text),
                query_quality=fmean(scores) if scores else None,
                answers=sorted(answers, key=lambda answer: -answer.solver_advantage),
                same_step=times[text],
                first_step=uses[text][1] if uses else None,
                right_answer=world.right_answer(text),
            )
        )
    return sorted(queries, key=lambda query: -query.rank)


def ticks(world: World, query: str, answer: str) -> str:
    """What a world holds an answer to, in words: ``✓ no comma  ✗ title``."""
    marks = {True: "✓", False: "✗", None: "?"}
    return "  ".join(f"{marks[yes]} {name}" for name, yes in world.checks(query, answer))


def sample(run: Path, index: Index, world: World, budget: int) -> tuple[Plays, bool]:
    """(queries, their texts made visible and cut, which take at most about ``budget`` bytes of the
    page; whether that is all there is). Of a run that does not fit: evenly spaced steps, each with
    its best, worst and most repeated queries before any other."""
    steps, uses, left = list(index.queries), index.uses, budget
    plays: Plays = {}
    if BYTES_OF_NUMBERS * index.rows <= budget:
        for step in steps:
            plays[step] = [_cut(query, LONGEST) for query in read_plays(run, step, world, uses)]
            left -= sum(map(_size, plays[step]))
            if left < 0:
                break
        else:
            return plays, True
    spaced = np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)
    chosen = sorted({*(steps[i] for i in spaced), *index.extremes})
    share = budget // len(chosen)
    return {s: _fitting(read_plays(run, s, world, uses), uses, share) for s in chosen}, False


def _fitting(queries: Sequence[PlayedQuery], uses: Uses, share: int) -> list[PlayedQuery]:
    """The best, the worst and the most repeated query, however short they must be cut for it, then
    others from both ends of the ranks while ``share`` bytes last; ``queries`` are ranked."""
    played = [query for query in queries if query.query_value is not None] or list(queries)
    repeated = max(queries, key=lambda query: (uses[query.query][0], query.rank))
    required = {query.query_id: query for query in (played[0], played[-1], repeated)}
    ends = {q.query_id: q for pair in zip(queries, reversed(queries), strict=True) for q in pair}
    longest = LONGEST_OF_SAMPLE
    kept = [_cut(query, longest) for query in required.values()]
    while (left := share - sum(map(_size, kept))) < 0 and longest > 20:
        longest //= 2
        kept = [_cut(query, longest, FEWEST_ANSWERS) for query in required.values()]
    for query_id, query in ends.items():
        shortened = _cut(query, longest)
        if query_id not in required and _size(shortened) <= left:
            kept.append(shortened)
            left -= _size(shortened)
    return sorted(kept, key=lambda query: -query.rank)


def _cut(query: PlayedQuery, longest: int, count: int | None = None) -> PlayedQuery:
    """Texts made visible, of at most ``longest`` characters; of the answers ``count``, the best and
    the worst among them."""
    answers = query.answers
    if count is not None and len(answers) > count:
        answers = [*answers[: count - 1], answers[-1]]
    answers = [replace(answer, answer=visible(answer.answer, longest)) for answer in answers]
    return replace(query, query=visible(query.query, longest), answers=answers)


def _size(query: PlayedQuery) -> int:
    """Bytes of a query in a page, were no text in it twice."""
    return len(page_json(query.texts).encode()) + BYTES_OF_NUMBERS * len(query.texts)
