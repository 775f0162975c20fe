"""What a judge costs and how fast it may be asked: calls go in, dollars and waits come out.

conf/judges.json is the dated table of judges: prices and announced shutdowns.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from lsp.errors import RunError
from lsp.settings.compose import CONF


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens; None where they are not known."""

    input: float | None
    output: float | None

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        if self.input is None or self.output is None:
            return 0.0
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


UNKNOWN = Prices(None, None)


def known_judges() -> dict[str, dict[str, Any]]:
    """Name -> prices and shutdown of each judge of the table."""
    table = json.loads((CONF / "judges.json").read_text(encoding="utf-8"))
    return dict(table["judges"])


def prices(model: str) -> Prices:
    entry = known_judges().get(model, {})
    return Prices(entry.get("input"), entry.get("output"))


def shutdown_warning(model: str) -> str | None:
    """Words about a judge whose end is announced and still ahead."""
    entry = known_judges().get(model, {})
    if "shutdown" in entry and day() < entry["shutdown"]:
        return f"{model} will be shut down on {entry['shutdown']}; {entry['instead']}"
    return None


def day(seconds: float | None = None) -> str:
    """The date of a time since 1970, or today's."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def dollars(usd: float, at_most: bool) -> str:
    """An amount as it is known: an upper bound is called one."""
    return f"{'at most ' if at_most else ''}${usd:.2f}"


class BudgetReached(RunError):
    """The next call could cost more than ``max_usd`` allows."""


@dataclass
class Spending:
    """Dollars spent before this process, spent and reserved; one event loop, so no lock.
    ``at_most``: a call's cost is not known and was counted at its worst, so ``spent`` is an upper
    bound."""

    limit: float | None
    before: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0
    at_most: bool = False
    _in_flight: int = 0
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reserve(self, worst: float) -> None:
        """Dollars for one more call. What calls in flight have reserved, they mostly give back, so
        it is waited for; raises BudgetReached once none is in flight and there is no room."""
        async with self._settled:
            while self.limit is not None and self._total() + worst > self.limit:
                if not self._in_flight:
                    raise BudgetReached
                await self._settled.wait()
            self.reserved += worst
            self._in_flight += 1

    def _total(self) -> float:
        return self.before + self.spent + self.reserved

    async def settle(self, worst: float, actual: float | None) -> None:
        """What the call did cost; None where nobody knows."""
        async with self._settled:
            self._in_flight -= 1
            self.reserved = self.reserved - worst if self._in_flight else 0.0
            self.spent += worst if actual is None else actual
            self.at_most = self.at_most or actual is None
            self._settled.notify_all()


@dataclass
class Pace:
    """One rate for all calls, and one pause that any of them can ask for."""

    requests_per_minute: float
    _next: float = field(default_factory=time.monotonic)

    async def wait(self) -> None:
        now = time.monotonic()
        slot = max(now, self._next)
        self._next = slot + 60 / self.requests_per_minute
        await asyncio.sleep(slot - now)

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)
