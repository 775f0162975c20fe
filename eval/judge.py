"""Pairwise verdicts of a judge over chat completions: which of two answers is better?

A verdict is a preference in [1, 2], 2 where the model's answer is preferred: from the log-probs of
the two labels where the server gives them (AlpacaEval's weighted form), else from the text. An
answer that is neither is asked again, then left out and counted; nothing is made up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eval.cache import VerdictCache, content_key
from eval.template import FIRST, SECOND, Template, read_template
from eval.win_rate import label_preference
from lsp.settings.schema import number
from lsp.tools.retry import RETRIED_STATUS, backoff, retry_after

OPENAI_URL = "https://api.openai.com/v1"
FINAL = "refused for this pair"
GIVE_UP = 24
"""Questions in a row without any verdict, each tried ``max_tries`` times, that end it."""


@dataclass(frozen=True)
class ChatJudge:
    """``conf/evaluate/judge/{gpt4o,compatible}.yaml``. ``order``: both orders, or only the seeded
    one of AlpacaEval. ``max_usd`` stops before that much could be spent, calls in flight at their
    worst included. ``tokenizer``: a folder or Hub id that counts a dry run's tokens. ``logprobs``:
    ask for them; without, or where a server sends none, the text decides. ``max_tokens_name`` and
    a null ``temperature`` are for models that refuse the usual ones."""

    model: str
    base_url: str | None
    api_key_env: str
    template: Literal["own", "alpaca_eval"]
    tokenizer: str | None
    logprobs: bool
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"]
    order: Literal["both", "one"]
    order_seed: int = number(minimum=0)
    concurrency: int = number(minimum=1)
    requests_per_minute: int = number(minimum=1)
    max_usd: float | None = number(above=0)
    timeout_seconds: float = number(above=0)
    max_tries: int = number(minimum=1)
    max_tokens: int = number(minimum=1)
    temperature: float | None = number(minimum=0)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (JudgeRefuses,)

    def explain(self, error: Exception) -> str:
        return (
            f"the judge refuses: {error}; check judge.model, judge.base_url and the key in"
            f" {self.api_key_env}. Verdicts that came are kept"
        )

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
    None where no readable answer came; ``problem`` then says why. ``usd``: what the answer cost
    when it came, ``date`` the day of that."""

    index: int
    source: str
    model_first: bool
    preference: float | None
    text: str | None
    cached: bool
    usd: float
    date: str | None
    problem: str | None = None


class BudgetReached(Exception):
    """The next call could cost more than ``judge.max_usd`` allows."""


def preference_of(response: dict[str, Any], model_first: bool) -> float | None:
    """Preference in [1, 2] from a stored response; None where it holds no readable label.

    With log-probs of the first token, where a label is the likeliest: ``label_preference`` of the
    two, each with and without blanks around it. Else the label that the text is: a label that is
    only one of the unlikely tokens behind "I" or "Both" is no verdict.
    """
    found: dict[str, list[float]] = {FIRST: [], SECOND: []}
    top = response.get("top_logprobs") or []
    likeliest = max(top, key=lambda entry: entry[1], default=("", 0.0))[0].strip()
    if likeliest in found:
        for token, logprob in top:
            if token.strip() in found:
                found[token.strip()].append(logprob)
        return label_preference(*map(_log_sum, found.values()), switched=model_first)
    label = (response.get("text") or "").strip()
    if label not in found:
        return None
    return 2.0 if (label == FIRST) == model_first else 1.0


def response_of(answer: Any) -> dict[str, Any]:
    """What is kept of a chat completion. Raises ValueError, TypeError, AttributeError or
    IndexError for one of another shape."""
    choice = answer.choices[0]
    text = choice.message.content
    if not isinstance(text, str | None):
        raise TypeError("content is no text")
    listed = choice.logprobs.content[0].top_logprobs if choice.logprobs else []
    top = [[entry.token, entry.logprob] for entry in listed]
    for token, logprob in top:
        number = isinstance(logprob, int | float) and not math.isnan(logprob) and logprob <= 1e-3
        if not isinstance(token, str) or not number:
            raise ValueError(f"log-prob {logprob!r} of {token!r}")
    top = [entry for entry in top if entry[1] > -math.inf]
    return {"text": text or "", "top_logprobs": top}


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
    """Dollars spent before this process, spent and reserved; one event loop, so no lock."""

    limit: float | None
    before: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0

    def reserve(self, worst: float) -> None:
        total = self.before + self.spent + self.reserved
        if self.limit is not None and total + worst > self.limit:
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


class JudgeRefuses(Exception):
    """No further call can help; the text says why."""


