"""What a process says of itself: who speaks, when, and how far what is at work has come."""

import sys
import time

import pytest

from lsp.tools.heartbeat import Heartbeat, at, enter, say, step_words

PATIENCE = 600


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Heartbeat, "SILENT_SECONDS", 0.05)


def wait_for(text, capsys):
    """What was written until ``text`` was."""
    seen, deadline = "", time.monotonic() + PATIENCE
    while text not in seen:
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
        seen += capsys.readouterr().err
    return seen


def test_silence_is_broken_by_the_phase_and_what_is_at_work_in_it(quick, capsys):
    with Heartbeat("looking around") as heartbeat:
        wait_for("looking around: 0 s so far\n", capsys)
        enter("answers of a model")
        at("64 of 805 written")
        said = wait_for("answers of a model, 64 of 805 written: 0 s so far\n", capsys)
        assert said.replace("\n", "").isprintable()
        heartbeat.phase("rates")
        assert heartbeat.activity() == "rates: 0 s so far"  # nothing of the phase before
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_of_two_the_inner_one_speaks_alone(quick, capsys):
    with Heartbeat("multirun"), Heartbeat("loading"):
        wait_for("loading: 0 s so far\nloading: 0 s so far\n", capsys)
        enter("step 1")
        capsys.readouterr()
        assert "multirun" not in wait_for("step 1: 0 s so far\n", capsys)


def test_the_outer_one_goes_on_with_its_own_time(quick, capsys):
    with Heartbeat("multirun") as outer:
        outer._doing = "multirun", time.monotonic() - 3600
        with Heartbeat("loading"):
            pass
        wait_for("multirun: 1 h 00 min so far\n", capsys)


def test_without_a_heartbeat_a_line_is_a_line(capsys):
    say("hello")
    enter("nothing")
    at("1 of 2")
    assert capsys.readouterr().err == "hello\n"
    with Heartbeat("loading") as heartbeat:
        say("hello")
        assert time.monotonic() - heartbeat.last_line < 60
    assert capsys.readouterr().err == "hello\n"


def test_somebody_who_looks_on_is_told_sooner(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Heartbeat("loading") as heartbeat:
        assert heartbeat.silent_seconds == 10 and not heartbeat.live
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with Heartbeat("loading", live=True) as heartbeat:
        assert heartbeat.silent_seconds == 30 and not heartbeat.live


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1, 60, 0, 0.0), ["step 1/60"]),
        ((5, 10, 4, 2.0), ["step 5/10", "2.00 steps/s", "2 s left"]),
        ((2, 60, 1, 65.0), ["step 2/60", "65.0 s a step", "1 h 02 min left"]),  # 58 of 65 s
    ],
)
def test_the_words_of_a_step(numbers, words):
    assert step_words(*numbers) == words
