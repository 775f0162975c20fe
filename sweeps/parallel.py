"""Commands of this project go in, several run at a time, one thread each; what failed comes out."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_all(commands: Sequence[Sequence[str]], workers: int) -> list[str | None]:
    """Run ``python <command>`` for each; None for one that ended well, else the end of what it
    said. A failure does not stop the others. Progress goes to stderr."""
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    options = {"cwd": ROOT, "env": {**os.environ, **one_thread}, "capture_output": True}
    done = 0

    def run(command: Sequence[str]) -> str | None:
        nonlocal done
        words = [sys.executable, *command]
        result = subprocess.run(words, text=True, errors="replace", check=False, **options)
        done += 1
        word = "FAILED  " if result.returncode else ""
        print(f"{done}/{len(commands)}  {word}{' '.join(command)}", file=sys.stderr, flush=True)
        return result.stderr[-2000:].strip() if result.returncode else None

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, commands))


def require_all(commands: Sequence[list[str]], workers: int) -> None:
    """Run commands; end with the first failure's words where one failed."""
    for command, failure in zip(commands, run_all(commands, workers), strict=True):
        if failure is not None:
            sys.exit(f"error: python {' '.join(command)} failed:\n{failure}")
