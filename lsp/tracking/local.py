"""Steps go in; metrics.jsonl, trace shards, manifest and summary of the run's folder come out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lsp.contracts import Rows, Tracker
from lsp.files import finite, replacing, write_json
from lsp.tracking.continuity import Manifest
from lsp.tracking.reader import ALERTS, METRICS, SUMMARY, shard
from lsp.tracking.rows import SCHEMA


class LocalTracker(Tracker):
    """Writes a run's folder; complete without any other tracker. A shard is written beside its
    place and renamed, so a kill leaves whole shards only."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "trace").mkdir(exist_ok=True)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._manifest = Manifest(folder)

    def log(self, step: int, metrics: dict[str, float], rows: Rows) -> None:
        if rows:
            columns = {name: [utf8(row[name]) for row in rows] for name in SCHEMA.names}
            with replacing(shard(self.folder, step)) as temporary:
                pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
        line = json.dumps({"step": step, **finite(metrics)}) + "\n"
        self._metrics.write(line)
        self._metrics.flush()
        self._manifest.add(step, line, len(rows))

    def secure(self) -> None:
        """All that was logged is on the disk for good, with a manifest of it."""
        self._manifest.write()

    def checkpoint(self, folder: Path, step: int) -> None:
        """It lies in the run's folder already."""

    def alert(self, step: int, text: str) -> None:
        with (self.folder / ALERTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "text": text}) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """A summary is that of a finished run: a file of that name says so to every reader."""
        self._metrics.close()
        if summary.get("status") == "finished":
            write_json(self.folder / SUMMARY, summary, durable=True)


def utf8(value: Any) -> Any:
    """A lone surrogate has no UTF-8 form: it is written as its backslash escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
