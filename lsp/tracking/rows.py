"""One row a (query, answer) pair: a step's play goes in, rows of COLUMNS come out.

A column's name, its type, its meaning and what fills it are one line below; shards, tables and
docs/metrics.md follow from it. A query that was not played has one row, whose answer is null.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from lsp.types import Completion, Play, Query

Measured = Mapping[tuple[Any, ...], tuple[float, float]]
"""Key of a training row -> its mean KL (k2) to the reference and its mean entropy."""


@dataclass(frozen=True)
class Numbers:
    """A play's tensors as plain numbers: [Q] lists, and [Q][G] lists of lists."""

    value: list[float]
    challenger_reward: list[float]
    challenger_advantage: list[float]
    reward: list[list[float]]
    quality: list[list[float]]
    solver_reward: list[list[float]]
    solver_advantage: list[list[float]]
    details: dict[str, list[list[float]]]

    @classmethod
    def of(cls, play: Play) -> "Numbers":
        return cls(
            play.query_value_Q.tolist(),
            play.challenger_reward_Q.tolist(),
            play.challenger_advantage_Q.tolist(),
            play.reward_QG.tolist(),
            play.quality_QG.tolist(),
            play.solver_reward_QG.tolist(),
            play.solver_advantage_QG.tolist(),
            {name: tensor.tolist() for name, tensor in play.reward_details.items()},
        )


@dataclass(frozen=True)
class Pair:
    """Query ``query`` with answer ``j`` of the played query ``i``; both None where it was not
    played."""

    run_id: str
    step: int
    query: Query
    play: Play
    numbers: Numbers
    measured: Measured
    i: int | None
    j: int | None

    @property
    def answer(self) -> Completion | None:
        return None if self.i is None or self.j is None else self.play.answers[self.i][self.j]

    def of_query(self, values: Sequence[float]) -> float | None:
        return None if self.i is None else values[self.i]

    def of_challenger(self, values: Sequence[float]) -> float | None:
        """Null where a data set asked."""
        return None if self.query.completion is None else self.of_query(values)

    def of_answer(self, values: Sequence[Sequence[Any]]) -> Any:
        return None if self.i is None or self.j is None else values[self.i][self.j]

    @property
    def details(self) -> str | None:
        values = {name: self.of_answer(own) for name, own in self.numbers.details.items()}
        return json.dumps(values) if values and self.i is not None else None

    @property
    def quality(self) -> float | None:
        value = self.of_answer(self.numbers.quality) if self.play.quality_text else None
        return None if value is None or math.isnan(value) else float(value)

    @property
    def quality_status(self) -> str | None:
        if self.i is None:
            return None
        if not self.play.quality_text:
            return "not scored"
        return "unread" if self.quality is None else "read"

    def measure(self, role: str, which: int) -> float | None:
        """Of the Challenger's or the Solver's completion; null where it took no part in the
        update."""
        if role == "challenger":
            prompt, completion = self.query.prompt_ids, self.query.completion
        else:
            prompt = () if self.i is None else self.play.solver_prompt_ids[self.i]
            completion = self.answer
        if completion is None:
            return None
        found = self.measured.get((role, prompt, completion.ids))
        return None if found is None else found[which]


class Column(NamedTuple):
    """``meaning`` is its line in docs/metrics.md; ``value`` fills it."""

    name: str
    kind: pa.DataType
    meaning: str
    value: Callable[[Pair], Any]


TEXT, WHOLE, NUMBER = pa.string(), pa.int32(), pa.float32()
COLUMNS = (
    Column("run_id", TEXT, "the run's id", lambda p: p.run_id),
    Column("step", WHOLE, "from 1", lambda p: p.step),
    Column(
        "query_id", TEXT, "the query's identity: its text may repeat", lambda p: p.query.query_id
    ),
    Column(
        "answer_id",
        TEXT,
        "the answer's identity",
        lambda p: None if p.j is None else f"{p.query.query_id}-a{p.j:03d}",
    ),
    Column(
        "source",
        TEXT,
        "who asked: challenger or dataset",
        lambda p: "dataset" if p.query.status == "dataset" else "challenger",
    ),
    Column("query", TEXT, "what was asked", lambda p: p.query.text),
    Column("answer", TEXT, "what was answered", lambda p: p.answer and p.answer.text),
    Column("reward", NUMBER, "R, external", lambda p: p.of_answer(p.numbers.reward)),
    Column("reward_details", TEXT, "JSON of what the reward says beside R", lambda p: p.details),
    Column("quality", NUMBER, "R_Q; null where unread or not asked for", lambda p: p.quality),
    Column(
        "quality_text",
        TEXT,
        "what the judge wrote",
        lambda p: p.of_answer(p.play.quality_text) if p.play.quality_text else None,
    ),
    Column("quality_status", TEXT, "read, unread or not scored", lambda p: p.quality_status),
    Column("solver_reward", NUMBER, "R + w R_Q", lambda p: p.of_answer(p.numbers.solver_reward)),
    Column(
        "solver_advantage",
        NUMBER,
        "against the mean of the group",
        lambda p: p.of_answer(p.numbers.solver_advantage),
    ),
    Column(
        "query_value", NUMBER, "V, the mean R of its answers", lambda p: p.of_query(p.numbers.value)
    ),
    Column(
        "challenger_reward",
        NUMBER,
        "-V + w V_Q, or another shape",
        lambda p: p.of_challenger(p.numbers.challenger_reward),
    ),
    Column(
        "challenger_advantage",
        NUMBER,
        "against the mean of the step",
        lambda p: p.of_challenger(p.numbers.challenger_advantage),
    ),
    Column(
        "query_finish_reason",
        TEXT,
        "stop, or why it was not played: length, empty, invalid",
        lambda p: "stop" if p.query.status == "dataset" else p.query.status,
    ),
    Column(
        "answer_finish_reason",
        TEXT,
        "stop, or length where it was cut",
        lambda p: p.answer and p.answer.finish_reason,
    ),
    Column(
        "query_tokens",
        WHOLE,
        "tokens, the end token included",
        lambda p: p.query.completion and len(p.query.completion.ids),
    ),
    Column("answer_tokens", WHOLE, "likewise", lambda p: p.answer and len(p.answer.ids)),
    Column("query_kl", NUMBER, "mean KL a token (k2)", lambda p: p.measure("challenger", 0)),
    Column("answer_kl", NUMBER, "likewise", lambda p: p.measure("solver", 0)),
    Column("query_entropy", NUMBER, "mean nats a token", lambda p: p.measure("challenger", 1)),
    Column("answer_entropy", NUMBER, "likewise", lambda p: p.measure("solver", 1)),
)
SCHEMA = pa.schema([(column.name, column.kind) for column in COLUMNS])
"""Of a trace shard."""


def trace_rows(
    run_id: str, step: int, queries: Sequence[Query], play: Play, measured: Measured
) -> list[dict[str, Any]]:
    """Every (query, answer) pair of the step, and one row for each query that was not played.
    Nothing is left out: ``query_finish_reason`` says why a query was not played."""
    place = {query.query_id: i for i, query in enumerate(play.queries)}
    numbers = Numbers.of(play)
    pairs = [
        Pair(run_id, step, query, play, numbers, measured, i, j)
        for query in queries
        for i in (place.get(query.query_id),)
        for j in (range(len(play.answers[i])) if i is not None else (None,))
    ]
    return [{column.name: column.value(pair) for column in COLUMNS} for pair in pairs]
