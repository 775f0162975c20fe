"""Commands in processes of their own, forked from one that has loaded torch."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from lsp.tools.places import ROOT
from sweeps.parallel import require_all, run_all
from sweeps.progress import Stage


def test_a_failure_says_why_and_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (tmp_path / "threads.py").write_text("import os; print(os.environ['OMP_NUM_THREADS']); 1 / 0")
    commands = [
        ["run.py", "num_stepz=2"],
        ["-m", "sweeps.reproduce", "table"],
        ["-m", "sweeps.nothing"],
        [str(tmp_path / "threads.py")],
    ]
    refused, ended, missing, raised = run_all(commands, 2)
    assert ended is None
    assert refused.endswith("num_stepz=2: no such setting. Did you mean num_steps.")
    assert "No module named sweeps.nothing" in missing
    assert raised.startswith("1\n") and raised.endswith("ZeroDivisionError: division by zero")
    said = capfd.readouterr()
    assert "FAILED  run.py num_stepz=2" in said.err and "done  -m sweeps.reproduce" in said.err
    assert said.err.splitlines()[-1].startswith("4/4  1 done, 3 failed, 0 running, 0 waiting  ")
    assert said.out == ""  # what commands say is theirs
    assert os.environ["OMP_NUM_THREADS"] == "7"
    with pytest.raises(
        SystemExit, match=r"(?s)error: python -m sweeps.nothing failed:\n.*No module"
    ):
        require_all(Stage([["-m", "sweeps.nothing"]], 1), Stage([["-m", "sweeps.never"]], 1))
    assert "never" not in capfd.readouterr().err


JOB = """
import pathlib, signal, sys, time
folder, number, deaf = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "deaf"
def save(*_):
    (folder / f"saved-{number}").touch()
    if not deaf:
        sys.exit(1)
signal.signal(signal.SIGTERM, save)
(folder / f"began-{number}").touch()
while True:
    time.sleep(0.05)
"""
DRIVER = """
import sys
import sweeps.parallel
from lsp.cli.main import call
from sweeps.parallel import run_all
sweeps.parallel.LOADED = []
jobs = [[sys.argv[1], sys.argv[2], str(number), sys.argv[3]] for number in range(3)]
sys.exit(call(lambda _: run_all(jobs, 2) and None, []))
"""
PATIENCE = 900
"""Seconds until something counts as hanging."""


@pytest.fixture
def driven(tmp_path):
    """Start three commands, two at a time, from a process of their own, and wait for two."""
    started = []

    def start(kind):
        (tmp_path / "job.py").write_text(JOB)
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path / "job.py"), str(tmp_path), kind],
            cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        until(lambda: all((tmp_path / f"began-{number}").exists() for number in (0, 1)), process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # of a session that is its own
        process.wait()


def until(happens, process):
    end = time.monotonic() + PATIENCE
    while not happens():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_is_passed_on_and_nothing_further_begins(driven, tmp_path, number):
    process = driven("listening")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    by_hand = number == signal.SIGINT
    assert process.returncode == (130 if by_hand else 1) and "Traceback" not in stderr
    asked = f"{number.name}: waiting for 2 to save and end; a second Ctrl-C ends them at once"
    assert asked in stderr.splitlines()
    assert stderr.endswith(
        f"{'interrupted;' if by_hand else f'stopped by {number.name}:'} what had ended is kept,"
        " and the same command goes on\n"
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"job.py", "began-0", "began-1", "saved-0", "saved-1"}


def test_only_a_second_ctrl_c_ends_what_does_not_listen(driven, tmp_path):
    process = driven("deaf")
    for _ in range(2):  # who stops a job may send several
        process.send_signal(signal.SIGTERM)
    until(lambda: all((tmp_path / f"saved-{number}").exists() for number in (0, 1)), process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two at once are one to the kernel
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and stderr.endswith("and the same command goes on\n")
    assert not (tmp_path / "began-2").exists()
