"""What a judge costs and how fast it may be asked: calls go in, dollars and waits come out.

conf/evaluate/judges.json is the dated table of judges: prices and announced shutdowns.
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
    table = json.loads((CONF / "evaluate" / "judges.json").read_text(encoding="utf-8"))
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


class BudgetReached(RunError):
    """The next call could cost more than ``judge.max_usd`` allows."""


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
