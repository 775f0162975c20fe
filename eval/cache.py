"""Verdicts that were paid for are kept: one SQLite file, one row a call.

The key is a hash of everything that the answer depends on, so a repeated evaluation makes no call.
Only complete answers are stored: a failure is never cached. Write-ahead logging and one transaction
a verdict make the file safe under ``kill -9`` and under two processes. Every call is counted before
it is made, so that those whose answer a kill or a cut connection lost can be told.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class VerdictCache:
    """Content hash -> response, on disk."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS verdicts"
            " (key TEXT PRIMARY KEY, response TEXT NOT NULL, created REAL NOT NULL)"
        )
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, count INTEGER NOT NULL)"
        )

    def get(self, key: str) -> dict[str, Any] | None:
        row = self._connection.execute(
            "SELECT response FROM verdicts WHERE key = ?", (key,)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, response: dict[str, Any]) -> None:
        """Store a response; the first one stays where two processes asked the same."""
        self._connection.execute(
            "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)",
            (key, json.dumps(response), time.time()),
        )

    def note_call(self, key: str) -> None:
        """A call is about to be made."""
        self._connection.execute(
            "INSERT INTO calls VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1",
            (key,),
        )

    def calls(self, keys: Sequence[str]) -> int:
        """Calls ever made under these keys."""
        query = "SELECT count FROM calls WHERE key = ?"
        found = (self._connection.execute(query, (key,)).fetchone() for key in keys)
        return sum(row[0] for row in found if row)

    def close(self) -> None:
        self._connection.close()


def content_key(request: dict[str, Any]) -> str:
    """SHA-256 of a request: judge, template, parameters and messages, in one canonical form."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
