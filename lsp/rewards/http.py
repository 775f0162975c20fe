"""An external reward from a server: pairs go out as JSON, rewards come back.

    POST <url>    {"pairs": [{"query": "sort cba", "answer": "abc"}, …]}
    200           {"rewards": [1.0, …]}      a finite number a pair, in the order of the pairs

With a key, requests carry ``Authorization: Bearer <key>``. 408, 409, 425, 429 and 5xx, a lost
connection, a timeout and an answer that is not rewards are tried again; another status is final,
a redirect too. lsp/tools/http.py has the limits of a call.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.errors import PartFailed
from lsp.rewards.checked import RANGE, Range, checked, range_problems, refuse_outside
from lsp.settings.schema import setting, settings
from lsp.tools import http
from lsp.tools.heartbeat import at
from lsp.tools.retry import Quiet, Unanswered, answered

if TYPE_CHECKING:
    import httpx2

    from lsp.settings.config import Config

Pair = tuple[str, str]
Scored = tuple[float, int]
"""A pair's reward, and how often its request was sent again."""


@settings
class HttpReward(RewardSettings):
    """R is the server's number of a (query, answer) pair. Equal pairs of a step are sent once."""

    url: str = setting("http://host:port/path")
    api_key_env: str | None = setting(
        "the name of the environment variable that holds the key; null: none"
    )
    batch_size: int = setting("pairs a request", ge=1, le=65_536)
    concurrency: int = setting("requests at a time", ge=1, le=1024)
    timeout_seconds: float = setting("for all of one request", gt=0, le=86_400)
    max_tries: int = setting("of one request, the first included", ge=1, le=100)
    range: Range = setting(RANGE, default=None)

    def problems(self, config: Config) -> list[tuple[str, str]]:
        problems = range_problems(self.range) + http.address_problems("url", self.url)
        if self.api_key_env is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            reason = f"the environment variable {self.api_key_env} holds no key"
            problems.append((reason, "export it, without blanks, or say api_key_env=null"))
        return problems

    def may_change(self) -> Sequence[str]:
        return "batch_size", "concurrency", "timeout_seconds", "max_tries"

    @property
    def api_key(self) -> str:
        """The key as it stands in the environment; empty where there is none."""
        return os.environ.get(self.api_key_env, "") if self.api_key_env else ""

    def build(self, context: BuildContext) -> HttpScorer:
        return HttpScorer(self)


class HttpScorer(Reward):
    """Asks the server; call it with queries and answers of equal number. Raises ValueError, with
    the last thing that went wrong, once one request has failed for good, and for a reward outside
    the range."""

    def __init__(self, settings: HttpReward):
        self.settings = settings
        self._key = settings.api_key
        self._retries: list[float] = []
        self._quiet = Quiet()

    def details(self) -> dict[str, list[float]]:
        """``retries``: for each pair of the last call, how often its request was sent again."""
        return {"retries": self._retries}

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        by_pair = dict(zip(pairs, asyncio.run(self._all(pairs)), strict=True))
        scored = [by_pair[pair] for pair in zip(queries, answers, strict=True)]
        self._retries = [float(retries) for _, retries in scored]
        rewards = [reward for reward, _ in scored]
        who = f"the reward server {self.settings.url}"
        refuse_outside(self.settings.range, who, queries, answers, rewards)
        return rewards

    async def _all(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Of all pairs, in order, ``concurrency`` requests at a time."""
        settings = self.settings
        gate, done = asyncio.Semaphore(settings.concurrency), 0
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"

        async def request(batch: Sequence[Pair]) -> list[Scored]:
            nonlocal done
            async with gate:
                scored = await self._rewards(client, batch)
            done += len(batch)
            at(f"{done} of {len(pairs)} rewards from the server")
            return scored

        size = settings.batch_size
        at(f"0 of {len(pairs)} rewards from the server")
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        async with http.client(settings.url, settings.timeout_seconds, headers) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(request(batch)) for batch in batches]
            except ExceptionGroup as failures:  # the first to fail ended the others
                raise failures.exceptions[0] from None
        return [scored for task in tasks for scored in task.result()]

    async def _rewards(self, client: httpx2.AsyncClient, batch: Sequence[Pair]) -> list[Scored]:
        """Of one request's pairs, tried until it is answered. Raises ValueError where it is not."""
        settings = self.settings
        # Escaped to ASCII: text with half a surrogate pair has no UTF-8.
        body = json.dumps({"pairs": [{"query": q, "answer": a} for q, a in batch]})

        def read(answer: Any) -> list[float]:
            if not isinstance(answer, dict) or "rewards" not in answer:
                raise ValueError('the answer is no {"rewards": […]}')
            return checked(answer["rewards"], len(batch))

        try:
            rewards, retries = await answered(
                lambda: client.post(settings.url, content=body),
                read,
                settings.max_tries,
                self._quiet,
            )
        except Unanswered as error:
            if error.refused:
                raise ValueError(
                    f"the reward server {settings.url} refuses: {error}; check its url and"
                    " api_key_env and that it speaks the protocol of lsp/rewards/http.py"
                ) from error
            raise PartFailed(
                "reward",
                f"the reward server {settings.url} gave no rewards for {len(batch)} pairs in"
                f" {settings.max_tries} tries, the last: {error}; see that it runs and speaks the"
                " protocol of lsp/rewards/http.py, or raise timeout_seconds or max_tries",
            ) from error
        return [(reward, retries) for reward in rewards]
