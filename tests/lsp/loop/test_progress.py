"""The progress line, on a terminal and in a log."""

import time

import pytest

from lsp.loop.progress import Progress
from lsp.tools.text import duration

METRICS = {
    "reward/external/mean": 0.5,
    "quality/mean": 6.25,
    "reward/solver/mean": 2.375,
    "reward/challenger/mean": -0.5,
    "kl/solver/k2": 0.0123,
    "rollout/distinct_query_frac": 0.75,
}


@pytest.fixture
def progress():
    made = Progress(num_steps=10, done=0)
    yield made
    made.close()


def test_the_line_says_rate_time_left_rewards_kl_and_distinct(progress):
    # Four steps in two seconds since the first: 2 a second; five are left.
    assert progress.line(5, METRICS, 2.0) == (
        "step 5/10  2.00 steps/s  2 s left  R 0.500  R_Q 6.25  Solver 2.375  Challenger -0.500"
        "  KL 0.0123  distinct 75%"
    )
    assert progress.line(1, {}, 0.0) == "step 1/10"


def test_a_log_gets_a_line_now_and_then_and_the_last(progress, capsys):
    for step in range(1, 11):
        progress.step(step, METRICS)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "10/10"]
    assert not any("\r" in line for line in lines)


def test_a_terminal_gets_one_live_line(progress, capsys):
    progress.live = True
    progress.step(1, METRICS)
    progress.note("hello")
    assert capsys.readouterr().err.startswith("\r\033[Kstep 1/10")


def test_silence_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "SILENT_SECONDS", 0.1)
    progress = Progress(10, 0)
    time.sleep(0.3)
    progress.close()
    assert "loading: 0 s so far" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.4, "45 s"), (185, "3 min 05 s"), (7630, "2 h 07 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
