"""In-process generation on the training weights.

Each distinct prompt is prefilled once and its cache is shared out to its samples; keys and
values live in one preallocated buffer; a row leaves the batch when it is done. Columns are
common to all rows (prompts are padded on the left), so a decode step writes one column.

Randomness is keyed by (seed, step, role, row, position) through a counter-based generator
(Philox): a row's draws never depend on its neighbours, on chunking or on when others stop.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from lsp.limits import PREFILL_TOKENS
from lsp.onednn import decoding_weights
from lsp.types import Completion


@dataclass(frozen=True)
class DrawKey:
    """What a generation's randomness is keyed by, beside the position. ``rows``: each row's number
    among those of its step and role, below 2^64; where a generation has them all, their order."""

    seed: int
    step: int
    role: str
    rows: Sequence[int] | None = None

    def number(self, row: int) -> int:
        """Of a generation's row among the step's."""
        return row if self.rows is None else self.rows[row]

    def uniforms(self, row: int, count: int) -> np.ndarray:
        """``count`` numbers in [0, 1) for one row, float64."""
        parts = [0, self.number(row), zlib.crc32(self.role.encode()), self.step]
        counter = np.array(parts, dtype=np.uint64)  # of a list, large ones would be rounded
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).random(count)


def prefill_parts(prompts: Sequence[Sequence[int]]) -> list[slice]:
    """Parts of the prompts, of at most PREFILL_TOKENS tokens each when padded to the longest."""
    size = max(1, PREFILL_TOKENS // max(map(len, prompts), default=1))
    return [slice(start, start + size) for start in range(0, len(prompts), size)]


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

    def show(self, prompts: RowCache, rows: Tensor, owners: Tensor, count: int) -> None:
        """Begin ``rows`` (of ``count`` in all) with what ``prompts`` holds of their ``owners``."""
        for own, others in ((self.keys, prompts.keys), (self.values, prompts.values)):
            for layer, other in enumerate(others):
                if layer == len(own):
                    own.append(other.new_empty(count, other.shape[1], self.columns, other.shape[3]))
                own[layer][rows, :, : prompts.length] = other[owners]
        self.length = prompts.length

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows, in that order; only written columns are copied."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[rows, :, : self.length]
                buffers[layer] = new


class Engine(Protocol):
    """All that the rest of the program asks of an engine: another one (a server, say) is one class
    in one file, chosen in ``lsp.players.load_players``."""

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[list[Completion]]:
        """``samples`` completions of each prompt by the model as it is now."""
        ...


class RolloutEngine:
    """Samples completions in this process.

    ``stop_ids`` end a completion and are its last token; ``stop_strings`` end it at the token that
    completes one, and are cut off its text. ``top_p`` below 1 samples from the likeliest tokens
    that hold so much probability; log-probabilities stay those of the whole distribution.
    Rows are decoded in chunks of at most ``max_rows``, whose keys and values take at most
    ``max_tokens`` columns in all.
    """

    COMPACT_BELOW = 0.8
    """Finished rows leave once fewer than this share of the batch's rows are alive."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Collection[int],
        max_rows: int,
        stop_strings: Sequence[str] = (),
        top_p: float = 1.0,
        max_tokens: int = 2**20,
    ):
        if max_rows < 1 or max_tokens < 1:
            raise ValueError(f"max_rows={max_rows}, max_tokens={max_tokens}: both are 1 or more")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p}: it is a share of probability, above 0 and at most 1")
        for text in stop_strings:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if not text or text not in tokenizer.decode(ids):
                raise ValueError(
                    f"the stop string {text!r} can never occur: the tokenizer cannot write it; take"
                    " another one"
                )
        self.tokenizer = tokenizer
        self.stop_ids = torch.tensor(sorted(stop_ids))
        self.max_rows = max_rows
        self.stop_strings = tuple(stop_strings)
        self.top_p = top_p
        self.max_tokens = max_tokens

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
        softmax(logits / temperature) (of the plain logits at temperature 0). Raises ValueError for
        a temperature below 0, no prompt tokens or no new ones, and where a prompt and its
        completion exceed the model's context.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: it is 0 (the likeliest token) or above")
        if max_new_tokens < 1 or samples < 1 or any(not len(prompt) for prompt in prompts):
            raise ValueError(
                f"{samples} samples of at most {max_new_tokens} tokens: there must be one or more"
                " of both, after a prompt of one token or more"
            )
        longest = max((len(prompt) for prompt in prompts), default=0)
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and longest + max_new_tokens > context:
            raise ValueError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's"
                f" context of {context}; lower rollout.max_new_tokens or shorten the prompts"
            )
        rows = [index for index in range(len(prompts)) for _ in range(samples)]
        at_once = min(self.max_rows, max(1, self.max_tokens // (longest + max_new_tokens)))
        flat: list[Completion] = []
        with decoding_weights(model, min(len(rows), at_once)):
            for start in range(0, len(rows), at_once):
                chunk = rows[start : start + at_once]
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
        # Padding attends to itself: a row of the softmax without any key would be undefined.
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        mask = (causal & real_PT[:, None, :]) | torch.eye(width, dtype=torch.bool, device=device)
        positions = (real_PT.cumsum(1) - 1).clamp(min=0)
        cache = RowCache(width + max_new_tokens)
        logits_of: list[Tensor] = []
        for part in prefill_parts(list(distinct)):
            prompt_cache = RowCache(width)
            logits_of.append(
                self._forward(model, ids_PT[part], mask[part, None], positions[part], prompt_cache)
            )
            rows = ((owner_B >= part.start) & (owner_B < part.stop)).nonzero()[:, 0]
            cache.show(prompt_cache, rows, owner_B[rows] - part.start, len(prompts))
        logits = torch.cat(logits_of)[owner_B]

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
            token, logprob = sample(logits, temperature, uniform_BT[alive_B, t], self.top_p)
            token_BT[alive_B, t] = token
            logprob_BT[alive_B, t] = logprob
            ends = torch.isin(token, stop_ids)
            if self.stop_strings:
                ends |= self._ends_in_stop_string(token_BT, alive_B, t).to(device)
            ends &= ~stopped_B[alive_B]
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
        if not torch.isfinite(logprob_BT).all():
            raise ValueError(
                "the model's logits are not finite, so nothing can be sampled from them; its"
                " weights may be damaged or training has diverged: lower optim.lr"
            )
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

    def _ends_in_stop_string(self, token_BT: Tensor, alive_B: Tensor, t: int) -> Tensor:
        """Which of the rows in the batch have just completed a stop string, [alive]."""
        # A byte takes a token at most, and the first ones may be part of a character.
        reach = max(len(stop.encode()) for stop in self.stop_strings) + 4
        tails = self.tokenizer.batch_decode(
            token_BT[alive_B, max(0, t + 1 - reach) : t + 1].tolist()
        )
        return torch.tensor([any(stop in tail for stop in self.stop_strings) for tail in tails])

    def _collect(self, token_BT, logprob_BT, length_B, stopped_B) -> list[Completion]:
        lengths, stopped = length_B.tolist(), stopped_B.tolist()
        tokens = [row[:n] for row, n in zip(token_BT.tolist(), lengths, strict=True)]
        logprobs = [row[:n] for row, n in zip(logprob_BT.tolist(), lengths, strict=True)]
        # The end token is cut off before decoding; other special tokens stay visible as text.
        ends = set(self.stop_ids.tolist())
        bodies = [row[:-1] if row[-1] in ends else row for row in tokens]
        texts = self.tokenizer.batch_decode(bodies, skip_special_tokens=False)
        if self.stop_strings:
            first = re.compile("|".join(map(re.escape, self.stop_strings)))
            texts = [first.split(text, maxsplit=1)[0] for text in texts]
        return [
            Completion(tuple(ids), tuple(scores), text, "stop" if end else "length")
            for ids, scores, text, end in zip(tokens, logprobs, texts, stopped, strict=True)
        ]


def sample(
    logits_BV: Tensor, temperature: float, uniform_B: Tensor, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF, and its log-probability under softmax(logits / temperature);
    temperature 0: the likeliest.

    The CDF is searched in two levels, block sums first, which reads the vocabulary once (2.7
    CPU-ms for 32 rows of 32,000 against 8.7 for one level, and 5.5 for Gumbel noise alone;
    docs/performance.md). Sums are in float64, so that reordered sums of the logits seldom change a
    token.
    """
    scaled = logits_BV if temperature in (0, 1) else logits_BV / temperature
    highest_B1 = scaled.amax(dim=-1, keepdim=True)
    weight_BV = (scaled - highest_B1).exp_()
    rows, vocabulary = weight_BV.shape
    if temperature == 0:
        token_B = scaled.argmax(dim=-1)
        total_B = weight_BV.sum(dim=-1, dtype=torch.float64)
    else:
        total_B = weight_BV.sum(dim=-1, dtype=torch.float64)
        if top_p < 1:
            weight_BV = _nucleus(weight_BV, top_p)
        block = 2 ** math.ceil(math.log2(vocabulary) / 2)
        blocks_BKV = torch.nn.functional.pad(weight_BV, (0, -vocabulary % block)).view(
            rows, -1, block
        )
        outer_BK = blocks_BKV.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        threshold_B1 = uniform_B.unsqueeze(1) * outer_BK[:, -1:]
        chosen_B1 = _first_above(outer_BK, threshold_B1)
        before_B1 = torch.where(chosen_B1 > 0, outer_BK.gather(1, (chosen_B1 - 1).clamp(min=0)), 0)
        row_B = torch.arange(rows, device=weight_BV.device)
        inner_BV = blocks_BKV[row_B, chosen_B1[:, 0]].double().cumsum(dim=-1)
        # The block's own sum, as its last partial sum, may be an ulp below what is searched for.
        rest_B1 = torch.minimum(threshold_B1 - before_B1, inner_BV[:, -1:] * (1 - 2**-52))
        token_B1 = chosen_B1 * block + _first_above(inner_BV, rest_B1)
        token_B = token_B1[:, 0].clamp(max=vocabulary - 1)  # beyond it is NaN, refused by _decode
    chosen_B = (scaled - highest_B1).gather(1, token_B.unsqueeze(1)).squeeze(1)
    return token_B, chosen_B - total_B.log().float()


def _first_above(sums_BN: Tensor, threshold_B1: Tensor) -> Tensor:
    """Index of the first partial sum above the threshold, [B, 1]: an entry with weight."""
    found_B1 = torch.searchsorted(sums_BN, threshold_B1, right=True)
    return found_B1.clamp(max=sums_BN.shape[1] - 1)


def _nucleus(weight_BV: Tensor, top_p: float) -> Tensor:
    """Weights with all but the likeliest tokens that hold ``top_p`` of them at zero; the token that
    passes the share is kept, so one always is."""
    ordered, index = weight_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p * ordered.sum(dim=-1, keepdim=True), ordered, 0)
    return torch.zeros_like(weight_BV).scatter_(1, index, kept)
