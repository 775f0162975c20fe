"""A play goes in, micro-batches come out, pure: merge equal rows, weigh them, pack by length."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lsp.losses import token_weight
from lsp.settings.method import MethodConfig
from lsp.types import Completion, MicroBatch, Play, Role, RowKey, TrainingRow

Entry = tuple[tuple[int, ...], Completion, float]
"""(prompt ids, completion, advantage)"""

NARROWEST = 2
"""Columns of completions at least, so that every micro-batch takes the same two passes: of prompts,
and of what follows them."""


def training_rows(
    play: Play, method: MethodConfig, num_queries: int, max_query_tokens: int, max_new_tokens: int
) -> list[TrainingRow]:
    """The rows of L_Sol + alpha_Ch L_Ch. The row denominators are N G and N of the step as planned:
    unplayed queries and masked answers lower the sum and never change what it is divided by. Token
    denominators count the tokens that are trained on."""
    group_size = play.reward_QG.shape[1] if play.queries else 1
    advantages_QG = play.solver_advantage_QG.tolist()
    groups = zip(play.solver_prompt_ids, play.answers, advantages_QG, strict=True)
    solver = [
        (prompt, answer, advantage)
        for prompt, answers, advantages in groups
        for answer, advantage in zip(answers, advantages, strict=True)
        if not (method.mask_truncated_answers and answer.finish_reason == "length")
    ]
    challenger = []
    fewest = 1 if method.challenger_baseline == "moving" else 2  # that can be compared
    if method.trains_challenger and len(play.queries) + len(play.invalid) >= fewest:
        asked = [*play.queries, *play.invalid]
        advantages_Q = play.challenger_advantage_Q.tolist()
        advantages_Q += [play.invalid_advantage] * len(play.invalid)
        challenger = [
            (query.prompt_ids, query.completion, advantage)
            for query, advantage in zip(asked, advantages_Q, strict=True)
            if query.completion is not None
        ]
    roles: tuple[tuple[Role, list[Entry], int, int, float], ...] = (
        ("solver", solver, num_queries * group_size, max_new_tokens, 1.0),
        ("challenger", challenger, num_queries, max_query_tokens, method.challenger_weight),
    )
    merged: dict[RowKey, TrainingRow] = {}
    for role, entries, rows, limit, role_weight in roles:
        total = sum(len(completion.ids) for _, completion, _ in entries)
        for prompt, completion, advantage in entries:
            ids, logprobs = completion.ids, completion.logprobs
            share = token_weight(method.loss_aggregation, len(ids), rows, total, limit)
            weight = role_weight * share
            row = TrainingRow(role, prompt, ids, logprobs, weight * advantage, weight, 1)
            same = merged.get(row.key)
            merged[row.key] = row if same is None else same.merged_with(row)
    return list(merged.values())


def pack(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[int]]:
    """Indices of the rows of each micro-batch, the longest completions first, so that its padded
    tokens (each distinct prompt once) stay within ``max_tokens``. A row longer than that travels
    alone."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].completion_ids))
    chosen: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    for i in order:
        more = prompts | {rows[i].prompt_ids}
        longest = max(NARROWEST, len(rows[chosen[0] if chosen else i].completion_ids))
        padded = len(more) * max(map(len, more)) + (len(chosen) + 1) * longest
        if chosen and padded > max_tokens:
            yield chosen
            chosen, more = [], {rows[i].prompt_ids}
        chosen.append(i)
        prompts = more
    if chosen:
        yield chosen


def pad(rows: list[TrainingRow]) -> MicroBatch:
    """Rows -> tensors, padded on the right with id 0, which masks hide. Raises ValueError for a row
    without prompt or completion tokens, which has nothing to score."""
    if any(not row.prompt_ids or not row.completion_ids for row in rows):
        raise ValueError("a row has no prompt tokens or no completion tokens; leave it out")
    prompts = {prompt: k for k, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in rows))}
    prompt_ids, _ = padded(list(prompts))
    ids, mask = padded([row.completion_ids for row in rows], NARROWEST)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    owners = torch.tensor([prompts[row.prompt_ids] for row in rows])
    return MicroBatch(rows, prompt_ids, lengths, owners, ids, mask, mask.nonzero()[:, 0])


def padded(
    sequences: Sequence[Sequence[int]], narrowest: int = 1, left: bool = False
) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [sequences, width of the longest], padded with id 0 on the right, or on the
    ``left``. ``narrowest``: columns at least."""
    width = max(narrowest, *map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), None) if left else slice(len(sequence))
        ids[i, columns] = torch.tensor(sequence)
        mask[i, columns] = True
    return ids, mask


def row_sums(batch: MicroBatch, value_C: Tensor) -> Tensor:
    """Sum a per-token value over each row. [C] -> [B]."""
    return value_C.new_zeros(len(batch.rows)).index_add_(0, batch.row_C, value_C)
