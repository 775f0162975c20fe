"""The boundary that every client of a server sends through, against real servers on loopback."""

import asyncio
import json
import threading
import time
import unicodedata

import pytest
from bad_answers import ENDLESS, ESCAPES, BadServer, answers, bomb_of, for_ever, head, says
from hypothesis import given
from hypothesis import strategies as st

from lsp.tools import http
from lsp.tools.http import MAX_BYTES, NoAnswer, address_problems, proxy_of, read_json, safe, said

KEY = "q7-Some_Key.0123456789"


@pytest.fixture
def served():
    """``server = served(behaviour)``."""
    servers = []

    def made(behaviour):
        servers.append(BadServer(behaviour))
        return servers[-1]

    yield made
    for server in servers:
        server.close()


def post(url, seconds=600.0, **headers):
    async def one():
        async with http.client(url, seconds, headers) as client:
            return await client.post(url, content=b"{}")

    return asyncio.run(one())


def test_an_answer_is_its_status_its_bytes_and_how_long_to_wait(served):
    more = {"Set_Cookie": "a=b", "Location": "http://evil", "X_Odd": "1", "Retry_After": "7"}
    answer = post(served(answers('{"a": 1}', "429 Busy", **more)).url)
    assert (answer.status_code, answer.content) == (429, b'{"a": 1}')
    assert dict(answer.headers) == {"retry-after": "7", "content-length": "8"}


def test_compressed_answers_are_read(served):
    assert post(served(bomb_of(1)).url).content == b" " * 2**20
    assert post(served(bomb_of(1, times=2)).url).content == b" " * 2**20


@pytest.mark.parametrize("behaviour", ENDLESS.values(), ids=ENDLESS)
def test_a_deadline_is_for_the_whole_of_a_call(served, behaviour):
    """Not for a read: each byte of what drips comes soon enough."""
    with pytest.raises(NoAnswer, match=r"no answer in 0.3 s|RemoteProtocolError"):
        post(served(behaviour).url, seconds=0.3)


@pytest.mark.parametrize(
    "behaviour",
    [
        answers(b" " * (MAX_BYTES + 1)),
        bomb_of(17),
        bomb_of(64, times=3),
        for_ever(head(), b" " * 2**16),
        for_ever(head("Content-Encoding: gzip"), bytes(2**16)),
    ],
    ids=["plain", "a bomb", "a bomb in bombs", "for ever", "for ever and no gzip"],
)
def test_bytes_are_counted_as_they_come_and_after_decompression(served, behaviour):
    with pytest.raises(NoAnswer, match=r"an answer of more than 16 MiB|DecodingError"):
        post(served(behaviour).url)
    assert post(served(answers(b" " * MAX_BYTES)).url).content == b" " * MAX_BYTES


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_a_redirect_is_followed_by_nobody(served, status):
    elsewhere = served(says({}))
    answer = post(served(answers("", f"{status} Away", Location=elsewhere.url)).url)
    assert answer.status_code == int(status) and not elsewhere.requests
    told = f"HTTP {status}, a redirect, and texts and keys go to no other address"
    assert said(answer.status_code, "x") == told


def test_what_belongs_to_openai_is_sent_to_nobody_else(served):
    server = served(says({}))
    mine = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    theirs = {"openai-organization": "org-x", "openai-project": "p", "cookie": "a=b", "x-os": "y"}
    post(server.url, **mine, **theirs)
    sent = server.headers()
    assert sent["authorization"] == f"Bearer {KEY}" and sent["content-type"] == "application/json"
    assert not set(theirs) & set(sent)


