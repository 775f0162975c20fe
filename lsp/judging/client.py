"""Messages for a chat server go in; what it said to each, paid for once, comes out.

Each request is asked at most once for ever (the cache), ``concurrency`` at a time, under one rate
and one budget. An answer that cannot be used is asked for again where that may help, then it is
named by its reason (replies.py); nothing is made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lsp.errors import RunError
from lsp.judging.cache import VerdictCache, content_key
from lsp.judging.replies import (
    Fault,
    Labels,
    NoVerdict,
    Response,
    fault_of,
    of_fault,
    read_response,
    setting_that_mends,
    tokens_of,
)
from lsp.judging.server import ChatServer, no_key, openai_client
from lsp.judging.spending import BudgetReached, Pace, Prices, Spending, day
from lsp.tools import http
from lsp.tools.retry import retry_after, wait_before
from lsp.tools.text import as_utf8

REFUSING_STATUS = (401, 402, 403, 404, *http.REDIRECTS)
"""After which no question is answered: a wrong key, an empty account, an unknown model, a redirect
(a wrong address)."""
GIVE_UP = 24
"""Questions in a row without any answer, each tried ``max_tries`` times, that end it."""

Messages = list[dict[str, str]]
Request = dict[str, Any]


class JudgeRefuses(RunError):
    """No further call can help: a wrong key, an unknown model, no money."""


@dataclass(frozen=True)
class Reply:
    """What came of one question. ``usd``: what it cost when it came, on the day ``date``;
    ``cached``: it came before."""

    outcome: Response | NoVerdict
    usd: float
    date: str
    cached: bool = False


@dataclass(frozen=True)
class Asked:
    """Whom messages speak of: ``name`` ("judge"), and ``place``, the key of its settings.
    ``share``: the part of concurrency and rate that this process has. ``texts_end_it``: whether
    GIVE_UP questions in a row that are left without an answer for their texts' sake end it, as
    those do for the server's."""

    name: str
    place: str
    share: float = 1.0
    texts_end_it: bool = True