class Judge:
    """Asks for verdicts, ``concurrency`` at a time, each at most once for ever (the cache)."""

    def __init__(self, settings: ChatJudge, api_key: str, cache: VerdictCache, prices: Prices):
        import openai

        self._openai = openai
        self.settings = settings
        self.template: Template = read_template(settings.template)
        self.cache = cache
        self.prices = prices
        self.spending = Spending(settings.max_usd)
        self.pace = Pace(settings.requests_per_minute)
        self.calls = 0
        self._failed_in_a_row = 0
        self.client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=settings.base_url or OPENAI_URL,
            timeout=settings.timeout_seconds,
            max_retries=0,
        )

    def request(self, pair: Pair, model_first: bool) -> dict[str, Any]:
        settings = self.settings
        request = {
            "model": settings.model,
            "messages": self.template.messages(*pair.shown(model_first)),
            settings.max_tokens_name: settings.max_tokens,
        }
        if settings.temperature is not None:
            request["temperature"] = settings.temperature
        return request | ({"logprobs": True, "top_logprobs": 5} if settings.logprobs else {})

    def key(self, request: dict[str, Any]) -> str:
        return content_key({"base_url": self.settings.base_url, **request})

    @property
    def usd(self) -> float:
        """Dollars that this process spent; calls whose answer was lost at their worst."""
        return self.spending.spent

    def totals(self, asked: Sequence[tuple[Pair, bool]]) -> tuple[int, float]:
        """(calls, dollars) ever spent on these questions, by killed processes too."""
        return self.cache.totals([self.key(self.request(*question)) for question in asked])

    async def judge_all(
        self, asked: Sequence[tuple[Pair, bool]], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """A verdict for each (pair, model_first). Raises BudgetReached once nothing more may be
        asked, counting what was spent on these questions before, and JudgeRefuses where going on
        is of no use; every verdict that came is in the cache then."""
        gate = asyncio.Semaphore(self.settings.concurrency)
        end: Exception | None = None
        _, before = self.totals(asked)
        self.spending.before = before

        async def one(pair: Pair, model_first: bool) -> Verdict | None:
            nonlocal end
            async with gate:
                if end is not None:
                    return None
                try:
                    verdict = await self._verdict(pair, model_first)
                except (BudgetReached, JudgeRefuses) as error:
                    end = end or error
                    return None
                on_verdict(verdict)
                return verdict

        async with self.client:
            verdicts = await asyncio.gather(*(one(pair, first) for pair, first in asked))
        if end is not None:
            raise end
        return [verdict for verdict in verdicts if verdict is not None]

    async def _verdict(self, pair: Pair, model_first: bool) -> Verdict:
        request = self.request(pair, model_first)
        key = self.key(request)
        verdict = Verdict(pair.index, pair.source, model_first, None, None, False, 0.0, None)
        stored = self.cache.get(key)
        if stored is not None:
            preference = preference_of(stored, model_first)
            day = _day(stored["created"])
            return replace(
                verdict, preference=preference, text=stored["text"], cached=True, date=day,
                usd=stored["usd"],
            )  # fmt: skip
        problem, usd = "no answer", 0.0
        for attempt in range(self.settings.max_tries):
            if attempt:
                await asyncio.sleep(backoff(attempt))
            response, problem, cost = await self._call(key, request)
            usd += cost
            if response is None:
                if problem.startswith(FINAL):
                    break
                continue
            preference = preference_of(response, model_first)
            if preference is None:
                problem = f"unreadable answer {response['text'][:80]!r}"
                continue
            self._failed_in_a_row = 0
            self.cache.put(key, {**response, "usd": usd})
            return replace(
                verdict, preference=preference, text=response["text"], usd=usd,
                date=_day(time.time()),
            )  # fmt: skip
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP:
            raise JudgeRefuses(f"{GIVE_UP} questions in a row had no verdict, the last: {problem}")
        return replace(verdict, usd=usd, problem=problem, date=_day(time.time()))

    async def _call(
        self, key: str, request: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, str, float]:
        """(response, problem, dollars) of one call. Raises BudgetReached, and JudgeRefuses where
        no call can help (a wrong key, an unknown model, no money)."""
        openai = self._openai
        size = sum(len(message["content"].encode()) for message in request["messages"])
        # A token has a byte at least; around each message are a few tokens of the chat format.
        worst = self.prices.usd(size + 16 * len(request["messages"]), self.settings.max_tokens)
        self.spending.reserve(worst)
        actual = worst  # until the answer says what it was: a lost one may have been paid
        try:
            await self.pace.wait()
            self.calls += 1
            self.cache.begin_call(key, worst)
            answer = await self.client.chat.completions.create(**request)
            usage = answer.usage
            if usage is not None:
                actual = self.prices.usd(usage.prompt_tokens, usage.completion_tokens)
            return response_of(answer), "", actual
        except openai.APIStatusError as error:
            actual = 0.0
            status, problem = error.status_code, f"HTTP {error.status_code}"
            if status in (401, 403, 404) or error.code == "insufficient_quota":
                raise JudgeRefuses(f"{error} ({error.code})") from error
            if status < 500 and status not in RETRIED_STATUS:
                return None, f"{FINAL} ({problem}: {str(error)[:200]})", actual
            self.pace.pause(retry_after(error.response.headers.get("retry-after", "")))
            return None, problem, actual
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            return None, f"{type(error).__name__} {error.__cause__ or ''}".strip(), actual
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return None, f"an answer of another shape ({type(error).__name__}: {error})", actual
        finally:
            self.spending.settle(worst, actual)
            self.cache.settle_call(key, worst, actual)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
