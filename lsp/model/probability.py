"""Prompts and texts -> the probability of each text, exactly, by teacher forcing."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lsp.batch import pack, pad, row_sums
from lsp.model.chat import ChatFormat
from lsp.model.logprobs import completion_scores
from lsp.types import TrainingRow


@torch.no_grad()
def completion_probability(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
    max_tokens: int,
) -> list[float]:
    """P(text, end token | prompt) at temperature 1 of each text; ``max_tokens``: padded tokens of a
    pass."""
    end, encoded = chat.tokenizer.eos_token_id, chat.encode_text(texts)
    pairs = [(tuple(prompt), (*ids, end)) for prompt, ids in zip(prompts, encoded, strict=True)]
    rows = [TrainingRow("solver", *pair, (), 0.0, 0.0, 1) for pair in pairs]
    probability = [0.0] * len(rows)
    for chosen in pack(rows, max_tokens):
        batch = pad([rows[i] for i in chosen]).to(model.device)
        scores = completion_scores(model, batch, temperature=1.0)
        for i, value in zip(chosen, row_sums(batch, scores.logprobs_C).tolist(), strict=True):
            probability[i] = math.exp(value)
    return probability
