"""A judge over chat completions: a pair of answers goes in, which of the two is better comes out.

A verdict is a preference in [1, 2], 2 where the model's answer is preferred: from the log-probs of
the two labels where the server gives them (AlpacaEval's weighted form), else from the text. An
answer that is neither is asked again, then left out and counted; nothing is made up.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from eval.cache import VerdictCache, content_key
from eval.contracts import EvaluateConfig, EvaluationContext, Judge, JudgeSettings
from eval.spending import BudgetReached, Pace, Prices, Spending, day, known_judges, prices
from eval.template import FIRST, SECOND, read_template
from eval.types import Pair, Question, Verdict
from eval.win_rate import label_preference
from lsp.errors import RunError
from lsp.settings.schema import setting, settings
from lsp.tools.retry import RETRIED_STATUS, backoff, retry_after
from lsp.tools.secrets import scrub

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
FINAL = "refused for this pair"
OTHER_SHAPE = (AttributeError, IndexError, TypeError, ValueError)
GIVE_UP = 24
"""Questions in a row without any verdict, each tried ``max_tries`` times, that end it."""


@settings
class ChatJudge(JudgeSettings):
    """A model behind chat completions, OpenAI's or any server that speaks them."""

    chat = True
    model: str = setting("the judge's name at the server; OpenAI's with its date")
    base_url: str | None = setting("such as http://host:8000/v1; null: OpenAI's")
    api_key_env: str = setting("the name of the environment variable that holds the key")
    template: Literal["own", "alpaca_eval"] = setting("whose prompt (eval/template.py)")
    tokenizer: str | None = setting("counts a dry run's tokens; null: tiktoken")
    logprobs: bool = setting("ask for log-probs; the text decides where there are none")
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = setting(
        "what the server calls the limit of an answer"
    )
    order: Literal["both", "one"] = setting("both orders, or AlpacaEval's seeded one")
    order_seed: int = setting("of the seeded order", ge=0, le=2**32 - 1)
    concurrency: int = setting("calls at a time", ge=1, le=4096)
    requests_per_minute: int = setting("calls a minute, at most", ge=1, le=10_000_000)
    max_usd: float | None = setting("stop before more could be spent", gt=0, le=1e6)
    timeout_seconds: float = setting("of a call", gt=0, le=86_400)
    max_tries: int = setting("of one question, the first included", ge=1, le=100)
    max_tokens: int = setting("of the judge's answer", ge=1, le=65_536)
    temperature: float | None = setting("of the judge; null: not sent", ge=0, le=100)

    @property
    def key_variable(self) -> str:
        return self.api_key_env

    def problems(self, config: EvaluateConfig) -> list[tuple[str, str]]:
        entry, problems = known_judges().get(self.model, {}), []
        url = OPENAI_URL if self.base_url is None else self.base_url
        other_host = not url.startswith(OPENAI_URL)
        if other_host and self.api_key_env == OPENAI_KEY:
            reason = f"{OPENAI_KEY}: another host than OpenAI's does not get OpenAI's key"
            fix = "name the variable that holds its own key: judge.api_key_env=…"
            problems.append((f"api_key_env={reason}", fix))
        for name, value in (("base_url", url), ("model", self.model)):
            if scrub(value) != value:
                fix = "keys come from environment variables, never from settings"
                problems.append((f"{name}={scrub(value)} holds what looks like a secret", fix))
        if not _is_url(url):
            fix = "write it whole, such as http://host:8000/v1"
            problems.append((f"base_url={scrub(url)} is no http(s) address", fix))
        if "shutdown" in entry and not other_host and day() >= entry["shutdown"]:
            reason = f"model={self.model} was shut down {entry['shutdown']}"
            problems.append((reason, f"use {entry['instead']}"))
        if self.max_usd is not None and prices(self.model).input is None:
            fix = "add it to conf/evaluate/judges.json, or leave judge.max_usd out"
            problems.append((f"max_usd={self.max_usd:g} needs the judge's price", fix))
        return problems

    def build(self, context: EvaluationContext) -> "ChatClient":
        assert context.cache is not None
        return ChatClient(self, context.api_key, context.cache, context.prices)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is out of range
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class JudgeRefuses(RunError):
    """No further call can help: a wrong key, an unknown model, no money."""


