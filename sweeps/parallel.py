"""Commands of this project go in, several run at a time; what failed comes out, and on the way a
line of all of them (sweeps/progress.py).

Each command has a process of its own, forked from one that has loaded what all of them need: a run
of the pocket world would else spend a sixth of its time on imports. A request to stop is theirs
too: they are asked once to end, no other begins, and the whole command ends with one line.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from lsp.cli.main import run
from lsp.loop.signals import ASKING, is_nohup
from lsp.tools.places import train_command
from sweeps.progress import Command, Stage, Status

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
LOADED = ["lsp.loop.recorder", "lsp.report.page", "transformers.models.llama.modeling_llama"]
STOPPED = "what had ended is kept, and the same command goes on"
TICK = 1.0
"""Seconds between looks at what the commands say."""


@dataclass
class _Job:
    """A command that runs. ``said``: the file of its words, read so far up to ``end``; ``place``:
    its number."""

    process: Any
    said: Any
    place: int
    end: int = 0

    def new_lines(self) -> list[str]:
        """Whole lines that it said since the last look."""
        with open(self.said.name, "rb") as stream:
            stream.seek(self.end)
            whole = stream.read().rpartition(b"\n")[0]
        self.end += len(whole) + 1 if whole else 0
        return whole.decode(errors="replace").splitlines()


class _Requests:
    """Signals that ask for a stop, as a file descriptor that ``wait`` can watch."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    def __enter__(self) -> "_Requests":
        self.reader, self._writer = os.pipe()
        self._before = {n: signal.signal(n, self._note) for n in ASKING if not is_nohup(n)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.reader)
        os.close(self._writer)

    def _note(self, number: int, frame: Any) -> None:
        self.signals.append(signal.Signals(number))
        os.write(self._writer, b"!")

    def pass_on(self, processes: Sequence[Any], status: Status) -> None:
        """Ask for what a run saves upon; with a second Ctrl-C end them at once."""
        os.read(self.reader, 4096)
        at_once = self.signals.count(signal.SIGINT) > 1
        for process in processes:
            process.kill() if at_once else process.terminate()
        if processes and not at_once:
            what = f"{self.signals[-1].name}: waiting for {len(processes)} to save and end"
            status.note(f"{what}; a second Ctrl-C ends them at once")


def run_all(commands: Sequence[Command], workers: int) -> list[str | None]:
    """Run ``python <command>`` for each; None for one that ended well, else the end of what it
    said. A failure does not stop the others; a signal does, and ends this process when they have
    ended. Progress goes to stderr."""
    return _run_stage(Status([Stage(commands, workers)]), 0)


def _run_stage(status: Status, number: int) -> list[str | None]:
    """``run_all`` of one stage of several."""
    commands, workers = status.stages[number]
    status.enter(number)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    waiting = deque(enumerate(commands))
    running: dict[int, _Job] = {}
    ends: dict[int, str | None] = {}
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        with _Requests() as requests:
            while running or (waiting and not requests.signals):
                while waiting and len(running) < workers and not requests.signals:
                    place, command = waiting.popleft()
                    said = tempfile.NamedTemporaryFile()  # noqa: SIM115, closed when it has ended
                    process = context.Process(
                        target=_run, args=(list(command), said.name, os.getcwd())
                    )
                    process.start()
                    running[process.sentinel] = _Job(process, said, place)
                    status.begin(place)
                status.show()
                ready = wait([*running, requests.reader], TICK)
                for job in running.values():
                    status.hear(job.place, job.new_lines())
                if requests.reader in ready:
                    requests.pass_on([job.process for job in running.values()], status)
                for job in [running.pop(one) for one in ready if one in running]:
                    ends[job.place] = _end(job)
                    failed = "STOPPED" if requests.signals else "FAILED"
                    status.end(job.place, "" if ends[job.place] is None else failed)
    finally:
        status.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    if requests.signals:
        _stop(requests.signals[0])
    return [ends[place] for place in range(len(commands))]


def _stop(number: signal.Signals) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt(STOPPED)
    sys.exit(f"stopped by {number.name}: {STOPPED}")


def _end(job: _Job) -> str | None:
    """None where a process ended well, else the end of what it said."""
    job.process.join()
    with job.said:
        text = Path(job.said.name).read_text(errors="replace")
    failed = job.process.exitcode != 0
    job.process.close()
    return text[-2000:].strip() if failed else None


def require_all(*stages: Stage) -> None:
    """Run stages, one after the other; end with the first failure's words where one failed."""
    status = Status(stages)
    for number, stage in enumerate(stages):
        if not stage.commands:
            continue
        for command, failure in zip(stage.commands, _run_stage(status, number), strict=True):
            if failure is not None:
                sys.exit(f"error: {shown(command)} failed:\n{failure}")


def shown(command: Command) -> str:
    """A command as it is typed."""
    start = train_command() if command[0] == "run.py" else f"python {command[0]}"
    return " ".join([start, *command[1:]])


def _run(command: list[str], output: str, folder: str) -> None:
    """What ``python <command>`` does, in this process and this folder; what it says goes to a file.
    ``run.py`` is ``lsp train``, wherever this is."""
    os.chdir(folder)
    with open(output, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(ONE_THREAD)
    module = command[0] == "-m"
    name, arguments = (command[1], command[2:]) if module else (command[0], command[1:])
    try:
        if name == "run.py":
            sys.exit(run("train", arguments))
        sys.argv = [name, *arguments]
        start = runpy.run_module if module else runpy.run_path
        start(name, run_name="__main__", **({"alter_sys": True} if module else {}))
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else int(error.code is not None))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
