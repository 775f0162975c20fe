"""What a run says while it goes, on a terminal and in a log."""

import io
import sys
import time

import pytest

from lsp.loop.progress import Progress

METRICS = {
    "reward/external/mean": 0.5,
    "quality/mean": 6.25,
    "reward/solver/mean": 2.375,
    "reward/challenger/mean": -0.5,
    "kl/solver/k2": 0.0123,
    "rollout/distinct_query_frac": 0.75,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def progress():
    made = Progress(num_steps=10, done=0)
    yield made
    made.close()


@pytest.fixture
def on_a_terminal(monkeypatch):
    """(a terminal 60 columns wide, a run's progress on it), made in the test: pytest gives each
    phase of one a stderr of its own."""
    made = []

    def make():
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setattr(sys, "stderr", Terminal())
        made.append(Progress(num_steps=2, done=0))
        return sys.stderr, made[0]

    yield make
    made[0].close()


def test_the_line_says_rate_time_left_rewards_kl_and_distinct(progress):
    # Four steps in two seconds since the first: 2 a second; five are left.
    assert progress.line(5, METRICS, 2.0) == (
        "step 5/10  2.00 steps/s  2 s left  R 0.500  R_Q 6.25  Solver 2.375  Challenger -0.500"
        "  KL 0.0123  distinct 0.750"
    )
    assert progress.line(1, {}, 0.0) == "step 1/10"


def test_a_log_gets_a_line_now_and_then_and_the_last_as_plain_text(progress, capsys):
    progress.note("evaluating the start")
    for step in range(1, 11):
        progress.phase("queries", step)
        progress.step(step, METRICS)
    written = capsys.readouterr().err
    assert [line.split()[1] for line in written.splitlines()] == ["the", "1/10", "10/10"]
    assert written.replace("\n", "").isprintable()


def test_a_terminal_gets_one_live_line_and_notes_stay(on_a_terminal):
    stream, progress = on_a_terminal()
    progress.phase("queries", 1)
    progress.step(1, METRICS)
    progress.note("hello")
    live, note = stream.getvalue().split("\r\033[K")[-2:]
    assert live.startswith("step 1/2  R 0.500") and len(live) == 59 and note == "hello\n"
    progress.step(2, METRICS)
    progress.note("evaluating on the test split")
    last, after = stream.getvalue().split("\n")[-3:-1]
    assert last.startswith("\r\033[Kstep 2/2  ") and last.endswith("distinct 0.750")
    assert after == "evaluating on the test split"


def test_the_live_line_says_what_takes_seconds_with_a_growing_time(on_a_terminal):
    stream, progress = on_a_terminal()
    progress.step(1, METRICS)
    progress.phase("answers", 2)
    progress._began -= 65
    deadline = time.monotonic() + 600
    while "\r\033[Kstep 2/2, answers: 1 min 0" not in stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    newest = stream.getvalue().split("\r\033[K")[-1]
    assert "s so far  step 1/2  R 0.500" in newest and len(newest) == 59


def test_silence_is_broken_by_the_phase_and_its_time(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "SILENT_SECONDS", 0.05)
    progress = Progress(10, 0)
    seen, deadline = "", time.monotonic() + 600

    def wait_for(text):
        nonlocal seen
        while text not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
            seen += capsys.readouterr().err

    wait_for("loading: 0 s so far\n")
    progress.phase("reward", 3)
    progress._began -= 120  # it goes on from heartbeat to heartbeat
    wait_for("step 3/10, reward: 2 min 00 s so far\n")
    wait_for("step 3/10, reward: 2 min 01 s so far\n")
    progress.close()
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
