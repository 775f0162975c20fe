"""The self-reward R_Q: pairs go in, scores 0..7 of the reference under a rubric come out."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lsp.contracts import BuildContext, Engine, SelfJudge, SelfJudgeSettings
from lsp.rollout.settings import unrestricted
from lsp.settings.prompts import Prompts
from lsp.settings.schema import setting, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.model.chat import ChatFormat
    from lsp.types import DrawKey

MINIMUM_DIGIT_MASS = 0.5
"""``expected`` mode: where the digits 0..7 hold less probability, the score is unparsed."""


@settings
class RubricJudge(SelfJudgeSettings):
    """The reference judges under ``prompts.judge``, 0 to 7."""

    mode: Literal["expected", "generate"] = setting(
        "expected: digits renormalised, one forward pass; generate: text, parsed"
    )
    max_new_tokens: int = setting("of the text that generate writes", ge=1, le=65_536)
    lsp_weight: float = setting(
        "method.self_reward_weight of method=lsp in this world", gt=0, le=1e6
    )

    @property
    def written_tokens(self) -> int:
        return self.max_new_tokens if self.mode == "generate" else 0

    def build(self, context: BuildContext) -> RubricSelfJudge:
        prompts, rollout = context.config.prompts, context.config.rollout
        engine = rollout.engine.build(unrestricted(context))
        return RubricSelfJudge(
            context.reference, context.chat, engine, prompts, self, rollout.temperature
        )


@dataclass
class RubricSelfJudge(SelfJudge):
    """Scores (query, answer) pairs. Equal pairs are judged once. ``expected``: the mean of the
    digits 0..7 under the reference's next-token distribution, renormalised over them; a real
    number, one forward pass. ``generate``: the judge writes (sampled at ``temperature``) and its
    total is parsed strictly. Its draws are keyed by the pair, so a pair is judged alike whatever
    stands beside it, in any process of a run."""

    reference: PreTrainedModel
    chat: ChatFormat
    engine: Engine
    prompts: Prompts
    settings: RubricJudge
    temperature: float

    def __post_init__(self):
        opening, *digits = self.chat.encode_text([self.prompts.judge_opening, *"01234567"])
        if self.settings.mode == "expected" and any(len(ids) != 1 for ids in digits):
            raise ValueError(
                "self_reward.mode=expected needs a tokenizer with one token for each digit;"
                " choose self_reward.mode=generate"
            )
        self.digit_ids = [ids[0] for ids in digits]
        self.opening = opening

    def score(
        self, queries: Sequence[str], answers: Sequence[str], key: DrawKey
    ) -> tuple[list[float], list[str]]:
        """Scores (NaN where unread) and what the judge wrote (in ``expected`` mode the likeliest
        digit and the digits' mass), one each for every pair."""
        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        prompts = self.chat.encode([self.prompts.judge_messages(q, a) for q, a in pairs])
        if self.settings.mode == "expected":
            judged = self._expected([ids + self.opening for ids in prompts])
        else:
            judged = self._generate(prompts, replace(key, rows=[pair_number(*p) for p in pairs]))
        by_pair = dict(zip(pairs, judged, strict=True))
        scored = [by_pair[pair] for pair in zip(queries, answers, strict=True)]
        return [score for score, _ in scored], [text for _, text in scored]

    def _expected(self, prompts: list[list[int]]) -> list[tuple[float, str]]:
        """(expected digit of the next token, what was read) of each prompt."""
        import torch

        from lsp.batch import padded
        from lsp.rollout.in_process import prefill_parts

        judged = []
        for part in prefill_parts(prompts):
            ids, mask = (tensor.to(self.reference.device) for tensor in padded(prompts[part]))
            with torch.no_grad():
                hidden = self.reference.get_decoder()(
                    input_ids=ids, attention_mask=mask.long(), use_cache=False
                ).last_hidden_state
                last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
                logits = self.reference.get_output_embeddings()(last).float()
            digits = logits.softmax(dim=-1)[:, self.digit_ids].cpu()
            mass = digits.sum(dim=1)
            mean = (digits @ torch.arange(8.0)) / mass
            columns = (mass.tolist(), mean.tolist(), digits.argmax(dim=1).tolist())
            for row_mass, score, likeliest in zip(*columns, strict=True):
                read = score if row_mass >= MINIMUM_DIGIT_MASS else math.nan
                judged.append((read, f"{likeliest} (digit mass {row_mass:.3f})"))
        return judged

    def _generate(self, prompts: list[list[int]], key: DrawKey) -> list[tuple[float, str]]:
        limit, tag = self.settings.max_new_tokens, self.prompts.judge_tag
        written = self.engine.generate(self.reference, prompts, 1, limit, self.temperature, key)
        texts = [completion.text for (completion,) in written]
        scores = [parse_quality(text, tag) for text in texts]
        return [
            (math.nan if s is None else float(s), t) for s, t in zip(scores, texts, strict=True)
        ]


def pair_number(query: str, answer: str) -> int:
    """A number below 2^64 that stands for a pair in a ``DrawKey``."""
    text = json.dumps([query, answer])  # escaped: half a surrogate pair has no UTF-8
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def parse_quality(text: str, tag: str) -> int | None:
    """The judge's total, 0..7, or None where it cannot be read. Strict: exactly one
    ``<tag>d</tag>`` in the text (without a tag: the text is one digit). Two totals, 8, 3.5 or
    "seven" are unparsable, not guessed at."""
    if not tag:
        return int(text) if re.fullmatch(r"[0-7]", text.strip()) else None
    totals = re.findall(rf"<{re.escape(tag)}>\s*(.*?)\s*</{re.escape(tag)}>", text, re.DOTALL)
    return int(totals[0]) if len(totals) == 1 and re.fullmatch(r"[0-7]", totals[0]) else None
