"""A program that nobody trusts goes in, whether it ran to its end comes out. Linux.

It runs as a Python of its own in new namespaces (eval/sandbox_runner.py): no network, no process of
others, a file system with Python, the system's libraries and an empty folder, no environment, no
new process or thread, and limits of CPU time, memory, files and wall time. docs/evaluation.md says
what that does not hold against.
"""

import json
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from lsp.errors import RunError

RUNNER = Path(__file__).with_name("sandbox_runner.py")
REFUSED = 97
MOST_SAID = 4096  # bytes of what a program's harness says


@dataclass(frozen=True)
class Limits:
    """``cpu_seconds`` decide; ``deadline_seconds`` of the clock end a program that only sleeps.
    ``megabytes`` of files."""

    cpu_seconds: int = 5
    deadline_seconds: int = 60
    memory_megabytes: int = 1024
    megabytes: int = 16


@dataclass(frozen=True)
class Outcome:
    """``problem``: why the program did not run to its end; None where it did."""

    problem: str | None

    @property
    def passed(self) -> bool:
        return self.problem is None


def run_program(program: str, limits: Limits, python: str = sys.executable) -> Outcome:
    """Run a Python program; an exception that it does not catch is a problem, and so is every way
    to stop early. Raises RunError where no sandbox can be made here."""
    token = secrets.token_hex(16)
    request = json.dumps({"program": program, "token": token, **asdict(limits)})
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-I", "-S", "-B", str(RUNNER), folder]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(command, env={}, start_new_session=True, **pipes) as process:
            try:
                process.stdin.write(request.encode())
                process.stdin.close()
                said = process.stdout.read(MOST_SAID).decode(errors="replace")
                process.stdout.close()
                ended = process.stderr.read().decode(errors="replace")
            except BaseException:
                process.kill()
                raise
    if process.returncode == REFUSED:
        raise RunError(f"no sandbox can be made here: {ended}. {ADVICE}")
    if process.returncode:
        raise RunError(f"the sandbox failed: {ended.strip()[-300:]}")
    return _outcome(said, json.loads(ended), token, limits)


ADVICE = (
    "It needs Linux 5.12 or newer, and root or user namespaces (kernel.unprivileged_userns_clone,"
    " apparmor_restrict_unprivileged_userns; in a container CAP_SYS_ADMIN)"
)


def _outcome(said: str, ended: dict, token: str, limits: Limits) -> Outcome:
    """``said`` begins with a plus as soon as Python runs; then come the token, or an exception."""
    if not said.startswith("+"):
        raise RunError(f"the sandbox cannot start Python. {ADVICE}")
    said = said[1:]
    if said == token:
        return Outcome(None)
    if ended["late"]:
        return Outcome(f"not done after {limits.deadline_seconds} s")
    if ended["cpu_seconds"] > limits.cpu_seconds - 0.5:  # counted in ticks
        return Outcome(f"used {limits.cpu_seconds} s of CPU time")
    if ended["code"] < 0:
        return Outcome(f"ended by signal {-ended['code']}")
    return Outcome(said or "exited")


def check_sandbox() -> None:
    """Raises RunError where a program cannot be run, or can reach what it must not."""
    if not sys.platform.startswith("linux"):
        raise RunError(f"no sandbox can be made here. {ADVICE}")
    outcome = run_program("", Limits())
    if not outcome.passed:
        raise RunError(f"the sandbox failed on an empty program: {outcome.problem}")