def test_no_cookie_comes_back_and_no_key_out_of_netrc(served, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = served(says({}, Set_Cookie="a=b", Connection="close"))

    async def two():
        async with http.client(server.url, 600.0) as client:
            for _ in range(2):
                await client.post(server.url, content=b"{}")

    asyncio.run(two())
    assert len(server.requests) == 2
    assert not {"cookie", "authorization"} & set(server.headers())


def test_a_key_that_comes_back_is_hidden(served):
    for name, value in (("authorization", f"Bearer {KEY}"), ("api-key", KEY)):
        answer = post(served(says({"error": f"wrong: {KEY}"}, "401 No")).url, **{name: value})
        assert json.loads(answer.content) == {"error": "wrong: [hidden]"}


@pytest.fixture
def proxies(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch.setenv


def test_proxies_are_for_https_alone_since_they_would_read_plain_http(served, proxies):
    watcher, server = served(says({})), served(says({"a": 1}))
    proxies("http_proxy", f"http://127.0.0.1:{watcher.port}")
    proxies("all_proxy", f"http://127.0.0.1:{watcher.port}")
    assert post(server.url).content == b'{"a": 1}' and not watcher.requests
    assert proxy_of("http://host/v1") is None
    assert proxy_of("https://host/v1").url.port == watcher.port
    # Of https they hear the host's name, and neither path, key nor text.
    with pytest.raises(NoAnswer):
        post("https://host.example:8443/secret/path", authorization=f"Bearer {KEY}")
    (request,) = watcher.requests
    assert request.startswith(b"CONNECT host.example:8443 ")
    assert KEY.encode() not in request and b"secret" not in request
    proxies("no_proxy", "host.example")
    assert proxy_of("https://host.example:8443/v1") is None


@pytest.mark.parametrize(
    ("proxy", "says_"),
    [
        ("socks5://me:hunter2@h:1", "a proxy of socks5:// is not spoken to"),
        ("gopher://me:hunter2@h:1", "is no proxy"),
        ("http://me:hunter2@", "is no proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_problem_of_the_setting(proxies, proxy, says_):
    proxies("HTTPS_PROXY", proxy)
    ((reason, fix),) = address_problems("url", "https://host/v1")
    assert reason.startswith("url: ") and says_ in reason and "hunter2" not in reason
    assert fix == "correct it, or name the host in NO_PROXY"
    assert address_problems("url", "http://host/v1") == []


def test_certificates_that_cannot_be_read_are_a_problem_of_the_setting(proxies, monkeypatch):
    proxies("SSL_CERT_FILE", "/nowhere.pem")
    http.certificates.cache_clear()
    ((reason, fix),) = address_problems("url", "https://host/v1")
    assert "SSL_CERT_FILE" in fix
    assert reason.startswith("url: no certificates can be read: ")
    monkeypatch.undo()
    http.certificates.cache_clear()
    assert address_problems("url", "https://host/v1") == []


@pytest.mark.parametrize(
    ("content", "says_"),
    [
        (b"", "an empty answer"),
        (b" \r\n", "an empty answer"),
        (b'"\xff"', "an answer that is not UTF-8"),
        ("{}".encode("utf-16"), "an answer that is not UTF-8"),
        (b"[" * 200_000, "an answer of JSON that is nested too deeply"),
        (b"9" * 5000, "an answer of JSON with a number of thousands of digits"),
        (b'{"a": 1, "a": 2}', "an answer of JSON with one name twice in an object"),
        (b"<html>\x1b[31m", "an answer that is no JSON (Expecting value): <html>␛[31m"),
        (b"{} {}", "an answer that is no JSON (Extra data): {} {}"),
    ],
)
def test_json_that_cannot_be_used_says_why(content, says_):
    with pytest.raises(NoAnswer) as raised:
        read_json(content)
    assert str(raised.value) == says_


def test_json_with_a_byte_order_mark_is_read():
    assert read_json(b'\xef\xbb\xbf{"a": [NaN]}')["a"][0] != 0


@given(st.binary())
def test_any_bytes_are_json_or_a_reason(content):
    try:
        read_json(content)
    except NoAnswer as error:
        assert str(error).startswith("an ")


@given(st.text(st.characters(exclude_categories=())) | st.just(ESCAPES * 1000))
def test_a_servers_words_are_short_on_one_line_and_printable(text):
    shown = safe(text)
    kinds = {unicodedata.category(character) for character in shown}
    assert len(shown.splitlines()) <= 1 and not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not set("\u202a\u202e\u2066\u200b\ufeff") & set(shown)
    assert len(safe("x" * 10**6)) < 300


def test_words_of_a_server_take_no_time_however_long():
    """The search for secrets may take the square of a text's length."""
    started = time.process_time()
    safe("a" * 10**7)
    assert time.process_time() - started < 5


def test_many_calls_at_once_share_a_client(served):
    gate = threading.Barrier(20, timeout=600)

    def together(connection):
        gate.wait()  # all twenty are in flight
        says({})(connection)

    server = served(together)

    async def all_of_them():
        async with http.client(server.url, 600.0) as client:
            calls = (client.post(server.url, content=b"{}") for _ in range(20))
            return await asyncio.gather(*calls)

    assert {answer.status_code for answer in asyncio.run(all_of_them())} == {200}


def test_nobody_listens():
    with pytest.raises(NoAnswer, match="ConnectError: "):
        post("http://127.0.0.1:9/")
