"""What a run's folder says of the run: a folder goes in, a ``Record`` comes out, unjudged."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from lsp.contracts import Example, HeldOut, World
from lsp.errors import ConfigError, RunError
from lsp.paper.world import PaperWorld
from lsp.pocket.evaluation import PocketEvaluation
from lsp.report.game import COLUMNS
from lsp.run.commands import go_on_command
from lsp.run.folder import outcome, read_run, saved_tree
from lsp.settings.config import CollapseConfig
from lsp.settings.reader import check_tree
from lsp.settings.schema import PLUGGABLE, flat_tree, setting, settings
from lsp.tracking.continuity import Scan, scan
from lsp.tracking.reader import (
    DamagedFile,
    metrics_lines,
    read_alerts,
    read_examples,
    read_held_out,
    read_summary,
    shard,
    shard_columns,
    trace_steps,
)

MAY_DIFFER = re.compile(
    r"(seed|run_dir|run_name|runs_root|resume|dry_run|init\.run|objective)$"
    r"|(tracker|checkpoint|runtime|hardware|eval)\."
)
"""Settings in which two runs of one experiment may differ."""
Labels = Mapping[str, str]
LIMITS = {f"collapse.{name}": f for name, f in CollapseConfig.__pydantic_fields__.items()}
ADDED = {key: limit.default for key, limit in LIMITS.items() if not limit.is_required()}
"""Limits that runs of earlier versions do not have."""
NEEDED = {"num_steps", "method.queries", *LIMITS} - ADDED.keys()
"""Settings that a report reads."""
NUMBER = (int, float)
KINDS: dict[str, type] = {"num_steps": int, "method.queries": str}
"""Of those that are no plain number."""


@settings
class SavedWorld:
    """The one part of a saved config that is made again."""

    world: Annotated[World, PLUGGABLE] = setting("what is known of the queries")


@dataclass(frozen=True)
class Record:
    """One run. ``settings``: dotted key -> value. ``warnings``: where ``world`` is not the run's
    own; what of its record is damaged or lost. ``metrics``: one dict a step. ``summary`` is empty
    until the run is finished. ``alerts``: (step, text). ``evaluation``: its name, ``labels``: key
    -> words of its numbers. ``examples``: held-out prompts, as base and trained model answer them.
    ``held_out``: all that they were drawn from, with the scores of both. ``derived``: key -> points
    of series that are no metrics."""

    folder: Path
    run: dict[str, Any]
    settings: dict[str, Any]
    world: World
    warnings: tuple[str, ...]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    alerts: list[tuple[int, str]]
    steps: list[int]
    evaluation: str
    labels: Labels
    examples: list[Example] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    derived: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One sentence on how far the run is, or how it ended and why."""
        last, planned = self.steps[-1], self.settings["num_steps"]
        status, reason = outcome(self.folder, self.run)
        why = f" ({reason})" if reason else ""
        if status == "finished":
            return f"Finished: {planned} steps in {self.run.get('seconds', 0):.0f} s{why}."
        if status == "running":
            return f"Still going: {last} of {planned} steps so far; this report ends there."
        go_on = f"go on with: {go_on_command(self.folder)}"
        if status in ("interrupted", "stopped"):
            return f"{status.title()} after step {last} of {planned}{why}; {go_on}"
        if status == "failed":
            return f"Failed after step {last} of {planned}{why}; what it recorded is here."
        return f"Killed after step {last} of {planned} ({reason}); {go_on}"

    @property
    def group(self) -> str:
        """What runs of one experiment have in common: method, init, and what else changes what is
        learnt, but for the seed."""
        shared = {key: self.settings[key] for key in self.settings if not MAY_DIFFER.match(key)}
        name = [self.run["method"], self.run["init"].get("method"), shared]
        return json.dumps(name, default=str, sort_keys=True)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric where it was measured and finite."""
        if key in self.derived:
            return list(self.derived[key])
        return [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]


def read_record(
    folder: Path,
    world: World | None = None,
    trusted: Mapping[str, Any] = MappingProxyType({}),
    ended: Mapping[str, Any] = MappingProxyType({}),
) -> Record:
    """``world``: the run's own where it is at hand; else it is made from the saved settings, where
    it is of this project or its dotted path is among what the user wrote (``trusted``, as in
    lsp.settings.reader). ``ended``: entries
    that run.json gets once this report is there. What of the record is damaged or lost is left out
    and said in ``warnings``. Raises RunError for what is no run, has no step yet, or was written in
    another layout."""
    run = {**read_run(folder), **ended}
    try:
        tree = saved_tree(folder)
        saved = ADDED | flat_tree(tree)
        if absent := NEEDED - set(saved):
            raise ValueError(f"config.yaml has no {', '.join(sorted(absent))}")
        if wrong := [key for key in NEEDED if not isinstance(saved[key], KINDS.get(key, NUMBER))]:
            raise ValueError(f"config.yaml has no {sorted(wrong)[0]} that can be meant")
        by_step = {line.step: line.entries for line in metrics_lines(folder) if line.entries}
        metrics = list(by_step.values())
        last = min(max(by_step, default=0), saved["num_steps"])
        found = scan(folder, last)
        strange = set(found.strange_files)
        steps = [s for s in trace_steps(folder) if s > last or shard(folder, s) not in strange]
        # A finished run that went on and was killed has the summary of its shorter self.
        finished = run["status"] == "finished"
        summary = read_summary(folder) if finished else {}
        examples = read_examples(folder) if finished else []
        held_out = read_held_out(folder) if finished else []
        alerts = [(alarm["step"], alarm["text"]) for alarm in read_alerts(folder)]
        if steps:
            columns = shard_columns(folder, steps[0])
            if absent := set().union(*COLUMNS.values()).difference(columns):
                raise ValueError(f"its trace has no column {', '.join(sorted(absent))}")
        evaluation = evaluation_of(run, metrics)
    except (DamagedFile, ValueError) as error:
        commit = run.get("git_commit") or "unknown"
        raise RunError(
            f"{folder} cannot be read ({error}); it is damaged, or was written by another version"
            f" of this program: its commit is {commit}, whose own report can read it"
        ) from error
    if not steps or not metrics:
        raise RunError(
            f"{folder} has no recorded step yet ({': '.join(filter(None, outcome(folder, run)))});"
            " there is nothing to show before the first one"
        )
    world, of_world = (world, "") if world else world_of(tree.get("world"), trusted)
    warnings = tuple(filter(None, (of_world, *_damage(found))))
    return Record(
        folder, run, saved, world, warnings, metrics, summary, alerts, steps, *evaluation,
        examples, held_out,
    )  # fmt: skip


@contextmanager
def unreadable() -> Iterator[None]:
    """What a damaged record brings up where it is drawn becomes one RunError."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"a run's record cannot be read ({type(error).__name__}: {error}); it is damaged,"
            " or was written by another version of this program, whose own report can read it"
        ) from error


