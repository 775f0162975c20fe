"""The one reader of run folders: a folder goes in, its rows and metrics come out."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def trace_steps(run: Path) -> list[int]:
    """Steps that have a trace shard, ascending."""
    names = [path.stem for path in (run / "trace").glob("step-*.parquet")]
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name))


def shard(run: Path, step: int) -> Path:
    """The file of a step's rows."""
    return run / "trace" / f"step-{step:06d}.parquet"


def read_trace(
    run: Path, steps: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Trace rows in the order of steps; all steps and columns by default."""
    rows: list[dict[str, Any]] = []
    for step in trace_steps(run) if steps is None else steps:
        rows += pq.read_table(shard(run, step), columns=columns and list(columns)).to_pylist()
    return rows


def read_columns(run: Path, step: int, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Column -> its values in the rows of one step."""
    with pq.ParquetFile(shard(run, step)) as file:
        return file.read(columns=list(columns), use_threads=False).to_pydict()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that grows; one that a kill cut short, the last, is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines and not lines[-1].endswith("}"):
        lines.pop()
    return [json.loads(line) for line in lines]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return read_json_lines(run / "metrics.jsonl")


def read_summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))
