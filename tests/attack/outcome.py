"""One attack: something is done in a forked process, how it ended comes out."""

import contextlib
import io
import os
import pickle
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lsp.errors import ConfigError, Interrupted, RunError

CPU_SECONDS = 60
"""Of one attack: a loop that never ends is a hang; a machine that is busy is none."""
WALL_SECONDS = 600
"""Of one that waits: for a pipe, a lock, a server."""
SOLVED = ("result", "error")


class Outcome(NamedTuple):
    """``kind``: result, error (one message for the user), traceback, hang, leak, lost."""

    what: str
    kind: str
    detail: str


@contextlib.contextmanager
def loopback_wandb() -> Iterator[None]:
    """W&B is a server on loopback inside; no later attack asks one that is gone."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from wandb_stub import KEY, WandbStub

    before = dict(os.environ)
    with WandbStub() as server:
        os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def in_a_child(what: str, call: Callable[[], Any]) -> Outcome:
    """Fork, call, and tell how that ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        ending = _ending(call)
        os.write(write, pickle.dumps((ending[0], ending[1][-3000:])))
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], WALL_SECONDS)
    written = os.read(read, 65_536) if ready else b""
    os.close(read)
    if not written:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if written:
        return Outcome(what, *pickle.loads(written))
    limit = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    return Outcome(what, "hang" if limit else "traceback", f"ended with status {status}")


def _ending(call: Callable[[], Any]) -> tuple[str, str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            call()
        return "result", said.getvalue()
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return "result", said.getvalue()
        text = f"{error.code}"
    except (RunError, ConfigError, Interrupted) as error:
        text = str(error)
    except BaseException:
        return "traceback", traceback.format_exc()
    return ("traceback", said.getvalue() + text) if "Traceback" in text else ("error", text)
