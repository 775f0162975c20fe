"""From a play to micro-batches, pure: merge equal rows, weigh them, pack them by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lsp.config import MethodConfig
from lsp.losses import token_weight
from lsp.types import MicroBatch, Play, TrainingRow


def training_rows(
    play: Play,
    method: MethodConfig,
    num_queries: int,
    max_query_tokens: int,
    max_answer_tokens: int,
) -> list[TrainingRow]:
    """The rows of L_Sol + alpha_Ch L_Ch.

    The row denominators are N G and N of the step as planned: unplayed queries and masked
    answers lower the sum and never change what it is divided by. Token denominators count the
    tokens that are trained on.
    """
    group_size = play.reward_QG.shape[1] if play.queries else 1
    solver = [
        (prompt, answer, advantage)
        for prompt, answers, advantages in zip(
            play.solver_prompt_ids, play.answers, play.solver_advantage_QG.tolist(), strict=True
        )
        for answer, advantage in zip(answers, advantages, strict=True)
        if not (method.mask_truncated_answers and answer.finish_reason == "length")
    ]
    challenger = []
    if method.trains_challenger and len(play.queries) >= 2:
        challenger = [
            (query.prompt_ids, query.completion, advantage)
            for query, advantage in zip(
                play.queries, play.challenger_advantage_Q.tolist(), strict=True
            )
        ]
    merged: dict[tuple, TrainingRow] = {}
    for role, entries, rows, limit, role_weight in (
        ("solver", solver, num_queries * group_size, max_answer_tokens, 1.0),
        ("challenger", challenger, num_queries, max_query_tokens, method.challenger_weight),
    ):
        tokens = sum(len(completion.ids) for _, completion, _ in entries)
        for prompt, completion, advantage in entries:
            weight = role_weight * token_weight(
                method.loss_aggregation, len(completion.ids), rows, tokens, limit
            )
            row = TrainingRow(
                role, prompt, completion.ids, completion.logprobs, weight * advantage, weight, 1
            )
            same = merged.get(row.key)
            merged[row.key] = row if same is None else same.merged_with(row)
    return list(merged.values())


def pack(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[int]]:
    """Indices of the rows of each micro-batch, longest first, so that rows x width stays within
    ``max_tokens``. A row longer than the budget travels alone."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i].length)
    start = 0
    while start < len(order):
        stop = start + max(1, max_tokens // rows[order[start]].length)
        yield order[start:stop]
        start = stop


def pad(rows: list[TrainingRow]) -> MicroBatch:
    """Rows -> tensors, padded on the right with id 0, which the attention mask hides."""
    width = max(row.length for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention = torch.zeros(len(rows), width, dtype=torch.long)
    completion = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids = row.prompt_ids + row.completion_ids
        input_ids[i, : len(ids)] = torch.tensor(ids)
        attention[i, : len(ids)] = 1
        completion[i, len(row.prompt_ids) : len(ids)] = True
    row_C = completion.nonzero()[:, 0]
    return MicroBatch(rows, input_ids, attention, completion, row_C)


def row_sums(batch: MicroBatch, value_C: Tensor) -> Tensor:
    """Sum a per-token value over each row. [C] -> [B]."""
    return value_C.new_zeros(len(batch.rows)).index_add_(0, batch.row_C, value_C)