class ChatClient(Judge):
    """Asks for verdicts, ``concurrency`` at a time, each at most once for ever (the cache)."""

    def __init__(self, settings: ChatJudge, api_key: str, cache: VerdictCache, prices: Prices):
        import openai

        self.settings, self.cache, self.prices = settings, cache, prices
        self.template = read_template(settings.template)
        self.spending = Spending(settings.max_usd)
        self.pace = Pace(settings.requests_per_minute)
        self.calls = self._failed_in_a_row = 0
        url = settings.base_url or OPENAI_URL
        limits = {"timeout": settings.timeout_seconds, "max_retries": 0}
        self.client = openai.AsyncOpenAI(api_key=api_key, base_url=url, **limits)

    def request(self, pair: Pair, model_first: bool) -> dict[str, Any]:
        settings = self.settings
        messages = self.template.messages(*pair.shown(model_first))
        limit = {settings.max_tokens_name: settings.max_tokens}
        request = {"model": settings.model, "messages": messages, **limit}
        if settings.temperature is not None:
            request["temperature"] = settings.temperature
        return request | ({"logprobs": True, "top_logprobs": 5} if settings.logprobs else {})

    def key(self, request: dict[str, Any]) -> str:
        return content_key({"base_url": self.settings.base_url, **request})

    @property
    def usd(self) -> float:
        """Dollars that this process spent; calls whose answer was lost at their worst."""
        return self.spending.spent

    def totals(self, questions: Sequence[Question]) -> tuple[int, float]:
        return self.cache.totals([self.key(self.request(*question)) for question in questions])

    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """Raises BudgetReached once nothing more may be asked, counting what was spent on these
        questions before, and JudgeRefuses; every verdict that came is in the cache then."""
        gate = asyncio.Semaphore(self.settings.concurrency)
        end: RunError | None = None
        _, self.spending.before = self.totals(questions)

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
            outcomes = await asyncio.gather(*(one(pair, first) for pair, first in questions))
        verdicts = [verdict for verdict in outcomes if verdict is not None]
        if isinstance(end, BudgetReached):
            reached = f"is reached after {len(verdicts)} of {len(questions)} verdicts"
            advice = "they are kept, so the same command with a higher limit goes on"
            raise BudgetReached(f"judge.max_usd={self.settings.max_usd} {reached}; {advice}")
        if end is not None:
            raise end
        return verdicts

    async def _verdict(self, pair: Pair, model_first: bool) -> Verdict:
        request = self.request(pair, model_first)
        key = self.key(request)
        verdict = partial(Verdict, pair.index, pair.source, model_first)
        if stored := self.cache.get(key):
            preference, date = preference_of(stored, model_first), day(stored["created"])
            return verdict(preference, stored["text"], True, stored["usd"], date)
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
            return verdict(preference, response["text"], usd=usd, date=day())
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP:
            raise self._refusal(f"{GIVE_UP} questions in a row had no verdict, the last: {problem}")
        return verdict(usd=usd, problem=problem, date=day())

    async def _call(
        self, key: str, request: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, str, float]:
        """(response, problem, dollars). Raises BudgetReached, JudgeRefuses if no call can help."""
        import openai

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
            actual, status, problem = 0.0, error.status_code, f"HTTP {error.status_code}"
            if status in (401, 403, 404) or error.code == "insufficient_quota":
                raise self._refusal(f"{error} ({error.code})") from error
            if status < 500 and status not in RETRIED_STATUS:
                return None, f"{FINAL} ({problem}: {str(error)[:200]})", actual
            self.pace.pause(retry_after(error.response.headers.get("retry-after", "")))
            return None, problem, actual
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            return None, f"{type(error).__name__} {error.__cause__ or ''}".strip(), actual
        except OTHER_SHAPE as error:
            return None, f"an answer of another shape ({type(error).__name__}: {error})", actual
        finally:
            self.spending.settle(worst, actual)
            self.cache.settle_call(key, worst, actual)

    def _refusal(self, reason: str) -> JudgeRefuses:
        check = f"judge.model, judge.base_url and the key in {self.settings.api_key_env}"
        end = "Verdicts that came are kept"
        return JudgeRefuses(f"the judge refuses: {reason}; check {check}. {end}")


def response_of(answer: Any) -> dict[str, Any]:
    """What is kept of a chat completion. Raises one of OTHER_SHAPE for another object."""
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


def preference_of(response: dict[str, Any], model_first: bool) -> float | None:
    """Preference in [1, 2] from a stored response; None where it holds no readable label.

    With log-probs of the first token, where a label is the likeliest: ``label_preference`` of the
    two, each with and without blanks around it. Else the label that the text is: a label that is
    only one of the unlikely tokens behind "I" or "Both" is no verdict."""
    by_label: dict[str, list[float]] = {FIRST: [], SECOND: []}
    top = response.get("top_logprobs") or []
    likeliest = max(top, key=lambda entry: entry[1], default=("", 0.0))[0].strip()
    if likeliest in by_label:
        for token, logprob in top:
            if token.strip() in by_label:
                by_label[token.strip()].append(logprob)
        # log of each label's summed probabilities, -inf of none; nothing underflows.
        of_m, of_M = (float(np.logaddexp.reduce(logprobs)) for logprobs in by_label.values())
        return label_preference(of_m, of_M, switched=model_first)
    label = (response.get("text") or "").strip()
    if label not in by_label:
        return None
    return 2.0 if (label == FIRST) == model_first else 1.0
