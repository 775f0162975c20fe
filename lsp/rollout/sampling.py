"""Logits and uniform numbers -> one token a row, by inverse CDF. Pure functions of tensors."""

import math

import torch
from torch import Tensor

from lsp.model.logprobs import scaled_and_total


def sample(
    logits_BV: Tensor, temperature: float, uniform_B: Tensor, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF, and its log-probability under softmax(logits / temperature);
    temperature 0: the likeliest, under softmax(logits). The CDF is searched in two levels, block
    sums first, which reads the vocabulary once (2.7 CPU-ms for 32 rows of 32,000 against 8.7 for
    one level, and 5.5 for Gumbel noise alone; docs/performance.md). Sums are in float64, so that
    reordered sums of the logits seldom change a token."""
    scaled_BV, total_B1 = scaled_and_total(logits_BV, temperature or 1.0)
    rows, vocabulary = scaled_BV.shape
    if temperature == 0:
        token_B1 = scaled_BV.argmax(dim=-1, keepdim=True)
    else:
        block = 2 ** math.ceil(math.log2(vocabulary) / 2)
        blocks_BKV = scaled_BV.new_zeros(rows, math.ceil(vocabulary / block), block)
        probability_BV = blocks_BKV.view(rows, -1)[:, :vocabulary]
        torch.sub(scaled_BV, total_B1, out=probability_BV).exp_()
        if top_p < 1:
            probability_BV.copy_(_nucleus(probability_BV, top_p))
        outer_BK = blocks_BKV.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        threshold_B1 = uniform_B.unsqueeze(1) * outer_BK[:, -1:]
        chosen_B1 = _first_above(outer_BK, threshold_B1)
        before_B1 = torch.where(chosen_B1 > 0, outer_BK.gather(1, (chosen_B1 - 1).clamp(min=0)), 0)
        row_B = torch.arange(rows, device=scaled_BV.device)
        inner_BV = blocks_BKV[row_B, chosen_B1[:, 0]].double().cumsum(dim=-1)
        # The block's own sum, as its last partial sum, may be an ulp below what is searched for.
        rest_B1 = torch.minimum(threshold_B1 - before_B1, inner_BV[:, -1:] * (1 - 2**-52))
        token_B1 = chosen_B1 * block + _first_above(inner_BV, rest_B1)
        token_B1 = token_B1.clamp(max=vocabulary - 1)  # beyond it is NaN, refused by _decode
    logprob_B1 = scaled_BV.gather(1, token_B1) - total_B1
    return token_B1[:, 0], logprob_B1[:, 0]


def _first_above(sums_BN: Tensor, threshold_B1: Tensor) -> Tensor:
    """Index of the first partial sum above the threshold, [B, 1]: an entry with weight."""
    index_B1 = torch.searchsorted(sums_BN, threshold_B1, right=True)
    return index_B1.clamp(max=sums_BN.shape[1] - 1)


def _nucleus(weight_BV: Tensor, top_p: float) -> Tensor:
    """Weights with all but the likeliest tokens that hold ``top_p`` of them at zero; the token that
    passes the share is kept, so one always is."""
    ordered, index = weight_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p * ordered.sum(dim=-1, keepdim=True), ordered, 0)
    return torch.zeros_like(weight_BV).scatter_(1, index, kept)
