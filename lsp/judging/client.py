"""A judge over chat completions: a pair of answers goes in, which of the two is better comes out.

A verdict is a preference in [1, 2], 2 where the model's answer is preferred: from the log-probs of
the two labels where the server gives them (AlpacaEval's weighted form), else from the text. An
answer that is neither is asked again where that may help, then left out and counted by its reason
(eval/replies.py); nothing is made up.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from eval.cache import VerdictCache, content_key
from eval.contracts import EvaluateConfig, EvaluationContext, Judge, JudgeSettings
from eval.replies import (
    Fault,
    NoVerdict,
    Response,
    fault_of,
    of_fault,
    preference_of,
    read_from,
    read_response,
    setting_that_mends,
    tokens_of,
)
from eval.spending import BudgetReached, Pace, Prices, Spending, day, known_judges, prices
from eval.template import read_template
from eval.types import Pair, Question, Verdict
from lsp.errors import RunError
from lsp.settings.schema import setting, settings
from lsp.tools import http
from lsp.tools.addresses import is_openai
from lsp.tools.retry import retry_after, wait_before
from lsp.tools.secrets import scrub

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CHAT = "/chat/completions"
REFUSING_STATUS = (401, 402, 403, 404, *http.REDIRECTS)
"""After which no question is answered: a wrong key, an empty account, an unknown model, a redirect
(a wrong address)."""
GIVE_UP = 24
"""Questions in a row without any verdict, each tried ``max_tries`` times, that end it."""


@settings
class ChatJudge(JudgeSettings):
    """A model behind chat completions, OpenAI's or any server that speaks them."""

    chat = True
    model: str = setting("the judge's name at the server; OpenAI's with its date")
    base_url: str | None = setting("such as http://host:8000/v1, or Azure's; null: OpenAI's")
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
        other_host = not is_openai(url)
        if other_host and self.api_key_env == OPENAI_KEY:
            reason = f"{OPENAI_KEY}: another host than OpenAI's does not get OpenAI's key"
            fix = "name the variable that holds its own key: judge.api_key_env=…"
            problems.append((f"api_key_env={reason}", fix))
        problems += http.address_problems("base_url", url)
        if urlsplit(url).path.rstrip("/").endswith(CHAT):
            problems.append((f"base_url ends in {CHAT}, which is added to it", "leave that off"))
        if scrub(self.model) != self.model:
            fix = "keys come from environment variables, never from settings"
            problems.append(("model holds what looks like a secret", fix))
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


class JudgeRefuses(RunError):
    """No further call can help: a wrong key, an unknown model, no money."""


