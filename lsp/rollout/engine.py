"""In-process generation on the training weights.

Each distinct prompt is prefilled once and its cache is shared out to its samples; keys and
values live in one preallocated buffer; a row leaves the batch when it is done. Columns are
common to all rows (prompts are padded on the left), so a decode step writes one column.

Randomness is keyed by (seed, step, role, row, position) through a counter-based generator
(Philox): a row's draws never depend on its neighbours, on chunking or on when others stop.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from lsp.onednn import packed_weights
from lsp.types import Completion


@dataclass(frozen=True)
class DrawKey:
    """What a generation's randomness is keyed by, beside row and position."""

    seed: int
    step: int
    role: str

    def uniforms(self, row: int, count: int) -> np.ndarray:
        """``count`` numbers in [0, 1) for one row, float64."""
        counter = [0, row, zlib.crc32(self.role.encode()), self.step]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).random(count)


class RowCache(Cache):
    """Keys and values of all layers, [rows, heads, columns, head_dim], allocated once.

    A forward pass writes at columns ``length`` onwards; ``advance`` makes them count.
    """

    def __init__(self, columns: int):
        super().__init__(layers=[])
        self.columns = columns
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write one layer's new columns; return everything written so far."""
        if layer_idx == len(self.keys):
            rows, heads, _, size = key_states.shape
            self.keys.append(key_states.new_empty(rows, heads, self.columns, size))
            self.values.append(value_states.new_empty(rows, heads, self.columns, size))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        end = self.length + key_states.shape[2]
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, columns: int) -> None:
        self.length += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows, in that order; only written columns are copied."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[rows, :, : self.length]
                buffers[layer] = new


class RolloutEngine:
    """Samples completions from a model as it is now.

    ``generate`` is all that the rest of the program asks of an engine, so another one (a
    server, say) is one class with this method.
    """

    COMPACT_BELOW = 0.8
    """Finished rows leave once fewer than this share of the batch's rows are alive."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int], max_rows: int
    ):
        self.tokenizer = tokenizer
        self.stop_ids = torch.tensor(sorted(stop_ids))
        self.max_rows = max_rows

    @torch.no_grad()
    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[list[Completion]]:
        """``samples`` completions of each prompt, [len(prompts)][samples].

        ``temperature`` 0 takes the likeliest token. Log-probabilities are those of
        softmax(logits / temperature) (of the plain logits at temperature 0). Raises ValueError
        where a prompt and its completion exceed the model's context.
        """
        longest = max((len(prompt) for prompt in prompts), default=0)
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and longest + max_new_tokens > context:
            raise ValueError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's"
                f" context of {context}; lower rollout.max_new_tokens or shorten the prompts"
            )
        rows = [index for index in range(len(prompts)) for _ in range(samples)]
        flat: list[Completion] = []
        with packed_weights(model, min(len(rows), self.max_rows)):
            for start in range(0, len(rows), self.max_rows):
                chunk = rows[start : start + self.max_rows]
                flat += self._decode(
                    model, [prompts[i] for i in chunk], start, max_new_tokens, temperature, key
                )
        return [flat[i : i + samples] for i in range(0, len(flat), samples)]

    def _decode(
        self,
        model: PreTrainedModel,
        prompts: list[Sequence[int]],
        first_row: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[Completion]:
        """One chunk of rows. ``alive_B`` are the rows still in the batch."""
        device = model.device
        distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        owner_B = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device)
        width = max(map(len, distinct))
        ids_PT = torch.zeros(len(distinct), width, dtype=torch.long)
        real_PT = torch.zeros(len(distinct), width, dtype=torch.bool)
        for prompt, i in distinct.items():
            ids_PT[i, width - len(prompt) :] = torch.tensor(prompt)
            real_PT[i, width - len(prompt) :] = True
        ids_PT, real_PT = ids_PT.to(device), real_PT.to(device)
        cache = RowCache(width + max_new_tokens)
        # Padding attends to itself: a row of the softmax without any key would be undefined.
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        mask = (causal & real_PT[:, None, :]) | torch.eye(width, dtype=torch.bool, device=device)
        positions = (real_PT.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(model, ids_PT, mask[:, None], positions, cache)[owner_B]
        cache.select(owner_B)

        uniform_BT = torch.from_numpy(
            np.stack([key.uniforms(first_row + i, max_new_tokens) for i in range(len(prompts))])
        ).to(device)
        token_BT = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=device)
        logprob_BT = torch.zeros(len(prompts), max_new_tokens, device=device)
        length_B = torch.full((len(prompts),), max_new_tokens, device=device)
        stopped_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        stop_ids = self.stop_ids.to(device)
        alive_B = torch.arange(len(prompts), device=device)
        key_mask = torch.ones(len(prompts), width + max_new_tokens, dtype=torch.bool, device=device)
        key_mask[:, :width] = real_PT[owner_B]
        next_position = real_PT.sum(1)[owner_B]
        for t in range(max_new_tokens):
            token, logprob = sample(logits, temperature, uniform_BT[alive_B, t])
            token_BT[alive_B, t] = token
            logprob_BT[alive_B, t] = logprob
            ends = torch.isin(token, stop_ids) & ~stopped_B[alive_B]
            length_B[alive_B[ends]] = t + 1
            stopped_B[alive_B[ends]] = True
            going = ~stopped_B[alive_B]
            remaining = int(going.sum())
            if remaining == 0 or t + 1 == max_new_tokens:
                break
            if remaining < self.COMPACT_BELOW * len(alive_B):
                keep = going.nonzero()[:, 0]
                alive_B, token = alive_B[keep], token[keep]
                key_mask, next_position = key_mask[keep], next_position[keep]
                cache.select(keep)
            mask = key_mask[:, None, None, : cache.length + 1]
            position = (next_position + t).unsqueeze(1)
            logits = self._forward(model, token.unsqueeze(1), mask, position, cache)
        return self._collect(token_BT, logprob_BT, length_B, stopped_B)

    def _forward(self, model, ids, mask, positions, cache: RowCache) -> Tensor:
        """Logits after the last column, fp32, [rows, V]."""
        hidden = model.get_decoder()(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.advance(ids.shape[1])
        return model.get_output_embeddings()(hidden[:, -1]).float()

    def _collect(self, token_BT, logprob_BT, length_B, stopped_B) -> list[Completion]:
        lengths, stopped = length_B.tolist(), stopped_B.tolist()
        tokens = [row[:n] for row, n in zip(token_BT.tolist(), lengths, strict=True)]
        logprobs = [row[:n] for row, n in zip(logprob_BT.tolist(), lengths, strict=True)]
        # The end token is cut off before decoding; other special tokens stay visible as text.
        bodies = [row[:-1] if end else row for row, end in zip(tokens, stopped, strict=True)]
        texts = self.tokenizer.batch_decode(bodies, skip_special_tokens=False)
        return [
            Completion(tuple(ids), tuple(scores), text, "stop" if end else "length")
            for ids, scores, text, end in zip(tokens, logprobs, texts, stopped, strict=True)
        ]


def sample(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF, and its log-probability; temperature 0: the likeliest."""
    scaled = logits_BV if temperature == 0 else logits_BV / temperature
    log_distribution = scaled.log_softmax(dim=-1)
    if temperature == 0:
        token = log_distribution.argmax(dim=-1)
    else:
        cumulative = log_distribution.double().exp().cumsum(dim=-1)
        threshold = uniform_B.unsqueeze(1) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return token, log_distribution.gather(1, token.unsqueeze(1)).squeeze(1)
