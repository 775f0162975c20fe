"""Generation on the training weights: prompts and a key go in, completions come out.

Each distinct prompt is prefilled once and its cache is shared out to its samples; keys and
values live in one preallocated buffer; a row leaves the batch when it is done. Columns are
common to all rows (prompts are padded on the left), so a decode step writes one column.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsp.batch import padded
from lsp.contracts import Engine
from lsp.model.context import context_of, context_text
from lsp.model.onednn import decoding_weights
from lsp.model.windows import windowed
from lsp.rollout.row_cache import RowCache
from lsp.rollout.sampling import sample
from lsp.rollout.texts import check_stop_strings, completion_texts
from lsp.settings.limits import PREFILL_TOKENS
from lsp.tools.heartbeat import at
from lsp.types import Completion, DrawKey


def prefill_parts(prompts: Sequence[Sequence[int]]) -> list[slice]:
    """Parts of the prompts, of at most PREFILL_TOKENS tokens each when padded to the longest."""
    size = max(1, PREFILL_TOKENS // max(map(len, prompts), default=1))
    return [slice(start, start + size) for start in range(0, len(prompts), size)]


class InProcessEngine(Engine):
    """Samples completions in this process. ``stop_ids`` end a completion and are its last token;
    ``stop_strings`` end it at the token that completes one, and are cut off its text. ``top_p``
    below 1 samples from the likeliest tokens that hold so much probability; log-probabilities stay
    those of the whole distribution. Rows are decoded in chunks of at most ``max_rows``, whose keys
    and values take at most ``max_tokens`` columns in all."""

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
        check_stop_strings(tokenizer, stop_strings)
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
        """See ``Engine.generate``. Log-probabilities are those of softmax(logits / temperature), of
        the plain logits at temperature 0. Raises ValueError for a temperature below 0, no prompt
        tokens or no new ones, and where prompt and completion exceed the model's context."""
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: it is 0 (the likeliest token) or above")
        if max_new_tokens < 1 or samples < 1 or any(not len(prompt) for prompt in prompts):
            raise ValueError(
                f"{samples} samples of at most {max_new_tokens} tokens: there must be one or more"
                " of both, after a prompt of one token or more"
            )
        longest = max(map(len, prompts), default=0)
        if longest + max_new_tokens > context_of(model):
            raise ValueError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's"
                f" context of {context_text(model)}; lower rollout.max_new_tokens or shorten the"
                " prompts"
            )
        rows = [tuple(prompt) for prompt in prompts for _ in range(samples)]
        at_once = min(self.max_rows, max(1, self.max_tokens // (longest + max_new_tokens)))
        written: list[Completion] = []
        with decoding_weights(model, min(len(rows), at_once)):
            for start in range(0, len(rows), at_once):
                if len(rows) > at_once:
                    at(f"{start} of {len(rows)} rows written")
                chunk = rows[start : start + at_once]
                written += self._decode(model, chunk, start, max_new_tokens, temperature, key)
        return [written[i : i + samples] for i in range(0, len(written), samples)]

    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[tuple[int, ...]],
        first_row: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[Completion]:
        """Completions of one chunk of rows, prompts as tuples; ``first_row``: the number of its
        first row. ``alive_B`` are the rows still in the batch."""
        device, rows = model.device, len(prompts)
        distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        owner_B = torch.tensor([distinct[prompt] for prompt in prompts], device=device)
        ids_KP, real_KP = (tensor.to(device) for tensor in padded(list(distinct), left=True))
        width = ids_KP.shape[1]
        # Padding attends to itself: a row of the softmax without any key would be undefined.
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        mask = (causal & real_KP[:, None, :]) | torch.eye(width, dtype=torch.bool, device=device)
        positions = (real_KP.cumsum(1) - 1).clamp(min=0)
        cache = RowCache(width + max_new_tokens)
        logits_of: list[Tensor] = []
        for part in prefill_parts(list(distinct)):
            prompt_cache, inputs = RowCache(width), (ids_KP[part], mask[part, None])
            logits_of.append(self._forward(model, *inputs, positions[part], prompt_cache))
            owned = ((owner_B >= part.start) & (owner_B < part.stop)).nonzero()[:, 0]
            cache.fill_from(prompt_cache, owned, owner_B[owned] - part.start, rows)
        logits = torch.cat(logits_of)[owner_B]

        uniforms = [key.uniforms(first_row + i, max_new_tokens) for i in range(rows)]
        uniform_BT = torch.from_numpy(np.stack(uniforms)).to(device)
        token_BT = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
        logprob_BT = torch.zeros(rows, max_new_tokens, device=device)
        length_B = torch.full((rows,), max_new_tokens, device=device)
        stopped_B = torch.zeros(rows, dtype=torch.bool, device=device)
        stop_ids = self.stop_ids.to(device)
        alive_B = torch.arange(rows, device=device)
        key_mask = torch.ones(rows, width + max_new_tokens, dtype=torch.bool, device=device)
        key_mask[:, :width] = real_KP[owner_B]
        next_position = real_KP.sum(1)[owner_B]
        for t in range(max_new_tokens):
            token, logprob = sample(logits, temperature, uniform_BT[alive_B, t], self.top_p)
            token_BT[alive_B, t], logprob_BT[alive_B, t] = token, logprob
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
        """Logits after the last column, fp32, [rows, V]. A row's tokens lie side by side, so that
        columns are as far apart as positions."""
        decoder, columns = model.get_decoder(), torch.arange(mask.shape[-1], device=ids.device)
        last_columns = columns[None, -ids.shape[1] :]
        hidden = decoder(
            input_ids=ids,
            attention_mask=windowed(decoder.config, mask, last_columns, columns[None]),
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
        last_tokens = token_BT[alive_B, max(0, t + 1 - reach) : t + 1]
        tails = self.tokenizer.batch_decode(last_tokens.tolist())
        return torch.tensor([any(stop in tail for stop in self.stop_strings) for tail in tails])

    def _collect(self, token_BT, logprob_BT, length_B, stopped_B) -> list[Completion]:
        lengths = length_B.tolist()
        tokens = [row[:n] for row, n in zip(token_BT.tolist(), lengths, strict=True)]
        ends = set(self.stop_ids.tolist())
        texts = completion_texts(self.tokenizer, tokens, ends, self.stop_strings)
        rows = zip(tokens, logprob_BT.tolist(), texts, stopped_B.tolist(), strict=True)
        return [
            Completion(tuple(ids), tuple(scores[: len(ids)]), text, "stop" if stops else "length")
            for ids, scores, text, stops in rows
        ]
