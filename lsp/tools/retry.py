"""Tries, statuses and Retry-After headers go in; whether and when a server is asked again comes
out."""

import asyncio
import math
import random
import time
from email.utils import parsedate_to_datetime

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