def _damage(found: Scan) -> list[str]:
    """What of a record is damaged or lost, and what was gone on without."""
    parts = (
        ("The record is damaged", found.gaps),
        ("The run went on without these steps of its record (accept_gap=true)", found.accepted),
    )
    return [f"{text}: {'; '.join(map(str, gaps))}" for text, gaps in parts if gaps]


def world_of(node: Any, trusted: Mapping[str, Any]) -> tuple[World, str]:
    """(the world of a saved config's node, ""), or (free text, why it is not the run's own)."""
    try:
        return check_tree(SavedWorld, {"world": node}, trusted, lambda _: ()).world, ""
    except ConfigError as error:
        target = node.get("_target_") if isinstance(node, dict) else node
        return PaperWorld(), (
            f"The run's world {target}: {error.problems[0].reason}; its queries are sorted as free"
            f" text, and all that were played are taken as legal;"
            f" trust=[world._target_={target}] imports it"
        )


def evaluation_of(run: dict[str, Any], metrics: list[dict[str, Any]]) -> tuple[str, Labels]:
    """The name of a run's evaluation, and key -> words of what is shown of it: as its evaluator
    declared them, else all of its numbers by their keys. A run that says nothing of it is of the
    time when there was the pocket world's alone."""
    if "evaluation" not in run:
        return PocketEvaluation.name, PocketEvaluation.labels
    evaluation = run["evaluation"] or {"name": "", "labels": {}}
    prefix = f"eval/{evaluation['name']}/"
    keys = [key.removeprefix(prefix) for line in metrics for key in line if key.startswith(prefix)]
    return evaluation["name"], evaluation["labels"] or {key: key for key in keys}


def read_records(
    folders: Sequence[Path], trusted: Mapping[str, Any] = MappingProxyType({})
) -> list[Record]:
    """Several runs that may be compared. Raises RunError where they are of different worlds."""
    distinct = {folder.resolve(): folder for folder in folders}
    records = [read_record(folder, trusted=trusted) for folder in distinct.values()]
    worlds = {record.run["world"]: record.folder for record in reversed(records)}
    if len(worlds) > 1:
        places = " and ".join(f"{folder} is of world={name}" for name, folder in worlds.items())
        reason = "rewards have different scales and cannot be compared; make a report of each"
        raise RunError(f"{places}: {reason}")
    return records
