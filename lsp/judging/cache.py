"""Verdicts that were paid for are kept: requests go in, stored responses come out.

One SQLite file, one row a call. The key is a hash of everything that the answer depends on, so a
repeated evaluation makes no call. Only complete answers are stored: a failure is never cached.
Write-ahead logging and one transaction a verdict make the file safe under ``kill -9`` and under two
processes. Every call is counted before it is made, so that those whose answer a kill or a cut
connection lost can be told.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lsp.errors import RunError
from lsp.files import lock

TABLES = (
    "verdicts (key TEXT PRIMARY KEY, response TEXT NOT NULL, created REAL NOT NULL)",
    "calls (key TEXT PRIMARY KEY, count INTEGER NOT NULL, usd REAL NOT NULL)",
)


class VerdictCache:
    """Content hash -> response, on disk. Raises RunError for a file that is no such cache."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock(path.with_suffix(".lock")):  # write-ahead logging is set up by one at a time
                self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
                self._execute = self._connection.execute
                self._execute("PRAGMA journal_mode=WAL")
                self._execute("PRAGMA synchronous=NORMAL")
                for table in TABLES:
                    self._execute(f"CREATE TABLE IF NOT EXISTS {table}")
        except sqlite3.DatabaseError as error:
            advice = "restore the file, or move it away and pay for its verdicts again"
            raise RunError(f"the verdicts in {path} cannot be read ({error}); {advice}") from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The response, with ``created``, the time that it came at (seconds since 1970)."""
        query = "SELECT response, created FROM verdicts WHERE key = ?"
        row = self._execute(query, (key,)).fetchone()
        return {**json.loads(row[0]), "created": row[1]} if row else None

    def put(self, key: str, response: dict[str, Any]) -> dict[str, Any]:
        """Store a response; what is stored then: the first one, where two processes asked the
        same."""
        row = (key, json.dumps(response), time.time())
        self._execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", row)
        stored = self.get(key)
        assert stored is not None
        return stored

    def begin_call(self, key: str, worst_usd: float) -> None:
        """A call is about to be made; until it is settled it counts as its worst."""
        add = "ON CONFLICT (key) DO UPDATE SET count = count + 1, usd = usd + excluded.usd"
        self._execute(f"INSERT INTO calls VALUES (?, 1, ?) {add}", (key, worst_usd))

    def settle_call(self, key: str, worst_usd: float, usd: float) -> None:
        """What the call did cost."""
        self._execute("UPDATE calls SET usd = usd + ? WHERE key = ?", (usd - worst_usd, key))

    def totals(self, keys: Sequence[str]) -> tuple[int, float]:
        """(calls ever begun under these keys, dollars: lost answers at their worst)."""
        query = "SELECT count, usd FROM calls WHERE key = ?"
        rows = [row for key in set(keys) for row in self._execute(query, (key,))]
        return sum(count for count, _ in rows), sum(usd for _, usd in rows)

    def spent(self) -> float:
        """Dollars of all calls ever begun, lost answers and those in flight at their worst."""
        (usd,) = self._execute("SELECT COALESCE(SUM(usd), 0.0) FROM calls").fetchone()
        return float(usd)

    def close(self) -> None:
        self._connection.close()


def spent_of(path: Path) -> float:
    """Dollars that the calls of a cache have cost; 0 where there is no such file."""
    if not path.exists():
        return 0.0
    with closing(VerdictCache(path)) as cache:
        return cache.spent()


def content_key(request: dict[str, Any]) -> str:
    """SHA-256 of a request: judge, template, parameters and messages, in one canonical form."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
