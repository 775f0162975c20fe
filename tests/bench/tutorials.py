"""What a newcomer waits for: ``python -m tests.bench.tutorials [--setup]``.

The tutorials are followed in their order, in a copy of this checkout: files that they show are
written, commands typed. Each command's seconds are printed, and each page's. ``--setup`` begins as
a newcomer does, with ``make setup`` (it downloads); else the environment that runs this is used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("first_run", "own_reward", "ablation", "own_method")
"""In the order in which they build on each other."""


@dataclass(frozen=True)
class Step:
    """A command of a page, the files that were shown before it, and what it is said to print."""

    command: str
    files: dict[str, str]
    shown: str


@dataclass(frozen=True)
class Done:
    """A step that was taken: what it printed, how it ended, and what it took."""

    step: Step
    output: str
    exit_code: int
    seconds: float

    @property
    def ended_as_shown(self) -> bool:
        """With an error where the page shows one, else without."""
        return bool(self.exit_code) == bool(re.search("(?m)^error: ", self.step.shown))


def read_steps(page: str) -> list[Step]:
    """Markdown -> its steps. ``bash`` is typed, a line at a time; ``python`` and ``yaml`` are the
    file that their first line names; ``text`` is what the commands above it print; what has no
    language is left to the reader."""
    steps: list[Step] = []
    files: dict[str, str] = {}
    block = 0
    for kind, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", page):
        if kind in ("python", "yaml"):
            files[re.match(r"# (\S+)\n", text)[1]] = text
        elif kind == "bash":
            block = len(steps)
            for line in text.replace("\\\n", " ").splitlines():
                steps.append(Step(line, files, ""))
                files = {}
        elif kind == "text":
            steps[block:] = [Step(s.command, s.files, text) for s in steps[block:]]
    return steps


def copy_checkout(folder: Path) -> None:
    """What git tracks, as it stands in the working tree."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)


def follow(steps: Iterable[Step], folder: Path, programs: Path) -> Iterator[Done]:
    """Takes the steps in ``folder``, a checkout, one by one. ``programs``: where ``lsp`` lies."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(folder)
    for step in steps:
        for name, text in step.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        started = time.perf_counter()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", step.command], cwd=folder,
                              env=environment, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        yield Done(step, done.stdout, done.returncode, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true")
    with_setup = parser.parse_args().setup
    with tempfile.TemporaryDirectory() as place:
        folder, programs = Path(place), Path(sys.executable).parent
        copy_checkout(folder)
        if with_setup:
            started = time.perf_counter()
            subprocess.run(["make", "setup"], cwd=folder, check=True)
            print(f"make setup: {time.perf_counter() - started:.0f} s", flush=True)
            programs = folder / ".venv" / "bin"
        for page in PAGES:
            whole = 0.0
            text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
            for done in follow(read_steps(text), folder, programs):
                if not done.ended_as_shown:
                    sys.exit(f"{page}: {done.step.command}\n{done.output}")
                whole += done.seconds
                print(f"{done.seconds:6.1f} s  {done.step.command}", flush=True)
            print(f"{page}: {whole:.0f} s", flush=True)


if __name__ == "__main__":
    main()
