"""Requests to stop: the first of any kind is the reason, a second Ctrl-C does not wait."""

import os
import signal
import subprocess
import sys

import pytest

from lsp.loop.signals import ASKING, StopRequests


@pytest.fixture
def requests():
    """Those of a run whose steps are made."""
    notes = []
    with StopRequests() as made:
        made.notes = notes
        made.defer(notes.append)
        yield made


@pytest.mark.parametrize("number", ASKING)
def test_each_kind_asks_for_the_end_of_the_step(requests, number):
    assert requests.reason == ""
    signal.raise_signal(number)
    assert (requests.reason, requests.signals) == (number.name, [number])
    assert requests.notes == [f"{number.name}: finishing this step, then saving"]


@pytest.mark.parametrize("number", ASKING)
def test_where_nothing_is_to_be_saved_it_ends_what_goes_on(requests, number):
    requests.act_at_once()
    with pytest.raises(KeyboardInterrupt, match=number.name):
        signal.raise_signal(number)
    assert requests.reason == number.name


def test_who_stops_a_job_may_send_several(requests):
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        signal.raise_signal(number)
    assert requests.reason == "SIGUSR2" and len(requests.notes) == 1
    assert requests.signals == [signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM]


def test_a_second_ctrl_c_ends_at_once(requests):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_signals_and_streams_are_given_back():
    before = {number: signal.getsignal(number) for number in ASKING}, sys.stdout, sys.stderr
    with StopRequests():
        assert all(signal.getsignal(number) != before[0][number] for number in ASKING)
    assert (
        {number: signal.getsignal(number) for number in ASKING},
        sys.stdout,
        sys.stderr,
    ) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as requests:
            signal.raise_signal(signal.SIGHUP)
        assert requests.reason == "" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_closes_asks_too_and_takes_the_rest_silently(name):
    """In a process of its own, whose stream ends in a pipe that nobody reads any more."""
    code = f"""
import sys
from lsp.loop.signals import StopRequests
sys.stdin.read()  # until the pipe is closed
with StopRequests() as stop:
    for _ in range(3):
        print("x" * 10, file=sys.{name}, flush=True)
sys.exit(7 if stop.reason == "{name} was closed" else 1)
"""
    read, write = os.pipe()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, name: write}
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **streams)
    os.close(write)
    os.close(read)
    child.communicate(b"", timeout=600)
    assert child.returncode == 7
