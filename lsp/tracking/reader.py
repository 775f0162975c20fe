"""The one reader of run folders: figures, reports and tests all read through it."""

from __future__ import annotations

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


def read_trace(
    run: Path, steps: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Trace rows in the order of steps; all steps and columns unless told otherwise."""
    chosen = trace_steps(run) if steps is None else steps
    rows: list[dict[str, Any]] = []
    for step in chosen:
        path = run / "trace" / f"step-{step:06d}.parquet"
        rows += pq.read_table(path, columns=list(columns) if columns else None).to_pylist()
    return rows


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that a kill cut short is left out."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    if lines and not lines[-1].endswith("}"):
        lines.pop()
    return [json.loads(line) for line in lines]


def read_summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))
