"""Commands of this project go in, several run at a time, one thread each; what failed comes out.

Each command has a process of its own, forked from one that has loaded what all of them need: a run
of the pocket world would else spend a sixth of its time on imports.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
LOADED = ["lsp.loop.recorder", "lsp.report.page", "transformers.models.llama.modeling_llama"]


def run_all(commands: Sequence[Sequence[str]], workers: int) -> list[str | None]:
    """Run ``python <command>`` for each; None for one that ended well, else the end of what it
    said. A failure does not stop the others. Progress goes to stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    done = 0

    def run(command: Sequence[str]) -> str | None:
        nonlocal done
        with tempfile.NamedTemporaryFile() as said:
            process = context.Process(target=_run, args=(list(command), said.name))
            process.start()
            process.join()
            failed, text = process.exitcode != 0, Path(said.name).read_text(errors="replace")
        done += 1
        word = "FAILED  " if failed else ""
        print(f"{done}/{len(commands)}  {word}{' '.join(command)}", file=sys.stderr, flush=True)
        return text[-2000:].strip() if failed else None

    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(run, commands))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def require_all(commands: Sequence[list[str]], workers: int) -> None:
    """Run commands; end with the first failure's words where one failed."""
    for command, failure in zip(commands, run_all(commands, workers), strict=True):
        if failure is not None:
            sys.exit(f"error: python {' '.join(command)} failed:\n{failure}")


def _run(command: list[str], output: str) -> None:
    """What ``python <command>`` does, in this process; what it says goes to a file."""
    os.chdir(ROOT)
    with open(output, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(ONE_THREAD)
    module = command[0] == "-m"
    name, arguments = (command[1], command[2:]) if module else (command[0], command[1:])
    sys.argv = [name, *arguments]
    sys.path.insert(0, str(ROOT))
    try:
        run = runpy.run_module if module else runpy.run_path
        run(name, run_name="__main__", **({"alter_sys": True} if module else {}))
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
