"""``lsp view RUN`` on the wire: who is answered, with what, and how often a report is drawn."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lsp import view
from lsp.errors import RunError
from lsp.run.folder import lock_run, note_phase, update_run
from lsp.tools.places import ROOT
from lsp.tracking.reader import METRICS
from lsp.view import LiveReport, Server, main
from tests.ctrl_c import hear_ctrl_c

HOSTILE = '</script><script>alert(1)</script>"\u202e'


@pytest.fixture
def run(small_run, tmp_path):
    return Path(shutil.copytree(small_run[0], tmp_path / "run"))


@pytest.fixture
def serve(monkeypatch):
    """``server = serve(folder)``; ``drawn``: one entry for each time that a report was drawn, which
    is the small page that the test gives it."""
    servers, drawn = [], []

    def draw(folder, trusted):
        drawn.append(folder)
        policy = "default-src &#39;none&#39;; script-src &#39;sha256-x&#39;"
        return f'<meta http-equiv="Content-Security-Policy" content="{policy}">{len(drawn)}'

    def make(folder, plain=True):
        if plain:
            monkeypatch.setattr(view, "draw", draw)
        servers.append(Server(LiveReport(folder, {}), 0))
        servers[-1].drawn = drawn
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, method="GET", host="127.0.0.1"):
    """(status, headers, body) of one request, with the ``host`` that it names."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    connection.putrequest(method, path, skip_host=True)
    for each in [host] if isinstance(host, str) else host:
        connection.putheader("Host", each)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def state_of(server):
    return json.loads(ask(server, f"{server.prefix}state")[2])


def test_nothing_is_answered_without_the_token(run, serve):
    server = serve(run)
    token = server.prefix.strip("/")
    assert len(token) >= 43 and server.server_address[0] == "127.0.0.1"
    assert serve(run).prefix != server.prefix
    for path in ("/", "/state", "/report/", f"/{token}", f"/{token[:-1]}/", f"/{token}x/",
                 f"/x/{token}/", f"/{token.swapcase()}/", "/favicon.ico", "/%C3%A9/",
                 f"{server.prefix}run.json", f"{server.prefix}../state",
                 f"{server.prefix}state?x=1"):  # fmt: skip
        status, headers, body = ask(server, path)
        assert (status, body) == (404, ""), path
        assert "'none'" in headers["Content-Security-Policy"]
    assert ask(server, server.prefix)[0] == 200 and server.drawn == []


def test_a_name_of_somebody_elses_that_resolves_to_loopback_is_refused(run, serve):
    server = serve(run)
    port = server.server_address[1]
    for host in ("localhost", f"127.0.0.1:{port}", "LOCALHOST:9", "[::1]:80"):
        assert ask(server, server.prefix, host=host)[0] == 200
    for host in (
        "evil.example",
        f"127.0.0.1.evil.example:{port}",
        "localhost.evil.example",
        "",
        "127.0.0.1@evil.example",
        "localhost:x",
        [],
        ["localhost", "evil.example"],
    ):
        assert ask(server, server.prefix, host=host)[::2] == (403, ""), host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X<b>"])
def test_nothing_but_get_is_answered(run, serve, method):
    server = serve(run)
    status, headers, body = ask(server, server.prefix, method)
    assert (status, body, headers["Allow"]) == (405, "", "GET")


