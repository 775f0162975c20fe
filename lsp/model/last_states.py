"""Prompts go in; the hidden state after the last token of each comes out, a part at a time.

What long prompts begin with in common (a rubric) is computed once, and the rest of each attends to
its keys and values.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lsp.batch import pad, padded
from lsp.model.logprobs import completion_hidden
from lsp.settings.limits import PREFILL_TOKENS
from lsp.tools.heartbeat import at
from lsp.types import TrainingRow

SHARED_FROM = 32
"""Tokens in common from which on a second pass costs less than it saves (docs/performance.md)."""


@torch.no_grad()
def last_states(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Hidden states that predict the token after each prompt, [rows of a part, D], in their
    order."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    shared = shared if len(prompts) > 1 and shared >= SHARED_FROM else 0
    widest = max((len(prompt) - shared for prompt in prompts), default=1)
    size = max(1, PREFILL_TOKENS // widest)
    for start in range(0, len(prompts), size):
        at(f"{start} of {len(prompts)} prompts read")
        part = prompts[start : start + size]
        yield _after_shared(model, part, shared) if shared else _whole(model, part)


def _whole(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    ids, mask = (tensor.to(model.device) for tensor in padded(prompts))
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    rows = torch.arange(len(ids), device=ids.device)
    return hidden.last_hidden_state[rows, mask.sum(dim=1) - 1]


def _after_shared(model: PreTrainedModel, prompts: Sequence[Sequence[int]], shared: int) -> Tensor:
    """``completion_hidden`` gives the states that predict each token of a completion, so a row ends
    with a token more, which is not read."""
    beginning = tuple(prompts[0][:shared])
    rows = [
        TrainingRow("solver", beginning, (*prompt[shared:], 0), (), 0.0, 0.0, 1)
        for prompt in prompts
    ]
    lengths = torch.tensor([len(row.completion_ids) for row in rows])
    hidden_CD = completion_hidden(model, pad(rows).to(model.device))
    return hidden_CD[(lengths.cumsum(0) - 1).to(model.device)]
