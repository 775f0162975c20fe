"""Kill -9 at random moments: what is begun again in the same words must end as if nothing had been.

Each attack starts a real command in a process of its own, kills its whole group after a random part
of the time that the command takes, up to three times, then lets it end. Compared with a reference
that was never killed: every row of every step and every metric that is no time, bit for bit.
"""

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lsp.run.folder import read_run
from lsp.tracking.continuity import scan
from lsp.tracking.reader import read_metrics, read_trace
from tests.attack.outcome import WALL_SECONDS, Outcome, loopback_wandb

ROOT = Path(__file__).parents[2]
SMALL = ["num_steps=6", "num_queries=3", "group_size=2", "eval.every=3", "eval.exact=false",
         "eval.dev_per_cell=1", "eval.test_per_cell=1", "checkpoint.every=2"]  # fmt: skip
TIMES = ("time/", "runtime/", "optim/tokens_per_second")
NOT_OF_THE_GAME = ("run_id", "query_id", "answer_id")


class Kind(NamedTuple):
    """``command`` in a folder; what it leaves there, to be compared."""

    name: str
    command: Callable[[Path], list[str]]
    left: Callable[[Path], Any]
    needs_a_run: bool = False


def record(run: Path) -> Any:
    """What a finished run recorded, without times and ids; what is wrong with it as text."""
    if gaps := scan(run, 6).gaps:
        return [str(gap) for gap in gaps]
    metrics = [
        {key: value for key, value in line.items() if not key.startswith(TIMES)}
        for line in read_metrics(run)
    ]
    rows = [
        {key: value for key, value in row.items() if key not in NOT_OF_THE_GAME}
        for row in read_trace(run)
    ]
    whole = [(run / name).is_file() for name in ("summary.json", "report.html", "curves.png")]
    return metrics, rows, read_run(run)["status"], whole


def evaluated(place: Path) -> Any:
    folder = place / "run" / "eval" / "pocket"
    return (folder / "pairs.jsonl").read_bytes(), (folder / "results.json").is_file()


def kinds(base: Path, sweep: Path) -> list[Kind]:
    """``base``: a finished run; ``sweep``: a file of two points."""
    run = ["run.py", *SMALL, "tracker=none", "resume=auto"]
    tracked = ["run.py", *SMALL, "tracker.mode=offline", "resume=auto"]
    return [
        Kind("run", lambda p: [*run, f"run_dir={p}/run"], lambda p: record(p / "run")),
        Kind("tracked run", lambda p: [*tracked, f"run_dir={p}/run"], lambda p: record(p / "run")),
        Kind(
            "init",
            lambda p: [*run, "init=grpo", f"run_dir={p}/run", f"runs_root={p}/runs"],
            lambda p: (record(p / "run"), [record(x) for x in (p / "runs").iterdir()]),
        ),
        Kind(
            "sweep",
            lambda p: ["-m", "sweeps.local", str(sweep), f"folder={p}/sweep", "workers=1", *SMALL],
            lambda p: [record(x) for x in sorted((p / "sweep").iterdir()) if x.is_dir()],
        ),
        Kind(
            "report",
            lambda p: ["-m", "lsp.report", str(base), f"out={p}/report.html"],
            lambda p: len((p / "report.html").read_text()),
        ),
        Kind(
            "evaluation",
            lambda p: evaluation_of(p / "run"),
            evaluated,
            needs_a_run=True,
        ),
        # It asks the server itself for what arrived, and fails where something did not.
        Kind("sync", lambda p: ["-m", "lsp.sync", f"{p}/run"], lambda p: True, needs_a_run=True),
    ]


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("WANDB_MODE", None)
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,
        )


def make_run(work: Path) -> Path:
    """A finished run that was never disturbed, tracked by W&B offline."""
    run = work / "undisturbed"
    command = ["run.py", *SMALL, "tracker.mode=offline", f"run_dir={run}"]
    _end(start(command, work / "log"))
    _end(start(evaluation_of(run), work / "log"))
    _end(start([*evaluation_of(run), "control=true"], work / "log"))
    return run


def evaluation_of(run: Path) -> list[str]:
    return ["-m", "eval", f"run={run}", "benchmark=pocket", "benchmark.per_cell=1"]


def attack(base: Path, work: Path, count: int, seed: int) -> list[Outcome]:
    """``count`` kills or a few more, shared among the kinds, at moments drawn with ``seed``."""
    work.mkdir()
    with loopback_wandb():
        return _attack(base, work, count, seed)


def _attack(base: Path, work: Path, count: int, seed: int) -> list[Outcome]:
    sweep, draw = work / "two.yaml", random.Random(f"kills {seed}")
    tree = {
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "reward/external/mean", "goal": "maximize"},
        "parameters": {"method.beta": {"values": [0.05, 0.2]}, "tracker": {"value": "none"}},
    }
    sweep.write_text(yaml.safe_dump(tree))
    references, outcomes, kills = {}, [], 0
    for kind in kinds(base, sweep):
        place = _place(work / "reference" / kind.name, kind, base)
        began = time.monotonic()
        _end(start(kind.command(place), work / "log"))
        references[kind.name] = kind.left(place), time.monotonic() - began
    while kills < count:
        for kind in kinds(base, sweep):
            outcome, made = _killed(kind, work, base, references[kind.name], draw)
            kills += made
            outcomes.append(outcome)
    return outcomes


def _place(folder: Path, kind: Kind, base: Path) -> Path:
    """A folder to work in."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if kind.needs_a_run:
        shutil.copytree(base, folder / "run")
    return folder


def _killed(
    kind: Kind, work: Path, base: Path, reference: tuple[Any, float], draw: random.Random
) -> tuple[Outcome, int]:
    expected, seconds = reference
    place, kills, moments = _place(work / "killed" / kind.name, kind, base), 0, []
    log = place / "log"
    for _ in range(draw.randint(1, 3)):
        process = start(kind.command(place), log)
        moments.append(round(draw.uniform(0, seconds), 2))
        try:
            process.wait(moments[-1])
            break  # it ended before its turn
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    what = f"kill -9, {kind.name}: after {', '.join(map(str, moments))} s"
    process = start(kind.command(place), log)
    try:
        status = process.wait(WALL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Outcome(what, "hang", shlex.join(kind.command(place))), kills
    said = log.read_text(errors="replace")
    if "Traceback" in said:
        return Outcome(what, "traceback", said[-3000:]), kills
    if status:
        return Outcome(what, "lost", f"it did not end well: {said[-2000:]}"), kills
    if kind.left(place) != expected:
        return Outcome(what, "lost", f"what it left is not the reference's; {place}"), kills
    return Outcome(what, "result", ""), kills


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.wait(WALL_SECONDS):
        raise RuntimeError(f"{process.args} failed; see the log beside it")
