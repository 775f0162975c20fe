"""Pairwise verdicts of a judge over chat completions: which of two answers is better?

A verdict is a preference in [1, 2], 2 where the model's answer is preferred: from the log-probs of
the two labels where the server gives them (AlpacaEval's weighted form), else from the text. An
answer that is neither is asked again, then left out and counted; nothing is made up.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eval.cache import VerdictCache, content_key
from eval.template import FIRST, SECOND, Template, read_template
from eval.win_rate import label_preference
from lsp.schema import number

RETRIED_STATUS = (408, 409, 425, 429)


@dataclass(frozen=True)
class ChatJudge:
    """``conf/evaluate/judge/{gpt4o,compatible}.yaml``. ``order``: both orders, or only the seeded
    one of AlpacaEval. ``max_usd`` stops before that much could be spent, calls in flight at their
    worst included. ``tokenizer``: a folder or Hub id that counts a dry run's tokens. ``logprobs``:
    ask for them; without, or where a server sends none, the text decides."""

    model: str
    base_url: str | None
    api_key_env: str
    template: Literal["own", "alpaca_eval"]
    tokenizer: str | None
    logprobs: bool
    order: Literal["both", "one"]
    order_seed: int = number(minimum=0)
    concurrency: int = number(minimum=1)
    requests_per_minute: int = number(minimum=1)
    max_usd: float | None = number(above=0)
    timeout_seconds: float = number(above=0)
    max_tries: int = number(minimum=1)
    max_tokens: int = number(minimum=1)

    def build(self, api_key: str, cache: VerdictCache, prices: Prices) -> Judge:
        return Judge(self, api_key, cache, prices)


@dataclass(frozen=True)
class Pair:
    """One instruction with the model's and the baseline's answer. ``source``: its set of origin."""

    index: int
    source: str
    instruction: str
    model_output: str
    base_output: str

    def shown(self, model_first: bool) -> tuple[str, str, str]:
        """(instruction, first output, second output) in one of the two orders."""
        outputs = (self.model_output, self.base_output)
        return (self.instruction, *(outputs if model_first else outputs[::-1]))


@dataclass(frozen=True)
class Verdict:
    """One call's outcome. ``model_first``: the model's answer was shown first. ``preference`` is
    None where no readable answer came; ``problem`` then says why."""

    index: int
    source: str
    model_first: bool
    preference: float | None
    text: str | None
    cached: bool
    usd: float
    problem: str | None = None


class BudgetReached(Exception):
    """The next call could cost more than ``judge.max_usd`` allows."""


def preference_of(response: dict[str, Any], model_first: bool) -> float | None:
    """Preference in [1, 2] from a stored response; None where it holds no readable label.

    With log-probs of the first token ``label_preference`` of the two labels, each with and without
    blanks around it. Without: the label that the text is.
    """
    found: dict[str, list[float]] = {FIRST: [], SECOND: []}
    for token, logprob in response.get("top_logprobs") or []:
        if token.strip() in found:
            found[token.strip()].append(logprob)
    if any(found.values()):
        return label_preference(*map(_log_sum, found.values()), switched=model_first)
    label = (response.get("text") or "").strip()
    if label not in found:
        return None
    return 2.0 if (label == FIRST) == model_first else 1.0


def _log_sum(logprobs: Sequence[float]) -> float:
    """log of the summed probabilities, -inf of none; nothing underflows."""
    highest = max(logprobs, default=-math.inf)
    if math.isinf(highest):
        return highest
    return highest + math.log(sum(math.exp(value - highest) for value in logprobs))


@dataclass
class Prices:
    """US dollars per million tokens; None where they are not known."""

    input: float | None
    output: float | None

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        if self.input is None or self.output is None:
            return 0.0
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


@dataclass
class Spending:
    """Dollars spent and reserved; one event loop, so no lock."""

    limit: float | None
    spent: float = 0.0
    reserved: float = 0.0

    def reserve(self, worst: float) -> None:
        if self.limit is not None and self.spent + self.reserved + worst > self.limit:
            raise BudgetReached
        self.reserved += worst

    def settle(self, worst: float, actual: float) -> None:
        self.reserved -= worst
        self.spent += actual


@dataclass
class Pace:
    """One rate for all calls, and one pause that any of them can ask for."""

    requests_per_minute: int
    _next: float = field(default_factory=time.monotonic)

    async def wait(self) -> None:
        now = time.monotonic()
        slot = max(now, self._next)
        self._next = slot + 60 / self.requests_per_minute
        await asyncio.sleep(slot - now)

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)


class Judge:
    """Asks for verdicts, ``concurrency`` at a time, each at most once for ever (the cache)."""

    def __init__(self, settings: ChatJudge, api_key: str, cache: VerdictCache, prices: Prices):
        import openai

        self._openai = openai
        self.errors = (openai.APIError,)
        self.settings = settings
        self.template: Template = read_template(settings.template)
        self.cache = cache
        self.prices = prices
        self.spending = Spending(settings.max_usd)
        self.pace = Pace(settings.requests_per_minute)
        self.calls = 0
        self.client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=0,
        )

    def request(self, pair: Pair, model_first: bool) -> dict[str, Any]:
        request = {
            "model": self.settings.model,
            "messages": self.template.messages(*pair.shown(model_first)),
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.0,
        }
        return request | ({"logprobs": True, "top_logprobs": 5} if self.settings.logprobs else {})

    @property
    def usd(self) -> float:
        """Dollars that this process spent."""
        return self.spending.spent

    def explain(self, error: Exception) -> str:
        return (
            f"the judge refuses: {error}; check judge.model, judge.base_url and the key in"
            f" {self.settings.api_key_env}. Verdicts that came are kept"
        )

    def calls_ever(self, asked: Sequence[tuple[Pair, bool]]) -> int:
        """Calls begun for these questions, by killed processes too."""
        return self.cache.calls([self.key(self.request(*question)) for question in asked])

    def key(self, request: dict[str, Any]) -> str:
        return content_key({"base_url": self.settings.base_url, **request})

    async def judge_all(
        self, asked: Sequence[tuple[Pair, bool]], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """A verdict for each (pair, model_first). Raises BudgetReached once nothing more may be
        asked; every verdict that came is in the cache then."""
        gate = asyncio.Semaphore(self.settings.concurrency)
        stopped = False

        async def one(pair: Pair, model_first: bool) -> Verdict | None:
            nonlocal stopped
            async with gate:
                if stopped:
                    return None
                try:
                    verdict = await self._verdict(pair, model_first)
                except BudgetReached:
                    stopped = True
                    return None
                on_verdict(verdict)
                return verdict

        async with self.client:
            verdicts = await asyncio.gather(*(one(pair, first) for pair, first in asked))
        if stopped:
            raise BudgetReached
        return [verdict for verdict in verdicts if verdict is not None]

    async def _verdict(self, pair: Pair, model_first: bool) -> Verdict:
        request = self.request(pair, model_first)
        key = self.key(request)
        stored = self.cache.get(key)
        if stored is not None:
            preference = preference_of(stored, model_first)
            return Verdict(
                pair.index, pair.source, model_first, preference, stored["text"], True, 0.0
            )
        problem = "no answer"
        usd = 0.0
        for attempt in range(self.settings.max_tries):
            if attempt:
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(30.0, 0.5 * 2**attempt))
            response, problem, cost = await self._call(key, request)
            usd += cost
            if response is None:
                continue
            preference = preference_of(response, model_first)
            if preference is None:
                problem = f"unreadable answer {response['text']!r}"
                continue
            self.cache.put(key, response)
            return Verdict(
                pair.index, pair.source, model_first, preference, response["text"], False, usd
            )
        return Verdict(pair.index, pair.source, model_first, None, None, False, usd, problem)

    async def _call(
        self, key: str, request: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, str, float]:
        """(response, problem, dollars) of one call. Raises BudgetReached, and the client's error
        where trying again cannot help (a wrong key, an unknown model)."""
        openai = self._openai
        size = sum(len(message["content"].encode()) for message in request["messages"])
        worst = self.prices.usd(size, request["max_tokens"])  # a token has a byte at least
        self.spending.reserve(worst)
        actual = 0.0
        try:
            await self.pace.wait()
            self.calls += 1
            self.cache.note_call(key)
            answer = await self.client.chat.completions.create(**request)
            if answer.usage is not None:
                actual = self.prices.usd(answer.usage.prompt_tokens, answer.usage.completion_tokens)
            choice = answer.choices[0]
            top = choice.logprobs.content[0].top_logprobs if choice.logprobs else []
            response = {
                "text": choice.message.content or "",
                "top_logprobs": [[entry.token, entry.logprob] for entry in top],
                "usd": actual,
            }
            return response, "", actual
        except openai.APIStatusError as error:
            if error.status_code < 500 and error.status_code not in RETRIED_STATUS:
                raise
            after = error.response.headers.get("retry-after", "")
            if after.replace(".", "", 1).isdigit():
                self.pace.pause(min(60.0, float(after)))
            return None, f"HTTP {error.status_code}", actual
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            return None, type(error).__name__, actual
        except (AttributeError, IndexError, TypeError, json.JSONDecodeError) as error:
            return None, f"an answer of another shape ({type(error).__name__})", actual
        finally:
            self.spending.settle(worst, actual)
