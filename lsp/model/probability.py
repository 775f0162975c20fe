"""Prompts and texts -> the probability of each text, exactly, by teacher forcing."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lsp.batch import pack, pad, row_sums
from lsp.model.chat import ChatFormat
from lsp.model.logprobs import completion_scores
from lsp.tools.heartbeat import at
from lsp.types import TrainingRow


def completion_probability(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
    max_tokens: int,
) -> list[float]:
    """P(text, end token | prompt) at temperature 1 of each text; ``max_tokens``: padded tokens of a
    pass."""
    end = chat.tokenizer.eos_token_id
    completions = [(*ids, end) for ids in chat.encode_text(texts)]
    return list(map(math.exp, completion_logprobs(model, prompts, completions, max_tokens)))


@torch.no_grad()
def completion_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    max_tokens: int,
) -> list[float]:
    """log P(completion | prompt) at temperature 1 of each, in nats; all are token ids, and a
    completion has one or more."""
    rows = [
        TrainingRow("solver", tuple(prompt), tuple(ids), (), 0.0, 0.0, 1)
        for prompt, ids in zip(prompts, completions, strict=True)
    ]
    logprobs, done = [0.0] * len(rows), 0
    for chosen in pack(rows, max_tokens):
        at(f"{done} of {len(rows)} rows scored")
        done += len(chosen)
        batch = pad([rows[i] for i in chosen]).to(model.device)
        scores = completion_scores(model, batch, temperature=1.0)
        for i, value in zip(chosen, row_sums(batch, scores.logprobs_C).tolist(), strict=True):
            logprobs[i] = value
    return logprobs