class ChatClient:
    """Asks one server, in one event loop. ``labels``: what an answer can be; None: any text."""

    def __init__(
        self,
        server: ChatServer,
        asked: Asked,
        api_key: str,
        cache: VerdictCache,
        prices: Prices,
        labels: Labels,
        spending: Spending,
    ):
        self.server, self.asked, self.cache = server, asked, cache
        self.prices, self.labels = prices, labels
        self.spending = spending
        self.pace = Pace(server.requests_per_minute * asked.share)
        self.calls = self._failed_in_a_row = 0
        self._end: RunError | None = None
        self.client = openai_client(server, api_key)
        self.headers = {} if api_key else no_key()

    def request_of(self, messages: Messages, top_logprobs: int = 0) -> Request:
        """``top_logprobs``: of the first token; 0: none are asked for."""
        server = self.server
        limit = {server.max_tokens_name: server.max_tokens}
        request: Request = {"model": server.model, "messages": messages, **limit}
        if server.temperature is not None:
            request["temperature"] = server.temperature
        more = {"logprobs": True, "top_logprobs": top_logprobs}
        return request | (more if top_logprobs else {})

    def key(self, request: Request) -> str:
        return content_key({"base_url": self.server.base_url, **request})

    @property
    def usd(self) -> float:
        """Dollars that this process spent; calls whose answer was lost at their worst."""
        return self.spending.spent

    @property
    def at_most(self) -> bool:
        return self.spending.at_most

    async def ask_all(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None]
    ) -> None:
        """Hands each reply to ``on_reply``, with the place of its request, when it comes. Raises
        BudgetReached once nothing more may be asked, and JudgeRefuses; every answer that came is in
        the cache then."""
        gate = asyncio.Semaphore(max(1, round(self.server.concurrency * self.asked.share)))
        self._end, answered = None, 0

        async def one(place: int, request: Request) -> None:
            nonlocal answered
            async with gate:
                try:
                    reply = await self._reply(request)
                except (BudgetReached, JudgeRefuses) as error:
                    self._end = self._end or error
                    return
                answered += 1
                on_reply(place, reply)

        async with self.client:
            await asyncio.gather(*(one(i, request) for i, request in enumerate(requests)))
        if isinstance(self._end, BudgetReached):
            limit = f"{self.asked.place}.max_usd={self.spending.limit:g}"
            reached = f"is reached after {answered} of {len(requests)} verdicts"
            advice = "they are kept, so the same command with a higher limit goes on"
            raise BudgetReached(f"{limit} {reached}; {advice}")
        if self._end is not None:
            raise self._end

    async def _reply(self, request: Request) -> Reply:
        key = self.key(request)
        if stored := self.cache.get(key):
            return _stored(stored, cached=True)
        usd = 0.0
        for attempt in range(self.server.max_tries):
            await wait_before(attempt)
            outcome, cost = await self._call(key, request)
            usd += cost
            if not isinstance(outcome, NoVerdict):
                self._failed_in_a_row = 0
                return _stored(self.cache.put(key, {**outcome, "usd": usd}))
            if outcome.final:
                break
        if self.asked.texts_end_it or not outcome.of_texts:
            self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP:
            last = f"{GIVE_UP} questions in a row had no verdict, the last: {outcome.text}"
            raise self._refusal(last)
        return Reply(outcome, usd, day())

    def keep_silence(self, request: Request, reply: Reply) -> None:
        """That there is no answer is the answer from now on."""
        assert isinstance(reply.outcome, NoVerdict)
        silence = {"unread": reply.outcome.reason, "text": reply.outcome.text, "usd": reply.usd}
        self.cache.put(self.key(request), silence)

    async def _call(self, key: str, request: Request) -> tuple[Response | NoVerdict, float]:
        """(what came, dollars). Raises BudgetReached, and JudgeRefuses if no call can help."""
        most = most_prompt_tokens(request["messages"]), self.server.max_tokens
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
        self, request: Request, most: tuple[int, int]
    ) -> tuple[Response | NoVerdict | Fault, tuple[int, int] | None]:
        """(what came, its tokens if the server counted them). Raises NoAnswer."""
        import openai

        try:
            # Raw: openai would build objects of any shape from what it does not check.
            raw = await self.client.chat.completions.with_raw_response.create(
                **request, extra_headers=self.headers
            )
        except openai.APIStatusError as error:
            response = error.response
            self.pace.pause(retry_after(response.headers.get("retry-after", "")))
            return fault_of(response.status_code, response.content), None
        body = http.read_json(raw.content)
        usage = body.get("usage") if isinstance(body, dict) else None
        return read_response(body, request, self.labels), tokens_of(usage, *most)

    def _judged(self, fault: Fault, request: Request) -> NoVerdict:
        """Raises JudgeRefuses where every further question would meet the same."""
        if mends := setting_that_mends(fault, request):
            raise JudgeRefuses(
                f"the {self.asked.name} refuses: {fault}; say {self.asked.place}.{mends}. Verdicts"
                " that came are kept"
            )
        if fault.status in REFUSING_STATUS or fault.code == "insufficient_quota":
            raise self._refusal(str(fault))
        return of_fault(fault)

    def _refusal(self, reason: str) -> JudgeRefuses:
        place = self.asked.place
        key = f"the key in {self.server.api_key_env or f'{place}.api_key_env, which names none'}"
        check = f"{place}.model, {place}.base_url and {key}"
        end = "Verdicts that came are kept"
        return JudgeRefuses(f"the {self.asked.name} refuses: {reason}; check {check}. {end}")


def _stored(stored: dict[str, Any], cached: bool = False) -> Reply:
    """What the cache holds of a question."""
    outcome: Response | NoVerdict
    outcome = {name: value for name, value in stored.items() if name not in ("usd", "created")}
    if "unread" in stored:
        outcome = NoVerdict(stored["unread"], stored["text"], final=True)
    return Reply(outcome, stored["usd"], day(stored["created"]), cached)


def as_messages(turns: Sequence[tuple[str, str]]) -> Messages:
    """A conversation, (who speaks, what), as chat completions want it."""
    return [{"role": role, "content": as_utf8(text)} for role, text in turns]


def most_prompt_tokens(messages: Messages) -> int:
    """More tokens than these messages can be: a token has a byte at least, and around each message
    are a few tokens of the chat format."""
    return sum(len(message["content"].encode()) for message in messages) + 16 * len(messages)
