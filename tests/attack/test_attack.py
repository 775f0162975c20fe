"""The attacks themselves: a few of each, really made; what did not end well is told and counted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_few_of_each_end_well():
    words = ["kills=1", "commands=5", "files=2", "answers=3", "seed=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    times = {row[0].removeprefix("| "): int(row[1]) for row in rows[1:]}
    assert times["odd command line"] == 5 and times["bad answer to the judge"] == 3
    assert times["damaged file, resume"] == 2 and times["kill -9, run"] >= 1


def test_what_does_not_end_well_is_found_out(monkeypatch):
    """An error that nobody foresaw, and a loop without an end, in the process that is attacked."""
    monkeypatch.syspath_prepend(ROOT)
    from tests.attack import outcome

    assert outcome.in_a_child("x", lambda: None).kind == "result"
    assert outcome.in_a_child("x", lambda: sys.exit("error: no")) == ("x", "error", "error: no")
    assert outcome.in_a_child("x", lambda: {}["gone"]).kind == "traceback"
    monkeypatch.setattr(outcome, "CPU_SECONDS", 1)

    def for_ever():
        while True:
            pass

    assert outcome.in_a_child("x", for_ever).kind == "hang"
