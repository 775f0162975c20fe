"""One row a (query, answer) pair: a step's play goes in, rows of COLUMNS come out.

A column's name, its type and what fills it are one line below; shards and tables follow from it,
and docs/metrics.md says what each is. A query that was not played has one row, without an answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:  # a reader of traces needs the columns and no torch
    from lsp.types import Completion, Play, Query, Role, RowKey

    Measured = Mapping[RowKey, tuple[float, float]]
    """Key of a training row -> its mean KL (k2) to the reference and its mean entropy."""


@dataclass(frozen=True)
class Pair:
    """``query`` with answer ``j`` of the played query ``i``; both None where it was not played.
    ``numbers``: the play's tensors by name, as nested lists."""

    run_id: str
    step: int
    query: Query
    play: Play
    numbers: Mapping[str, list[Any]]
    measured: Measured
    i: int | None
    j: int | None

    @property
    def source(self) -> str:
        return "dataset" if self.query.status == "dataset" else "challenger"

    @property
    def answer(self) -> Completion | None:
        return None if self.i is None or self.j is None else self.play.answers[self.i][self.j]

    def number(self, name: str) -> Any:
        """The play's ``name_Q`` or ``name_QG`` at this pair."""
        if self.i is None:
            return None
        value = self.numbers[name][self.i]
        return value if name.endswith("_Q") else value[self.j]

    def challenger_number(self, name: str) -> Any:
        """Null where a data set asked, and where a query that was not played bears no loss."""
        if self.i is None and self.query in self.play.invalid:
            earned = name == "challenger_reward_Q"
            return self.play.invalid_reward if earned else self.play.invalid_advantage
        return None if self.query.completion is None else self.number(name)

    @property
    def details(self) -> str | None:
        values = {name: self.number(f"{name}/detail") for name in self.play.reward_details}
        return json.dumps(values) if values and self.answer else None

    @property
    def quality(self) -> float | None:
        value = self.number("quality_QG")
        return None if value is None or math.isnan(value) else float(value)

    @property
    def quality_text(self) -> str | None:
        texts = self.play.quality_text
        return None if self.i is None or self.j is None or not texts else texts[self.i][self.j]

    @property
    def quality_status(self) -> str | None:
        if self.answer is None:
            return None
        if not self.play.quality_text:
            return "not scored"
        return "unread" if self.quality is None else "read"

    def measure(self, role: Role, which: int) -> float | None:
        """Mean KL (0) or entropy (1) of a role's completion; null where it was not trained on."""
        prompt, completion = self.query.prompt_ids, self.query.completion
        if role == "solver":
            prompt = () if self.i is None else self.play.solver_prompt_ids[self.i]
            completion = self.answer
        values = completion and self.measured.get((role, prompt, completion.ids))
        return values[which] if values else None


TEXT, WHOLE, NUMBER = pa.string(), pa.int32(), pa.float32()
COLUMNS: dict[str, tuple[pa.DataType, Callable[[Pair], Any]]] = {
    "run_id": (TEXT, lambda p: p.run_id),
    "step": (WHOLE, lambda p: p.step),
    "query_id": (TEXT, lambda p: p.query.query_id),
    "answer_id": (TEXT, lambda p: p.answer and f"{p.query.query_id}-a{p.j:03d}"),
    "source": (TEXT, lambda p: p.source),
    "query": (TEXT, lambda p: p.query.text),
    "query_seed": (TEXT, lambda p: p.query.seed or None),
    "answer": (TEXT, lambda p: p.answer and p.answer.text),
    "reward": (NUMBER, lambda p: p.number("reward_QG")),
    "reward_details": (TEXT, lambda p: p.details),
    "quality": (NUMBER, lambda p: p.quality),
    "quality_text": (TEXT, lambda p: p.quality_text),
    "quality_status": (TEXT, lambda p: p.quality_status),
    "solver_reward": (NUMBER, lambda p: p.number("solver_reward_QG")),
    "solver_advantage": (NUMBER, lambda p: p.number("solver_advantage_QG")),
    "query_value": (NUMBER, lambda p: p.number("query_value_Q")),
    "challenger_reward": (NUMBER, lambda p: p.challenger_number("challenger_reward_Q")),
    "challenger_advantage": (NUMBER, lambda p: p.challenger_number("challenger_advantage_Q")),
    "query_finish_reason": (TEXT, lambda p: "stop" if p.source == "dataset" else p.query.status),
    "answer_finish_reason": (TEXT, lambda p: p.answer and p.answer.finish_reason),
    "query_tokens": (WHOLE, lambda p: p.query.completion and len(p.query.completion.ids)),
    "answer_tokens": (WHOLE, lambda p: p.answer and len(p.answer.ids)),
    "query_kl": (NUMBER, lambda p: p.measure("challenger", 0)),
    "answer_kl": (NUMBER, lambda p: p.measure("solver", 0)),
    "query_entropy": (NUMBER, lambda p: p.measure("challenger", 1)),
    "answer_entropy": (NUMBER, lambda p: p.measure("solver", 1)),
}
"""Name -> (type, what fills it); in the order of a shard."""
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
"""Of a trace shard."""


def trace_rows(
    run_id: str, step: int, queries: Sequence[Query], play: Play, measured: Measured
) -> list[dict[str, Any]]:
    """Every (query, answer) pair of the step, and one row for each query that was not played, whose
    ``query_finish_reason`` is the reason."""
    import torch

    positions = {query.query_id: i for i, query in enumerate(play.queries)}
    numbers = {name: value.tolist() for name, value in vars(play).items() if torch.is_tensor(value)}
    numbers |= {f"{name}/detail": value.tolist() for name, value in play.reward_details.items()}
    pairs = []
    for query in queries:
        i = positions.get(query.query_id)
        answers = [None] if i is None else range(len(play.answers[i]))
        pairs += [Pair(run_id, step, query, play, numbers, measured, i, j) for j in answers]
    return [{name: fill(pair) for name, (_, fill) in COLUMNS.items()} for pair in pairs]
