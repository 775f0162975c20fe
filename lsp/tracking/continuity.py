"""A record that checks itself: a step's line and rows go in as they are written, a manifest comes
out; a run's folder goes in, what of its record is whole and what is missing, by step, comes out.

The manifest (trace/manifest.json) is as of a checkpoint: hash of each step's line in metrics.jsonl,
rows and hash of its shard. All of that is on the disk before the manifest, which is there before
the checkpoint, which is there before run.json names it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import NamedTuple

from lsp.files import read_bytes, sha256, sync, write_json
from lsp.tracking.reader import (
    ALERTS,
    MANIFEST,
    METRICS,
    SHARD_BYTES,
    DamagedFile,
    Line,
    ManifestEntries,
    StepEntries,
    metrics_lines,
    read_manifest,
    shard,
    shard_columns,
)


class Manifest:
    """What is written of each step, of a run that begins or goes on with a whole record."""

    def __init__(self, run: Path):
        self.run = run
        self._entries = read_manifest(run)

    def add(self, step: int, line: str, rows: int) -> None:
        """A step whose line and, where it has rows, shard were written just now. The shard is put
        onto the disk at once: whoever calls this does so beside the loop, which waits for a
        checkpoint alone."""
        path = shard(self.run, step)
        if rows:
            sync(path)
        entry: StepEntries = {
            "step": step,
            "line": hash_of(line.encode()).hexdigest(),
            "rows": rows,
            "shard": sha256(path) if rows else None,
        }
        self._entries["steps"].append(entry)

    def write(self) -> None:
        """Put all that was added onto the disk for good, then the manifest."""
        for path in (self.run / METRICS, self.run / ALERTS):
            if path.exists():
                sync(path)
        sync(self.run / "trace")
        write_manifest(self.run, self._entries)


def write_manifest(run: Path, entries: ManifestEntries) -> None:
    write_json(run / MANIFEST, entries, durable=True)


class Gap(NamedTuple):
    """What is wrong with the record of a step."""

    step: int
    reason: str

    def __str__(self) -> str:
        return f"step {self.step} {self.reason}"


@dataclass
class Scan:
    """A record up to a step: lines of metrics.jsonl and entries of the manifest that are whole.
    ``strange_lines`` and ``strange_files`` (of trace/) are all others, what lies past the step
    among them. ``gaps``: what is wrong up to it; ``accepted``: what was gone on without."""

    lines: list[Line] = field(default_factory=list)
    entries: list[StepEntries] = field(default_factory=list)
    strange_lines: list[Line] = field(default_factory=list)
    strange_files: list[Path] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    accepted: list[Gap] = field(default_factory=list)


def scan(run: Path, until: int) -> Scan:
    """Compare what is there with the manifest; of steps of which that says nothing (a run of an
    earlier version) there must be one line and a shard that can be read. Step 0 has no shard."""
    found, gaps = Scan(), dict[int, str]()
    manifest: ManifestEntries = {"steps": [], "gaps": []}
    try:
        if until:
            manifest = read_manifest(run)
    except DamagedFile as error:
        gaps[0] = f"and all others may have been changed: {error}"
        found.strange_files.append(run / MANIFEST)
    written = {entry["step"]: entry for entry in manifest["steps"] if entry["step"] <= until}
    found.accepted = [Gap(**gap) for gap in manifest["gaps"] if gap["step"] <= until]
    lines = _scan_lines(metrics_lines(run), until, written, found, gaps)
    shards = _scan_shards(run, until, written, found, gaps)
    accepted = {gap.step for gap in found.accepted}
    found.gaps = [Gap(step, gaps[step]) for step in sorted(gaps) if step not in accepted]
    found.entries = [entry for step, entry in written.items() if step in lines & (shards | {0})]
    return found


Written = Mapping[int, StepEntries]


def _scan_lines(
    lines: Sequence[Line], until: int, written: Written, found: Scan, gaps: dict[int, str]
) -> set[int]:
    """Steps up to ``until`` that have their line."""
    kept: dict[int, int] = {}  # step -> its line's number
    unreadable = []
    for number, line in enumerate(lines, 1):
        step, why = line.step, ""
        if step is None:
            unreadable.append(number)
        elif step in kept:
            why = f"stands twice in {METRICS}"
        elif kept and step < next(reversed(kept)):
            why = f"stands behind a later one in {METRICS}"
        elif step in written and hash_of(line.written).hexdigest() != written[step]["line"]:
            why = f"has another line in {METRICS} than was written"
        if step is None or why or not until or step > until:
            found.strange_lines.append(line)
        else:
            found.lines.append(line)
            kept[step] = number
        if step is not None and why and step <= until:
            gaps.setdefault(step, why)
    damaged = [number for number in unreadable if number < max(kept.values(), default=0)]
    which = f" (line {unreadable[0]} cannot be read)" if unreadable else ""
    needed = {*range(1, until + 1), *written}
    if missing := needed - kept.keys():
        for step in missing:
            gaps.setdefault(step, f"has no line in {METRICS}{which}")
    elif damaged:
        step = max(step for step, number in kept.items() if number < damaged[0])
        gaps.setdefault(step, f"is followed by a line in {METRICS} that cannot be read")
    return set(kept)


def _scan_shards(
    run: Path, until: int, written: Written, found: Scan, gaps: dict[int, str]
) -> set[int]:
    """Steps up to ``until`` that have their shard."""
    there = set()
    for path in sorted((run / "trace").glob("[!.]*")):
        if path == run / MANIFEST:
            continue
        match = re.fullmatch(r"step-(\d{6,12})\.parquet", path.name)
        step = int(match[1]) if match else None
        if step is None or step > until or path != shard(run, step):
            found.strange_files.append(path)
        elif why := _wrong_shard(run, step, written.get(step)):
            found.strange_files.append(path)
            gaps.setdefault(step, why)
        else:
            there.add(step)
    for step in range(1, until + 1):
        if step not in there and not (step in written and written[step]["shard"] is None):
            gaps.setdefault(step, "has no shard in trace/")
    return there


def _wrong_shard(run: Path, step: int, entry: StepEntries | None) -> str:
    """Why a shard is not what was written; empty where it is."""
    try:
        if entry is None:
            shard_columns(run, step)
        elif hash_of(read_bytes(shard(run, step), SHARD_BYTES)).hexdigest() != entry["shard"]:
            return "has another shard in trace/ than was written"
    except (DamagedFile, OSError) as error:
        return f"has no shard that can be read: {error}"
    return ""
