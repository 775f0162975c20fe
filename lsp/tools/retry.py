"""Tries, statuses and Retry-After headers go in; whether and when a server is asked again comes
out; and a request goes in, its answer of one of several tries comes out."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from lsp.tools import http

if TYPE_CHECKING:
    import httpx2

Answer = TypeVar("Answer")

RETRIED_STATUS = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may still be answered."""


def may_pass(status: int) -> bool:
    """Whether the same request may still be answered after this status."""
    return status >= 500 or status in RETRIED_STATUS


async def wait_before(attempt: int) -> None:
    """Sleep before try ``attempt``; the first is 0 and does not wait."""
    if attempt:
        await asyncio.sleep(backoff(attempt))


def backoff(attempt: int) -> float:
    """Seconds before try ``attempt`` (the second is 1): doubled each time, 30 at most, and up to
    half less by chance, so that those who failed together do not come back together."""
    return random.uniform(0.5, 1.0) * min(30.0, 0.5 * 2**attempt)


def retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for (a number, or a date), ten minutes at most."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return min(600.0, max(0.0, seconds)) if math.isfinite(seconds) else 0.0


class Unanswered(Exception):
    """A request that is given up; the text says what came last. ``refused``: the server's own word
    was final."""

    def __init__(self, problem: str, refused: bool):
        super().__init__(problem)
        self.refused = refused


@dataclass
class Quiet:
    """Until when nobody asks a server that has told one of its clients to wait."""

    until: float = 0.0


async def answered(
    send: Callable[[], Awaitable[httpx2.Response]],
    read: Callable[[Any], Answer],
    tries: int,
    quiet: Quiet,
) -> tuple[Answer, int]:
    """(what ``read`` makes of a server's JSON, how often the request was sent again). ``read``
    raises ValueError for what is no answer. Raises Unanswered."""
    problem = ""
    for attempt in range(tries):
        await wait_before(attempt)
        # Another request may have been told to wait meanwhile, and that holds for all.
        while (wait := quiet.until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            response = await send()
            if response.status_code == 200:
                return read(http.read_json(response.content)), attempt
        except (http.NoAnswer, ValueError) as error:
            problem = http.safe(str(error))
            continue
        problem = http.said(response.status_code, http.text_of(response.content))
        if not may_pass(response.status_code):
            raise Unanswered(problem, refused=True)
        pause = retry_after(response.headers.get("retry-after", ""))
        quiet.until = max(quiet.until, time.monotonic() + pause)
    raise Unanswered(problem, refused=False)
