"""Pairs go in, a judge's rewards come out: asked in one event loop a step, kept in the cache, so
that the same pair gets the same number in every step, process and resumed run.

What the judge does not say of a pair (it refuses, a filter stops it, the text is unreadable) is the
pair's own and is kept too; a server that fails ends the run. Every verdict that came is kept then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lsp.contracts import Reward
from lsp.errors import PartFailed, RunError
from lsp.judging.cache import VerdictCache
from lsp.judging.client import GIVE_UP, Asked, ChatClient, Messages, Reply, Request, as_messages
from lsp.judging.replies import Labels, NoVerdict, expected, read_from
from lsp.judging.spending import BudgetReached, Spending, prices
from lsp.model.processes import Processes
from lsp.tools.heartbeat import at

if TYPE_CHECKING:
    from lsp.rewards.judge import JudgeReward
    from lsp.settings.config import Config

Pair = tuple[str, str]
TOP_LOGPROBS = 20
"""As many as OpenAI and vLLM give: digits, and how else they are written."""
OPPONENT = "opponent"


class Question(NamedTuple):
    """What a judge is asked about a pair, and the R of each label that it may answer."""

    messages: Messages
    values: Mapping[str, float]


@dataclass(frozen=True)
class Judged:
    """A pair's R; whether it is that of pairs without a verdict, and whether a text decided it; and
    what its verdict cost when it came."""

    reward: float
    unread: bool = False
    from_text: bool = False
    usd: float = 0.0


class JudgeScorer(Reward):
    """Call it with queries and answers of equal number. Raises ValueError, for the user, where the
    judge cannot be asked, may not be paid, or gives no verdict and nothing stands for that."""

    def __init__(self, settings: JudgeReward, config: Config):
        self.settings, self.config = settings, config
        self.place = settings.key(config)
        self.cache = VerdictCache(settings.file(config))
        self.share = 1 / Processes.from_environment().size
        self._judged: list[Judged] = []
        self._silences: list[tuple[ChatClient, Request, Reply]] = []
        self._unread_in_a_row = 0

    def details(self) -> dict[str, list[float]]:
        """``unread`` and ``from_text``: 1 or 0 for each pair of the last call; ``usd``: what its
        verdict cost when it came, where the judge's price is known."""
        details = {
            "unread": [float(one.unread) for one in self._judged],
            "from_text": [float(one.from_text) for one in self._judged],
        }
        if prices(self.settings.model).input is not None:
            details["usd"] = [one.usd for one in self._judged]
        return details

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        self._silences = []
        try:
            judged = dict(zip(pairs, asyncio.run(self._all(pairs)), strict=True))
        except BudgetReached:
            limit = f"{self.place}.max_usd={self.settings.max_usd:g} is reached"
            spent = f"calls in {self.settings.file(self.config)} cost ${self.cache.spent():.2f}"
            advice = f"with a higher {self.place}.max_usd written behind it no call is made twice"
            raise PartFailed("reward", f"{limit}: {spent}; verdicts are kept: {advice}") from None
        except RunError as error:
            raise ValueError(str(error)) from error
        self._judged = [judged[pair] for pair in zip(queries, answers, strict=True)]
        self._refuse_silence(judged)
        for client, request, reply in self._silences:
            client.keep_silence(request, reply)
        return [one.reward for one in self._judged]

    def _refuse_silence(self, judged: dict[Pair, Judged]) -> None:
        """Raises ValueError once GIVE_UP queries in a row had no verdict on any of their answers:
        that is no longer about texts."""
        heard = {query for (query, _), one in judged.items() if not one.unread}
        for query in dict.fromkeys(query for query, _ in judged):
            self._unread_in_a_row = 0 if query in heard else self._unread_in_a_row + 1
            if self._unread_in_a_row >= GIVE_UP:
                many = f"{GIVE_UP} queries in a row had no verdict on any answer"
                raise ValueError(f"the judge: {many}, the last {query!r:.60}; see what it answers")

    async def _all(self, pairs: Sequence[Pair]) -> list[Judged]:
        settings = self.settings
        # What other processes spend meanwhile is not seen: each has its share of what is left.
        limit, before = settings.max_usd, self.cache.spent()
        if limit is not None:
            limit = before + max(0.0, limit - before) * self.share
        spending = Spending(limit, before)
        others = await self._opponents(pairs, spending)
        questions = [
            settings.questions(query, answer, other)
            if isinstance(other := others[query], str)
            else []
            for query, answer in pairs
        ]
        messages = [question.messages for of_pair in questions for question in of_pair]
        replies = iter(await self._ask("judge", messages, settings.labels, spending))
        judged = []
        for pair, of_pair in zip(pairs, questions, strict=True):
            answered = [(next(replies), question.values) for question in of_pair]
            other = others[pair[0]]
            unread = [r.outcome for r, _ in answered if isinstance(r.outcome, NoVerdict)]
            unread += [other] if isinstance(other, NoVerdict) else []
            judged.append(self._unread(pair, unread[0]) if unread else self._read(answered))
        return judged

    def _read(self, answered: Sequence[tuple[Reply, Mapping[str, float]]]) -> Judged:
        """A pair from what was said to its questions; a tie where there was nothing to ask."""
        if not answered:
            return Judged(0.5)
        means = [expected(reply.outcome, values) for reply, values in answered]
        labels = self.settings.labels
        return Judged(
            reward=sum(means) / len(means),
            from_text=any(read_from(reply.outcome, labels) == "text" for reply, _ in answered),
            usd=sum(reply.usd for reply, _ in answered),
        )

    def _unread(self, pair: Pair, why: NoVerdict) -> Judged:
        if self.settings.unread is None:
            shown = "the query {!r:.60} and the answer {!r:.60}".format(*pair)
            raise ValueError(
                f"no verdict on {shown}: {why.text}; verdicts that came are kept, so a new run with"
                f" {self.place}.unread=<R of such a pair, from 0 to 1> pays for none of them"
            )
        return Judged(self.settings.unread, unread=True)

    async def _opponents(
        self, pairs: Sequence[Pair], spending: Spending
    ) -> dict[str, str | NoVerdict]:
        """Query -> the opponent's answer, empty where there is no opponent."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        if OPPONENT not in self.settings.servers:
            return dict.fromkeys(queries, "")
        prompts = self.config.prompts
        messages = [as_messages(prompts.solver_messages(query)) for query in queries]
        replies = await self._ask(OPPONENT, messages, None, spending)
        outcomes = [reply.outcome for reply in replies]
        texts = [one if isinstance(one, NoVerdict) else one["text"] for one in outcomes]
        return dict(zip(queries, texts, strict=True))

    async def _ask(
        self, name: str, messages: Sequence[Messages], labels: Labels, spending: Spending
    ) -> list[Reply]:
        """What one of the servers says to each. Raises ValueError where it fails."""
        server = self.settings.servers[name]
        place = self.place if server is self.settings else f"{self.place}.{name}"
        asked = Asked(name, place, self.share, texts_end_it=False)
        price = prices(server.model)
        client = ChatClient(server, asked, server.api_key, self.cache, price, labels, spending)
        top = TOP_LOGPROBS if labels is not None and self.settings.logprobs else 0
        requests = [client.request_of(one, top) for one in messages]
        replies: dict[int, Reply] = {}

        def take(number: int, reply: Reply) -> None:
            replies[number] = reply
            at(f"{len(replies)} of {len(requests)} replies of the {name}")

        at(f"0 of {len(requests)} replies of the {name}")
        await client.ask_all(requests, take)
        silent = {i: r for i, r in replies.items() if isinstance(r.outcome, NoVerdict)}
        failed = [r.outcome.text for r in silent.values() if not r.outcome.of_texts]
        if failed:
            raise PartFailed(
                "reward",
                f"the {name} at {server.url} failed {len(failed)} of {len(requests)} questions in"
                f" {server.max_tries} tries each, the last: {failed[-1]}; see that it runs, or"
                f" raise {place}.timeout_seconds or {place}.max_tries. Verdicts that came are kept",
            )
        self._silences += [(client, requests[i], reply) for i, reply in silent.items()]
        return [replies[i] for i in range(len(requests))]
