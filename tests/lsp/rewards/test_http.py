"""The reward server's client, against a real server on loopback that can misbehave."""

import json
import logging
import shlex
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lsp.contracts import BuildContext
from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.rewards.http import HttpReward
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace

KEY = "q7-Reward_Key.0123456789"


class RewardServer:
    """A pair's reward is the length of its answer. ``faults``: what the next requests get instead,
    one each; ``always``: what every request gets."""

    def __init__(self):
        self.faults: list[str] = []
        self.always = ""
        self.delay = 0.0
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.times.append(time.monotonic())
                    outer.bodies.append(body)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    outer.busy += 1
                    outer.most_busy = max(outer.busy, outer.most_busy)
                    fault = outer.faults.pop(0) if outer.faults else outer.always
                # Later requests are answered sooner, so the order of answers is not that of pairs.
                time.sleep(outer.delay / len(outer.bodies))
                with outer.lock:
                    outer.busy -= 1
                outer.answer(self, body["pairs"], fault)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """A client that hung up is part of the play."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/rewards"

    def answer(self, handler, pairs, fault):
        rewards = [float(len(pair["answer"])) for pair in pairs]
        status, headers, text = 200, {}, json.dumps({"rewards": rewards})
        if fault == "cut":
            handler.close_connection = True
            handler.connection.close()
            return
        if fault == "slow":
            time.sleep(1.0)
        elif fault == "drip":  # a byte now and then: no single read is slow
            handler.send_response(200)
            handler.send_header("content-length", "99")
            handler.end_headers()
            for _ in range(20):
                handler.wfile.write(b" ")
                time.sleep(0.05)
            return
        elif fault.startswith("429"):
            status, headers, text = 429, {"Retry-After": fault[4:]}, "busy"
        elif fault.isdigit():
            status, text = int(fault), f"no: {handler.headers['authorization']}"
        elif fault:
            text = fault
        content = text.encode()
        handler.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)


@pytest.fixture
def server():
    made = RewardServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def quick(monkeypatch):
    """The waits between tries, asked for and not slept; what they would be is kept."""
    asked = []
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: asked.append(attempt) or 0.001)
    return asked


def settings_of(server, **more):
    values = {"api_key_env": None, "batch_size": 4, "concurrency": 3, "timeout_seconds": 600.0}
    return HttpReward(url=server.url, **{**values, "max_tries": 3, **more})


def scorer_of(server, **more):
    return settings_of(server, **more).build(BuildContext(None))


def pairs_of(count):
    return [f"q{i}" for i in range(count)], ["x" * i for i in range(count)]


def test_rewards_keep_their_order_under_concurrency(server):
    server.delay = 0.3
    scorer = scorer_of(server)
    queries, answers = pairs_of(21)
    assert scorer(queries, answers) == [float(i) for i in range(21)]
    assert sorted(len(body["pairs"]) for body in server.bodies) == [1, 4, 4, 4, 4, 4]
    sent = [pair for body in server.bodies for pair in body["pairs"]]
    expected = [{"query": q, "answer": a} for q, a in zip(queries, answers, strict=True)]
    assert sorted(sent, key=lambda p: int(p["query"][1:])) == expected
    assert server.most_busy == 3
    assert all(headers["content-type"] == "application/json" for headers in server.headers)
    assert set(scorer.details()["retries"]) == {0} and scorer.settings.range is None


def test_a_reward_outside_the_stated_range_is_final_and_not_asked_for_again(server):
    scorer = scorer_of(server, range=(0.0, 2.0))
    with pytest.raises(ValueError, match=r"gave 3 to the query 'q3' and .* its range=\[0,2\]"):
        scorer(*pairs_of(4))
    assert scorer(*pairs_of(3)) == [0, 1, 2] and len(server.bodies) == 2


def test_equal_pairs_are_sent_once_and_any_text_arrives(server):
    texts = ["é\n\"'\\ 中 \x00 🎲", "\ud83c half", "a"]
    scorer = scorer_of(server)
    assert scorer(["q"] * 6, texts * 2) == [float(len(text)) for text in texts] * 2
    (body,) = server.bodies
    assert [pair["answer"] for pair in body["pairs"]] == texts
    assert scorer([], []) == []


FAULTS = {
    "500": "HTTP 500 no: None",
    "503": "HTTP 503",
    "408": "HTTP 408",
    "429 0": "HTTP 429 busy",
    "slow": "no answer in 0.4 s",
    "drip": "no answer in 0.4 s",
    "cut": "RemoteProtocolError",
    "<html>": r"no JSON \(Expecting value\): <html>",
    "[1, 2, 3, 4]": r'the answer is no {"rewards": \[…\]}',
    '{"reward": [1, 2, 3, 4]}': r"the answer is no ",
    '{"rewards": 1}': "4 rewards were asked for, and a int came",
    '{"rewards": [1, 2, 3]}': "4 rewards were asked for, and 3 came",
    '{"rewards": [1, 2, 3, 4, 5]}': "4 rewards were asked for, and 5 came",
    '{"rewards": [1, 2, NaN, 4]}': "reward 2 is nan, and must be a finite number",
    '{"rewards": [1, Infinity, 3, 4]}': "reward 1 is inf",
    '{"rewards": [1, 2, 3, 1e39]}': "reward 3 is 1e\\+39",
    '{"rewards": [1, 2, 3, %s]}' % ("9" * 400): "reward 3 is 9999",
    '{"rewards": [null, 2, 3, 4]}': "reward 0 is None",
    '{"rewards": ["1", 2, 3, 4]}': "reward 0 is '1'",
    '{"rewards": [true, 2, 3, 4]}': "reward 0 is True",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again_and_given_up_with_one_message(server, quick, fault):
    timeout = 0.4 if fault in ("slow", "drip") else 600.0
    scorer = scorer_of(server, timeout_seconds=timeout)
    queries, answers = pairs_of(4)
    server.faults = [fault, fault]
    assert scorer(queries, answers) == [0.0, 1.0, 2.0, 3.0]
    tries = len(server.bodies)
    assert tries == 3 or (timeout < 1 and tries > 3)  # a busy machine may miss a short deadline
    assert scorer.details() == {"retries": [tries - 1] * 4} and quick == list(range(1, tries))
    server.always = fault
    said = f"(?s)the reward server {server.url} gave no rewards for 4 pairs in 3 tries, the last: "
    with pytest.raises(ValueError, match=said + f".*{FAULTS[fault]}.*see that it runs.*max_tries"):
        scorer(queries, answers)
    assert len(server.bodies) == 6
    server.always = ""
    assert scorer(queries, answers) == [0.0, 1.0, 2.0, 3.0]
    assert scorer.details() == {"retries": [0] * 4}


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "413", "422", "307", "204"])
def test_another_status_is_final(server, quick, status):
    server.always = status
    with pytest.raises(ValueError, match=f"refuses: HTTP {status}.*check its url and api_key_env"):
        scorer_of(server)(*pairs_of(4))
    assert len(server.bodies) == 1 and quick == []


def test_nobody_listens(quick):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    scorer = HttpReward(
        url=url, api_key_env=None, batch_size=4, concurrency=2, timeout_seconds=1.0, max_tries=3
    ).build(BuildContext(None))
    with pytest.raises(ValueError, match="in 3 tries, the last: ConnectError"):
        scorer(*pairs_of(4))


def test_one_batch_that_fails_ends_the_others(server, quick):
    server.always = "401"
    with pytest.raises(ValueError, match="refuses: HTTP 401"):
        scorer_of(server, batch_size=1)(*pairs_of(40))
    time.sleep(0.1)
    assert len(server.bodies) <= 6  # what was in flight, not forty


def test_waits_double(monkeypatch):
    from lsp.tools.retry import backoff

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert [backoff(attempt) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_retry_after_holds_for_all_requests(server, quick):
    """Two are answered at once, the third is told to wait: nobody asks in between."""
    server.faults = ["429 0.6"]
    assert scorer_of(server, concurrency=1)(*pairs_of(12)) == [float(i) for i in range(12)]
    waits = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 3 and waits[0] >= 0.6 and max(waits[1:]) < 0.5
    server.times.clear()
    server.faults = ["429 0.6"]
    scorer_of(server, concurrency=2, batch_size=1)(*pairs_of(8))
    # What is beside it may be under way already; all others come after the wait.
    assert not any(0.25 < moment - server.times[0] < 0.55 for moment in server.times)


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(server, monkeypatch, caplog):
    monkeypatch.setenv("WHERE_IT_LIES", KEY)
    caplog.set_level(logging.DEBUG)
    settings = settings_of(server, api_key_env="WHERE_IT_LIES", max_tries=1)
    scorer = settings.build(BuildContext(None))
    scorer(*pairs_of(2))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{settings} {scorer.details()}"
    for fault in ("500", "401"):  # both say the header back
        server.always = fault
        with pytest.raises(ValueError, match=r"no: Bearer \[hidden\]") as raised:
            scorer(*pairs_of(2))
        assert KEY not in str(raised.value)
    assert KEY not in caplog.text
    server.always = ""
    scorer_of(server)(*pairs_of(1))
    assert "authorization" not in server.headers[-1]


@pytest.mark.parametrize("value", [None, "", "two words", "line\n", "schlüssel"])
def test_a_variable_that_holds_no_key_is_refused_before_anything_loads(monkeypatch, value):
    monkeypatch.delenv("MY_NAME", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_NAME", value)
    with pytest.raises(ConfigError) as raised:
        compose(["reward=http", "reward.url=http://host/r", "reward.api_key_env=MY_NAME"])
    text = str(raised.value)
    assert "reward: the environment variable MY_NAME holds no key. Export it, without" in text
    assert not value or value not in text


@pytest.mark.parametrize(
    "url", ["ftp://host/r", "host:80/r", "http:///r", "http://[::1", "http://h:99999/", "''"]
)
def test_an_address_of_no_server_is_refused(url):
    with pytest.raises(ConfigError, match="url is no address of a server. Write url=http://host"):
        compose(["reward=http", f"reward.url='{url}'" if url != "''" else "reward.url=''"])


def test_the_settings_of_the_file_and_their_ranges():
    with pytest.raises(ConfigError, match="reward.url=null: must be text. Write reward.url=<str>"):
        compose(["reward=http"])
    wrong = ["batch_size=0", "concurrency=0", "timeout_seconds=0", "max_tries=0"]
    with pytest.raises(ConfigError) as raised:
        compose(["reward=http", "reward.url=http://h", *[f"reward.{text}" for text in wrong]])
    keys = {problem.key for problem in raised.value.problems}
    assert keys == {f"reward.{text.partition('=')[0]}" for text in wrong}
    with pytest.raises(ConfigError, match="names a user or a password before its host"):
        compose(["reward=http", "reward.url=http://me:password@host/r"])


def run_settings(small, folder, server):
    return [
        *small[1:3], "num_steps=2", "eval=none", "objective=null", "tracker=none",
        "checkpoint.every=1", f"run_dir={folder}", "reward=weighted",
        "+reward@reward.parts.served.reward=http", "+reward.parts.served.weight=0.1",
        f"reward.parts.served.reward.url={server.url}",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_on_verifier_and_server(
    server, small, tmp_path, quick, monkeypatch, without_pictures
):
    monkeypatch.setenv("MY_REWARD_KEY", KEY)
    folder = tmp_path / "run"
    given = [
        *run_settings(small, folder, server),
        "reward.parts.served.reward.api_key_env=MY_REWARD_KEY",
    ]
    server.faults = ["500"]
    start(given)
    lines, rows = read_metrics(folder), read_trace(folder)
    assert [line["reward/external/part/served/retries/mean"] for line in lines] == [1, 0]
    for line in lines:
        own = [r for r in rows if r["step"] == line["step"] and r["answer"] is not None]
        mean = sum(len(row["answer"]) for row in own) / len(own)
        assert line["reward/external/part/served/mean"] == pytest.approx(mean)
        whole = line["reward/external/part/verifier/mean"] + 0.1 * mean
        assert line["reward/external/mean"] == pytest.approx(whole)
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    # The server goes away: one message; it comes back: the run goes on.
    server.always = "404"
    with pytest.raises(
        RunError, match=r"(?s)refuses: HTTP 404.*\ngo on with: python run.py resume="
    ):
        start([f"resume={folder}", "num_steps=4"])
    # How it is asked may change behind the command that is printed, what it is asked may not.
    server.always = "500"
    with pytest.raises(RunError, match="gave no rewards") as raised:
        start([f"resume={folder}", "num_steps=4"])
    command = shlex.split(str(raised.value).split("\ngo on with: python run.py ")[1])
    server.always, served = "", "reward.parts.served.reward"
    with pytest.raises(RunError, match=rf"(?s){served}.url: .*{served}.max_tries may change"):
        start([*command, "num_steps=4", f"{served}.url=http://127.0.0.1:9"])
    start([*command, "num_steps=4", f"{served}.max_tries=9"])
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4]
