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
from lsp.settings.limits import PREFILL_TOKENS
from lsp.settings.prompts import Messages, Prompts
from lsp.settings.schema import LARGEST_WEIGHT, setting, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.model.chat import ChatFormat
    from lsp.settings.config import Config
    from lsp.types import DrawKey

MINIMUM_DIGIT_MASS = 0.5
"""``expected`` mode: where the digits 0..7 hold less probability, the score is unparsed."""


@settings
class RubricJudge(SelfJudgeSettings):
    """The reference judges, 0 to 7: under the rubric of ``prompts.judge``, or by how likely it
    finds an answer."""

    mode: Literal["expected", "generate", "likelihood"] = setting(
        "expected: digits renormalised, one forward pass; generate: text, parsed; likelihood: mean"
        " log-probability of the answer given its query, no rubric"
    )
    max_new_tokens: int = setting("of the text that generate writes", ge=1, le=65_536)
    lsp_weight: float = setting(
        "method.self_reward_weight of method=lsp in this world", ge=1e-6, le=LARGEST_WEIGHT
    )
    likelihood_low: float = setting(
        "nats a token that are 0 of 7 in likelihood", ge=-1000, le=1000, default=-6.0
    )
    likelihood_high: float = setting(
        "nats a token that are 7 of 7; linear between", ge=-1000, le=1000, default=4.0
    )
    likelihood_contrast: float = setting(
        "how much of log p(answer | query) - log p(answer | no query) is added",
        ge=0,
        le=100,
        default=6.0,
    )

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if self.likelihood_low < self.likelihood_high:
            return ()
        reason = f"likelihood_low={self.likelihood_low:g} is not below likelihood_high"
        return [(reason, "choose a low one below the high one")]

    @property
    def reads_rubric(self) -> bool:
        return self.mode != "likelihood"

    @property
    def written_tokens(self) -> int:
        return self.max_new_tokens if self.mode == "generate" else 0

    def check(self, context: BuildContext) -> None:
        if self.mode == "expected":
            digit_ids(context.chat, context.config.prompts)

    def build(self, context: BuildContext) -> SelfJudge:
        prompts, rollout = context.config.prompts, context.config.rollout
        if self.mode == "likelihood":
            return LikelihoodSelfJudge(context.reference, context.chat, prompts, self)
        engine = rollout.engine.build(unrestricted(context))
        temperature = rollout.temperature_of("solver")
        return RubricSelfJudge(context.reference, context.chat, engine, prompts, self, temperature)


def judge_opened(prompts: Prompts, query: str, answer: str, total: str = "") -> Messages:
    """What the judge reads, its own turn begun."""
    opening = prompts.judge_opening + total
    return [*prompts.judge_messages(query, answer), ("opening", opening)]


def digit_ids(chat: ChatFormat, prompts: Prompts) -> list[int]:
    """The tokens of the digits 0 to 7 where the judge's turn has begun, which is where its next
    token stands. Raises ValueError where a digit is no token of its own."""
    texts = [judge_opened(prompts, "", "", digit) for digit in ("", *"01234567")]
    open_turn, *closed = chat.encode(texts)
    if any(ids[:-1] != open_turn for ids in closed):
        raise ValueError(
            "self_reward.mode=expected needs a tokenizer with one token for each digit; choose"
            " self_reward.mode=generate"
        )
    return [ids[-1] for ids in closed]


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
        if self.settings.mode == "expected":
            self.digit_ids = digit_ids(self.chat, self.prompts)

    def score(
        self, queries: Sequence[str], answers: Sequence[str], key: DrawKey
    ) -> tuple[list[float], list[str]]:
        """Scores (NaN where unread) and what the judge wrote (in ``expected`` mode the likeliest
        digit and the digits' mass), one each for every pair."""
        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        if self.settings.mode == "expected":
            asked = [judge_opened(self.prompts, *pair) for pair in pairs]
            judged = self._expected(self.chat.encode(asked))
        else:
            # Reasons come before a tagged total; a bare digit comes at once, after its opening.
            ask = Prompts.judge_messages if self.prompts.judge_tag else judge_opened
            prompts = self.chat.encode([ask(self.prompts, *pair) for pair in pairs])
            judged = self._generate(prompts, replace(key, rows=[pair_number(*p) for p in pairs]))
        return of_each(queries, answers, pairs, judged)

    def _expected(self, prompts: list[list[int]]) -> list[tuple[float, str]]:
        """(expected digit of the next token, what was read) of each prompt."""
        import torch

        from lsp.model.last_states import last_states

        judged = []
        for hidden in last_states(self.reference, prompts):
            with torch.no_grad():
                logits = self.reference.get_output_embeddings()(hidden).float()
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


@dataclass
class LikelihoodSelfJudge(SelfJudge):
    """Scores a pair by the reference alone: with l(q) the mean log-probability of the answer's
    tokens, its end included, after the query q, and l() that after an empty query,

        x = l(q) + contrast (l(q) - l())        7 (x - low) / (high - low), cut to [0, 7].

    Always read. What it can be hacked by is bland text, which is likely after everything: the
    contrast is there against that, and ``collapse/answer_distinct_2`` shows it."""

    reference: PreTrainedModel
    chat: ChatFormat
    prompts: Prompts
    settings: RubricJudge

    def score(
        self, queries: Sequence[str], answers: Sequence[str], key: DrawKey
    ) -> tuple[list[float], list[str]]:
        """Scores, and x in nats a token beside what it is made of."""
        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        asked = [*dict.fromkeys(query for query, _ in pairs), ""]
        encoded = self.chat.encode([self.prompts.solver_messages(query) for query in asked])
        prompt_of = dict(zip(asked, map(tuple, encoded), strict=True))
        texts = self.chat.encode_text([answer for _, answer in pairs])
        ids = [(*text, self.chat.end_id) for text in texts]
        settings, contrast = self.settings, self.settings.likelihood_contrast
        given = self._means([prompt_of[query] for query, _ in pairs], ids)
        alone = self._means([prompt_of[""]] * len(ids), ids) if contrast else [0.0] * len(ids)
        judged, width = [], settings.likelihood_high - settings.likelihood_low
        for with_query, without in zip(given, alone, strict=True):
            x = with_query + contrast * (with_query - without)
            text = f"{x:.3f} nats a token ({with_query:.3f} after the query, {without:.3f} alone)"
            judged.append((7 * min(1.0, max(0.0, (x - settings.likelihood_low) / width)), text))
        return of_each(queries, answers, pairs, judged)

    def _means(
        self, prompts: Sequence[tuple[int, ...]], completions: Sequence[tuple[int, ...]]
    ) -> list[float]:
        """The mean log-probability of each completion's tokens after its prompt."""
        from lsp.model.probability import completion_logprobs

        totals = completion_logprobs(self.reference, prompts, completions, PREFILL_TOKENS)
        return [total / len(ids) for total, ids in zip(totals, completions, strict=True)]


def of_each(
    queries: Sequence[str],
    answers: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    judged: Sequence[tuple[float, str]],
) -> tuple[list[float], list[str]]:
    """What was found of different ``pairs``, for all of them in their order."""
    by_pair = dict(zip(pairs, judged, strict=True))
    scored = [by_pair[pair] for pair in zip(queries, answers, strict=True)]
    return [score for score, _ in scored], [text for _, text in scored]


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