def test_what_is_no_request_is_answered_with_none_of_its_words(run, serve):
    server = serve(run)
    for words in (b"GET <script> HTTP/9.x\r\n\r\n", b"<script>\r\n\r\n", b"G" * 70_000):
        with socket.create_connection(server.server_address) as connection:
            connection.sendall(words + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert b"script>" not in connection.makefile("rb").read()
    assert ask(server, server.prefix)[0] == 200


def test_every_answer_is_strict_and_kept_by_nobody(run, serve):
    server = serve(run)
    report = ask(server, f"{server.prefix}report/")[1]["Location"]
    for path in (server.prefix, f"{server.prefix}state", report, "/", f"{server.prefix}report/"):
        headers = ask(server, path)[1]
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert "frame-ancestors" in policy and headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Python" not in headers["Server"]
    policy = ask(server, report)[1]["Content-Security-Policy"]
    assert policy == "default-src 'none'; script-src 'sha256-x'; frame-ancestors 'self'"
    bar = ask(server, server.prefix)[1]["Content-Security-Policy"]
    assert "script-src 'sha256-" in bar and "frame-ancestors 'none'" in bar


def test_hostile_names_are_text(run, serve):
    update_run(run, id=HOSTILE.replace("/", "\\"), status="failed", reason=HOSTILE)
    server = serve(run)
    page = ask(server, server.prefix)[2]
    assert "<script>alert" not in page and "\u202e" not in page and "&lt;script&gt;alert" in page
    state = state_of(server)
    assert state["status"] == "failed" and "⟦U+202E⟧" in state["words"]


def test_the_state_of_a_run_that_goes_on(run, serve):
    update_run(run, status="running")
    with lock_run(run) as lock:
        note_phase(lock, "step 4/9, answers")
        server = serve(run)
        state = state_of(server)
        assert state["words"] == "step 4/9, answers: 0 s so far"
        assert (state["going"], state["step"], state["steps"]) == (True, 3, 3)
        with (run / METRICS).open("a") as stream:
            stream.write('{"step": 4}\n{"step": 5')
        assert state_of(server)["step"] == 4
    state = state_of(server)
    assert (state["going"], state["status"]) == (False, "killed")


def test_a_report_is_drawn_when_it_is_asked_for_and_files_have_changed(run, serve, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    server = serve(run)
    first = state_of(server)["version"]
    assert server.drawn == []  # nobody looks
    _, headers, _ = ask(server, f"{server.prefix}report/anything")
    assert headers["Location"] == f"{server.prefix}report/{first}"
    for _ in range(3):
        assert ask(server, headers["Location"])[2].endswith(">1")
    (run / METRICS).touch()
    now[0] += 1.9  # not yet: two seconds lie between two drawings
    assert state_of(server)["version"] == first
    assert ask(server, headers["Location"])[0] == 200 and len(server.drawn) == 1
    now[0] += 0.2
    second = state_of(server)["version"]
    assert second != first and len(server.drawn) == 1
    assert ask(server, f"{server.prefix}report/{second}")[2].endswith(">2")
    now[0] += 100
    ask(server, f"{server.prefix}report/{second}")
    assert len(server.drawn) == 2


def test_drawing_takes_no_more_than_its_share_of_a_core(run, serve, monkeypatch):
    now, worked = [100.0], [0.0]

    def thread_time():
        worked[0] += 5.0
        return worked[0]

    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(view.time, "thread_time", thread_time)
    live = LiveReport(run, {})
    serve(run)  # whose report is quick
    first = live.page()
    (run / METRICS).touch()
    now[0] += 14.9  # it took 5 seconds, so that the next is 15 later
    assert live.page() is first
    now[0] += 0.2
    assert live.page() is not first


def test_the_lock_of_a_run_that_nobody_holds_is_left_alone(run, serve, monkeypatch):
    looks = []
    monkeypatch.setattr(view, "activity", lambda folder: looks.append(1) or real(folder))
    server = serve(run)
    for _ in range(3):
        assert state_of(server)["status"] == "finished"
    assert len(looks) == 1
    with lock_run(run) as lock:
        note_phase(lock, "loading")
        assert state_of(server)["going"] and state_of(server)["going"] and len(looks) == 3


real = view.activity


def test_before_the_first_step_there_is_no_report_yet_and_damage_is_said(run, serve):
    whole = (run / METRICS).read_text()
    (run / METRICS).write_text("")
    server = serve(run, plain=False)
    assert state_of(server)["version"] == ""
    (run / METRICS).write_text(whole)
    (run / "config.yaml").write_text("num_steps: 3")
    version = state_of(server)["version"]
    status, headers, page = ask(server, f"{server.prefix}report/{version}")
    assert status == 200 and "There is no report of this run now: " in page
    assert "config.yaml has no " in page
    assert headers["Content-Security-Policy"].endswith("frame-ancestors 'self'")


def test_a_run_that_is_gone_is_said_on_the_page(run, serve):
    server = serve(run)
    run.rename(run.with_name("moved"))
    assert "is gone: it was moved or removed" in state_of(server)["problem"]
    status, _, body = ask(server, f"{server.prefix}report/x")
    assert status == 410 and "is gone: it was moved or removed" in body
    assert ask(server, server.prefix)[0] == 200


def started(folder, *words):
    process = subprocess.Popen(
        [sys.executable, "-m", "lsp", "view", str(folder), *words],
        cwd=ROOT, env={**os.environ, "BROWSER": "true %s"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    return process, process.stdout.readline().strip(), process.stdout.readline()


def test_the_command_ends_by_ctrl_c_and_where_its_run_goes_away(run):
    (process, address, says), (other, *_) = started(run), started(run, "open=true")
    assert address.startswith("http://127.0.0.1:") and address.endswith("/")
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(RunError, match=f"port {port} of 127.0.0.1 cannot be used: Address already"):
        main([str(run), f"port={port}"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert says == f"shows {run} while it goes; Ctrl-C ends the page, not the run\n"
    assert err == "interrupted; the page has ended, the run was looked at, no more\n"
    run.rename(run.with_name("moved"))
    _, err = other.communicate()
    assert other.returncode == 1 and err.startswith(f"error: {run} is gone: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "view takes one run, and these are 0"),
        (["nowhere"], "there is no run 'nowhere'"),
        (["RUN", "port=70000"], "port=70000: "),
    ],
)
def test_what_is_not_there(small_run, arguments, says):
    with pytest.raises(RunError, match=says):
        main([str(small_run[0]) if word == "RUN" else word for word in arguments])
