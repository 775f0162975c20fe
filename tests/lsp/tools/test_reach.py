"""One try, a few seconds, a reason."""

import socket
import threading

import pytest

from lsp.tools import reach
from lsp.tools.reach import hub_address, hub_options, unreachable


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing remembered, no proxy of this machine."""
    unreachable.cache_clear()
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    unreachable.cache_clear()


@pytest.fixture
def server():
    """A port on loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_server_that_takes_a_connection_is_reached(server):
    assert unreachable(f"http://127.0.0.1:{server}/x") == ""


def test_a_closed_port_and_a_strange_address_have_a_reason():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert unreachable(f"http://127.0.0.1:{port}") == "Connection refused"
    assert unreachable("http://") and unreachable("http://a..b")


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr("socket.create_connection", lambda *_, **more: waiting.wait(60))
    assert unreachable("https://example.org", 0.05) == "no answer within 0.05 s"
    waiting.set()


def test_a_server_is_asked_once(monkeypatch):
    asked = []

    def refuse(place, timeout):
        asked.append(place)
        raise OSError(111, "Connection refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    assert [unreachable("https://example.org") for _ in range(3)] == ["Connection refused"] * 3
    assert asked == [("example.org", 443)]


def test_behind_a_proxy_the_proxy_is_what_must_be_there(server, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server}")
    assert unreachable("https://nowhere.invalid") == ""
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    unreachable.cache_clear()
    assert reach._first_stop("https://nowhere.invalid") == ("nowhere.invalid", 443)


def test_where_the_hub_is_silent_the_cache_alone_is_asked(monkeypatch):
    """Offline by a setting, its own client asks nobody already."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_address() == "http://127.0.0.1:9"
    assert hub_options() == {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", _refused)
    assert hub_options() == {"local_files_only": True}


def _refused(*_, **more):
    raise OSError(111, "Connection refused")
