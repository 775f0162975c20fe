"""What a run's folder says of the run, before any of it is judged or drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from lsp.errors import RunError
from lsp.run.folder import is_held, read_run, resume_hint, saved_tree
from lsp.settings.config import CollapseConfig
from lsp.settings.schema import flat_tree
from lsp.tracking.reader import read_metrics, read_summary, trace_steps
from lsp.tracking.rows import SCHEMA

OWN = ("seed", "run_dir", "run_name", "runs_root", "resume", "dry_run", "init.run", "objective")
OWN_GROUPS = ("tracker.", "checkpoint.", "runtime.", "hardware.", "eval.")
"""Settings in which two runs of one experiment may differ."""


NEEDED = {
    "num_steps",
    "method.queries",
    *(f"collapse.{field.name}" for field in fields(CollapseConfig)),
}
"""Settings that a report reads."""

UNREAD = {"reward_details"}
"""A column that no report reads, and that traces of earlier versions do not have."""


@dataclass(frozen=True)
class Record:
    """One run. ``settings``: dotted key -> value. ``metrics``: one dict a step. ``summary`` is
    empty until the run is finished. ``alerts``: (step, text)."""

    folder: Path
    run: dict[str, Any]
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    alerts: list[tuple[int, str]]
    steps: list[int]
    held: bool

    @property
    def world(self) -> str:
        return self.run["world"]

    @property
    def state(self) -> str:
        """One sentence on how far the run is."""
        last, planned = self.steps[-1], self.settings["num_steps"]
        status = self.run["status"]
        if status == "finished":
            return f"Finished: {planned} steps in {self.run['seconds']:.0f} s."
        if status == "running" and self.held:
            return f"Still going: {last} of {planned} steps so far; this report ends there."
        go_on = f"go on with: python run.py {resume_hint(self.folder)}"
        if status == "interrupted":
            return f"Stopped after step {last} of {planned}, everything saved; {go_on}"
        if status == "failed":
            return f"Failed after step {last} of {planned}; what it recorded is here."
        return f"Killed after step {last} of {planned}: its process is gone; {go_on}"

    @property
    def group(self) -> str:
        """What runs of one experiment have in common: method, init, and what else changes what is
        learnt, but for the seed."""
        shared = {
            key: value
            for key, value in self.settings.items()
            if key not in OWN and not key.startswith(OWN_GROUPS)
        }
        name = [self.run["method"], self.run["init"].get("method"), shared]
        return json.dumps(name, default=str, sort_keys=True)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric where it was measured and finite."""
        return [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]


def read_record(folder: Path) -> Record:
    """Raises RunError for what is no run, has no step yet, or was written in another layout."""
    run = read_run(folder)
    steps = trace_steps(folder)
    try:
        settings = flat_tree(saved_tree(folder))
        metrics = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
        # A finished run that went on and was killed has the summary of its shorter self.
        summary = read_summary(folder) if run["status"] == "finished" else {}
        alerts = _alerts(folder)
        absent = NEEDED - set(settings)
        if not isinstance(run["init"], dict):
            raise ValueError("run.json does not say what init was")
        if absent:
            raise ValueError(f"config.yaml has no {', '.join(sorted(absent))}")
        if steps:
            shard = folder / "trace" / f"step-{steps[0]:06d}.parquet"
            columns = set(SCHEMA.names) - set(pq.read_schema(shard).names) - UNREAD
            if columns:
                raise ValueError(f"its trace has no column {', '.join(sorted(columns))}")
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        commit = run.get("git_commit") or "unknown"
        raise RunError(
            f"{folder} cannot be read ({error}); it is damaged, or was written by another version"
            f" of this program: its commit is {commit}, whose own report can read it"
        ) from error
    if not steps or not metrics:
        raise RunError(
            f"{folder} has no recorded step yet (status: {run['status']}); there is nothing to"
            " show before the first one"
        )
    return Record(folder, run, settings, metrics, summary, alerts, steps, is_held(folder))


def read_records(folders: Sequence[Path]) -> list[Record]:
    """Several runs that may be compared. Raises RunError where they are of different worlds."""
    distinct = {folder.resolve(): folder for folder in folders}
    records = [read_record(folder) for folder in distinct.values()]
    other = next((r for r in records if r.world != records[0].world), None)
    if other is not None:
        raise RunError(
            f"{records[0].folder} is of world={records[0].world} and {other.folder} of"
            f" world={other.world}: their rewards have different scales and cannot be compared;"
            " make a report of each"
        )
    return records


def _alerts(folder: Path) -> list[tuple[int, str]]:
    path = folder / "alerts.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]  # a kill cuts the last one
    return [(line["step"], line["text"]) for line in whole]
