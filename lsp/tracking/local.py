"""The tracker that is always on: metrics.jsonl, trace shards, summary.json in the run's folder.

Shards are written by one thread, each to a temporary file that is then renamed: a kill leaves
whole shards only. The queue is bounded; an error of the thread (a full disk) is raised again in
the loop at the next call.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lsp.runs import write_json

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int32()),
        ("query_id", pa.string()),
        ("answer_id", pa.string()),
        ("source", pa.string()),
        ("query", pa.string()),
        ("answer", pa.string()),
        ("reward", pa.float32()),
        ("quality", pa.float32()),
        ("quality_text", pa.string()),
        ("quality_status", pa.string()),
        ("solver_reward", pa.float32()),
        ("solver_advantage", pa.float32()),
        ("query_value", pa.float32()),
        ("challenger_reward", pa.float32()),
        ("challenger_advantage", pa.float32()),
        ("query_finish_reason", pa.string()),
        ("answer_finish_reason", pa.string()),
        ("query_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
        ("query_kl", pa.float32()),
        ("answer_kl", pa.float32()),
        ("query_entropy", pa.float32()),
        ("answer_entropy", pa.float32()),
    ]
)
"""Columns of a trace shard: one row a (query, answer) pair; docs/metrics.md says what each is."""


class LocalTracker:
    """Writes a run's folder; complete without any other tracker."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.trace = folder / "trace"
        self.trace.mkdir(exist_ok=True)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._queue: queue.Queue = queue.Queue(maxsize=64)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_shards, name="trace", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
        self._raise_error()
        if rows:
            self._queue.put((step, rows))
        # JSON has no NaN: a value that is not finite is null.
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        self._metrics.flush()

    def flush(self) -> None:
        """Wait until every shard up to here is on disk."""
        self._queue.join()
        self._raise_error()

    def checkpoint(self, folder: Path, step: int) -> None:
        """The checkpoint lies in the run's folder already."""

    def finish(self, summary: dict[str, Any]) -> None:
        self._queue.put(None)
        self._thread.join()
        self._metrics.close()
        self._raise_error()
        write_json(self.folder / "summary.json", summary)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise OSError(f"the trace could not be written: {self._error}") from self._error

    def _write_shards(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._write_shard(*item)
            except (OSError, pa.ArrowException) as error:
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _write_shard(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        clean = [{key: _utf8(value) for key, value in row.items()} for row in rows]
        table = pa.Table.from_pylist(clean, schema=SCHEMA)
        final = self.trace / f"step-{step:06d}.parquet"
        temporary = final.with_name(f".{final.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, final)


def _utf8(value: Any) -> Any:
    """A lone surrogate has no UTF-8 form: it is written as its backslash escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
