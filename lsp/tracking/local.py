"""Steps go in; metrics.jsonl, trace shards and summary.json of the run's folder come out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lsp.contracts import Rows, Tracker
from lsp.files import finite, replacing, write_json
from lsp.tracking.reader import shard
from lsp.tracking.rows import SCHEMA


class LocalTracker(Tracker):
    """Writes a run's folder; complete without any other tracker. A shard is written beside its
    place and renamed, so a kill leaves whole shards only."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "trace").mkdir(exist_ok=True)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, float], rows: Rows) -> None:
        if rows:
            columns = {name: [_utf8(row[name]) for row in rows] for name in SCHEMA.names}
            with replacing(shard(self.folder, step)) as temporary:
                pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
        self._metrics.write(json.dumps({"step": step, **finite(metrics)}) + "\n")
        self._metrics.flush()

    def checkpoint(self, folder: Path, step: int) -> None:
        """It lies in the run's folder already."""

    def alert(self, step: int, text: str) -> None:
        with (self.folder / "alerts.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "text": text}) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """A summary is that of a finished run: a file of that name says so to every reader."""
        self._metrics.close()
        if summary.get("status") == "finished":
            write_json(self.folder / "summary.json", summary)


def _utf8(value: Any) -> Any:
    """A lone surrogate has no UTF-8 form: it is written as its backslash escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
