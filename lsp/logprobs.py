"""Log-probabilities and entropy at completion positions only, the vocabulary head in tiles.

No [rows x tokens x V] tensor is ever made: hidden states are gathered at the positions that
predict completion tokens, and the head runs over them a tile at a time, again in the backward
pass. Plain tensors in, plain tensors out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lsp.types import MicroBatch

TILE_ELEMENTS = 2**24
"""Logits held at once (64 MB in fp32); the tile has this many elements over V positions."""


class TokenScores(NamedTuple):
    """Per completion token, row-major: [C]. ``distribution_CV`` is the whole log-distribution,
    kept only on request (the exact KL of a small vocabulary)."""

    logprobs_C: Tensor
    entropy_C: Tensor
    distribution_CV: Tensor | None


def score_tokens(
    hidden_CD: Tensor,
    head: nn.Module,
    target_C: Tensor,
    temperature: float,
    with_distribution: bool = False,
) -> TokenScores:
    """Scores of ``target_C`` under softmax(head(hidden) / temperature), in fp32.

    Entropy is a measurement: it carries no gradient.
    """

    def tile(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_distribution = (head(hidden).float() / temperature).log_softmax(dim=-1)
        chosen = log_distribution.gather(1, target.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            entropy = -(log_distribution.exp() * log_distribution).sum(dim=-1)
        return chosen, entropy, log_distribution

    size = max(1, TILE_ELEMENTS // head.weight.shape[0])
    if with_distribution or len(target_C) <= size:
        chosen, entropy, log_distribution = tile(hidden_CD, target_C)
        return TokenScores(chosen, entropy, log_distribution if with_distribution else None)
    pieces = [
        checkpoint(lambda h, t: tile(h, t)[:2], hidden, target, use_reentrant=False)
        for hidden, target in zip(hidden_CD.split(size), target_C.split(size), strict=True)
    ]
    chosen, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
    return TokenScores(chosen, entropy, None)


def completion_scores(
    model: nn.Module, batch: MicroBatch, temperature: float, with_distribution: bool = False
) -> TokenScores:
    """Scores of a micro-batch's completion tokens under a causal language model."""
    hidden_BTD = model.get_decoder()(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
    ).last_hidden_state
    predicts_BT = batch.completion_mask_BT[:, 1:]
    hidden_CD = hidden_BTD[:, :-1][predicts_BT]
    target_C = batch.input_ids_BT[:, 1:][predicts_BT]
    head = model.get_output_embeddings()
    return score_tokens(hidden_CD, head, target_C, temperature, with_distribution)
