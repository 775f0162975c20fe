"""Requests to stop: the first of any kind is the reason, a second Ctrl-C does not wait."""

import signal

import pytest

from lsp.loop.signals import ASKING, StopRequests


@pytest.fixture
def requests():
    notes = []
    made = StopRequests(notes.append)
    made.notes = notes
    made.listen()
    yield made
    made.close()


@pytest.mark.parametrize("number", ASKING)
def test_each_kind_asks_for_the_end_of_the_step(requests, number):
    assert requests.reason == ""
    signal.raise_signal(number)
    assert (requests.reason, requests.signals) == (number.name, [number])
    assert requests.notes == [f"{number.name}: finishing this step, then saving"]


def test_who_stops_a_job_may_send_several(requests):
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        signal.raise_signal(number)
    assert requests.reason == "SIGUSR2" and len(requests.notes) == 1
    assert requests.signals == [signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM]


def test_a_second_ctrl_c_ends_at_once(requests):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_signals_are_given_back(requests):
    requests.close()
    before = {number: signal.getsignal(number) for number in ASKING}
    other = StopRequests(lambda text: None)
    other.listen()
    assert all(signal.getsignal(number) != before[number] for number in ASKING)
    other.close()
    assert {number: signal.getsignal(number) for number in ASKING} == before