class ChatClient(Judge):
    """Asks for verdicts, ``concurrency`` at a time, each at most once for ever (the cache)."""

    def __init__(self, settings: ChatJudge, api_key: str, cache: VerdictCache, prices: Prices):
        self.settings, self.cache, self.prices = settings, cache, prices
        self.template = read_template(settings.template)
        self.spending = Spending(settings.max_usd)
        self.pace = Pace(settings.requests_per_minute)
        self.calls = self._failed_in_a_row = 0
        self._end: RunError | None = None
        self.client = openai_client(settings, api_key)

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

    @property
    def at_most(self) -> bool:
        return self.spending.at_most

    def totals(self, questions: Sequence[Question]) -> tuple[int, float]:
        return self.cache.totals([self.key(self.request(*question)) for question in questions])

    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """Raises BudgetReached once nothing more may be asked, counting what was spent on these
        questions before, and JudgeRefuses; every verdict that came is in the cache then."""
        gate = asyncio.Semaphore(self.settings.concurrency)
        self._end = None
        _, self.spending.before = self.totals(questions)

        async def one(pair: Pair, model_first: bool) -> Verdict | None:
            async with gate:
                try:
                    verdict = await self._verdict(pair, model_first)
                except (BudgetReached, JudgeRefuses) as error:
                    self._end = self._end or error
                    return None
                on_verdict(verdict)
                return verdict

        async with self.client:
            outcomes = await asyncio.gather(*(one(pair, first) for pair, first in questions))
        verdicts = [verdict for verdict in outcomes if verdict is not None]
        if isinstance(self._end, BudgetReached):
            reached = f"is reached after {len(verdicts)} of {len(questions)} verdicts"
            advice = "they are kept, so the same command with a higher limit goes on"
            raise BudgetReached(f"judge.max_usd={self.settings.max_usd} {reached}; {advice}")
        if self._end is not None:
            raise self._end
        return verdicts

    async def _verdict(self, pair: Pair, model_first: bool) -> Verdict:
        request = self.request(pair, model_first)
        key = self.key(request)
        verdict = partial(Verdict, pair.index, pair.source, model_first)

        def read(response: Response) -> dict[str, Any]:
            source = read_from(response)
            preference = preference_of(response, model_first)
            return {"preference": preference, "text": response["text"], "read_from": source}

        if stored := self.cache.get(key):
            about = {"cached": True, "usd": stored["usd"], "date": day(stored["created"])}
            return verdict(**read(stored), **about)
        usd = 0.0
        for attempt in range(self.settings.max_tries):
            await wait_before(attempt)
            outcome, cost = await self._call(key, request)
            usd += cost
            if not isinstance(outcome, NoVerdict):
                self._failed_in_a_row = 0
                self.cache.put(key, {**outcome, "usd": usd})
                return verdict(**read(outcome), usd=usd, date=day())
            if outcome.final:
                break
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP:
            last = f"{GIVE_UP} questions in a row had no verdict, the last: {outcome.text}"
            raise self._refusal(last)
        return verdict(usd=usd, problem=outcome.text, reason=outcome.reason, date=day())

    async def _call(self, key: str, request: dict[str, Any]) -> tuple[Response | NoVerdict, float]:
        """(what came, dollars). Raises BudgetReached, and JudgeRefuses if no call can help."""
        size = sum(len(message["content"].encode()) for message in request["messages"])
        # A token has a byte at least; around each message are a few tokens of the chat format.
        most = size + 16 * len(request["messages"]), self.settings.max_tokens
        worst = self.prices.usd(*most)
        await self.spending.reserve(worst)
        actual: float | None = 0.0  # nothing is asked yet
        begun = False
        try:
            await self.pace.wait()
            if self._end is not None:
                raise self._end
            self.calls += 1
            self.cache.begin_call(key, worst)
            actual, begun = None, True  # until an answer says what it was: a lost one may be paid
            outcome, tokens = await self._ask(request, most)
            if isinstance(outcome, Fault) and outcome.of_status:
                actual = 0.0
            elif tokens is not None:
                actual = self.prices.usd(*tokens)
        except http.NoAnswer as error:
            outcome = NoVerdict("no_answer", str(error))
        finally:
            cost = worst if actual is None else actual
            await self.spending.settle(worst, actual)
            if begun:
                self.cache.settle_call(key, worst, cost)
        if isinstance(outcome, Fault):
            outcome = self._judged(outcome, request)
        return outcome, cost

    async def _ask(
        self, request: dict[str, Any], most: tuple[int, int]
    ) -> tuple[Response | NoVerdict | Fault, tuple[int, int] | None]:
        """(what came, its tokens if the server counted them). Raises NoAnswer."""
        import openai

        try:
            # Raw: openai would build objects of any shape from what it does not check.
            raw = await self.client.chat.completions.with_raw_response.create(**request)
        except openai.APIStatusError as error:
            response = error.response
            self.pace.pause(retry_after(response.headers.get("retry-after", "")))
            return fault_of(response.status_code, response.content), None
        body = http.read_json(raw.content)
        usage = body.get("usage") if isinstance(body, dict) else None
        return read_response(body, request), tokens_of(usage, *most)

    def _judged(self, fault: Fault, request: dict[str, Any]) -> NoVerdict:
        """Raises JudgeRefuses where every further question would meet the same."""
        if mends := setting_that_mends(fault, request):
            raise JudgeRefuses(
                f"the judge refuses: {fault}; say {mends}. Verdicts that came are kept"
            )
        if fault.status in REFUSING_STATUS or fault.code == "insufficient_quota":
            raise self._refusal(str(fault))
        return of_fault(fault)

    def _refusal(self, reason: str) -> JudgeRefuses:
        check = f"judge.model, judge.base_url and the key in {self.settings.api_key_env}"
        end = "Verdicts that came are kept"
        return JudgeRefuses(f"the judge refuses: {reason}; check {check}. {end}")


def openai_client(settings: ChatJudge, api_key: str) -> Any:
    """openai's client behind our boundary. An address with ``?api-version=`` is Azure's form: its
    own client sends the key as ``api-key``, and what stands behind ``?`` goes with every call."""
    import openai

    parts = urlsplit(settings.base_url or OPENAI_URL)
    query = dict(parse_qsl(parts.query))
    url = parts._replace(query="").geturl()
    options: dict[str, Any] = {
        "api_key": api_key,
        "base_url": url,
        "default_query": query,
        "max_retries": 0,
        "timeout": None,
        "http_client": http.client(url, settings.timeout_seconds),
    }
    if version := query.get("api-version"):
        return openai.AsyncAzureOpenAI(api_version=version, **options)
    return openai.AsyncOpenAI(**options)
