"""``lsp runs``: a folder of runs goes in; a line for each comes out, the newest first.

``id`` and ``age``; ``status`` with its reason, as it is now (``killed``: its process is gone);
method, world, steps; and the first number of its evaluation, or the Solver's mean reward.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.run.folder import outcome, places_of_runs, runs, saved_tree
from lsp.settings.command import read_command
from lsp.settings.schema import setting, settings
from lsp.tools.text import folded, text_table, visible
from lsp.tracking.reader import SUMMARY, DamagedFile, read_metrics, read_summary

REWARD = "reward/solver/mean"


@settings
class RunsSettings:
    """Which runs are listed."""

    count: int = setting("at most so many, the newest", default=20, ge=1, le=100_000)
    runs_root: str = setting("the folder of runs", default="outputs")


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(RunsSettings, arguments)
    places = places_of_runs(chosen.runs_root)
    found = [
        (folder, run)
        for place in places
        for folder, run in runs(str(place))
        if not names or run["id"].startswith(tuple(names)) or folder.name.startswith(tuple(names))
    ]
    found.sort(key=lambda item: item[1]["started"], reverse=True)
    looked = f"looked in {', '.join(f'{place}/' for place in places)}"
    if not found:
        which = f" that begins with {' or '.join(names)}" if names else ""
        raise RunError(f"there is no run{which}; {looked}; runs_root=<folder> looks elsewhere")
    shown, now = found[: chosen.count], time.time()
    print(text_table([HEADINGS, *(row(folder, run, now) for folder, run in shown)]))
    width = max(60, shutil.get_terminal_size().columns)
    for folder, run in shown:
        if reason := outcome(folder, run)[1]:
            print("\n".join(folded(visible(reason, 300), width, f"  {folder.name}: ")))
    more = f"{len(found) - len(shown)} more (count=…); " if len(found) > len(shown) else ""
    print(f"{more}{looked}")


HEADINGS = ["run", "age", "status", "method", "world", "steps", "number"]


def row(folder: Path, run: dict[str, Any], now: float) -> list[str]:
    """Cells of one run; what of it is damaged stays open."""
    status, _ = outcome(folder, run)
    name, value = key_number(folder, run)
    number = "" if value is None else f"{value:.3f} {name}"
    method, world = run["method"], run.get("world", "")
    steps = f"{run.get('step', 0)} of {planned_steps(folder)}"
    cells = [folder.name, age(now - run["started"]), status, method, world, steps, number]
    return [visible(cell) for cell in cells]


def planned_steps(folder: Path) -> str:
    try:
        return str(saved_tree(folder).get("num_steps", "?"))
    except DamagedFile:
        return "?"


def key_number(folder: Path, run: dict[str, Any]) -> tuple[str, float | None]:
    """(in words, value) of the first number of the run's evaluation as it was measured last: on the
    test split where the run is finished. Without an evaluation the Solver's mean reward."""
    evaluation = run.get("evaluation") or {"name": "", "labels": {}}
    key, words = next(iter(evaluation["labels"].items()), ("", ""))
    try:
        summary = read_summary(folder) if (folder / SUMMARY).is_file() else {}
        if f"final/{key}" in summary:
            return words, summary[f"final/{key}"]
        metrics = read_metrics(folder)
    except DamagedFile:
        return "", None
    wanted = {f"eval/{evaluation['name']}/{key}": words, REWARD: "Solver's reward"}
    for name, label in wanted.items():
        values = [line[name] for line in metrics if line.get(name) is not None]
        if values:
            return label, values[-1]
    return "", None


def age(seconds: float) -> str:
    """In one unit: 40 s, 5 min, 3 h, 12 d."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


if __name__ == "__main__":
    sys.exit(run_command("runs", sys.argv[1:]))
