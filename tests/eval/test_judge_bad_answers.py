"""Whatever a judge's server does, a call ends, with its reason, through the real openai client."""

import asyncio

import pytest
from bad_answers import (
    ENDLESS,
    FOR_JUDGE,
    BadServer,
    answers,
    completion,
    logprobs_of,
    redirects,
    says,
)

from eval.judge import ChatJudge, PairJudge
from eval.results import Judged, verdict_lines
from eval.settings import read_settings
from eval.types import Pair
from lsp.errors import ConfigError
from lsp.judging.cache import VerdictCache
from lsp.judging.client import JudgeRefuses
from lsp.judging.spending import Prices

KEY = "q7-Judge_Key.0123456789"
BAD = {**FOR_JUDGE, **ENDLESS, **redirects("http://127.0.0.1:9/")}
PRICES = Prices(input=100.0, output=100.0)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """``(verdicts, judge, server) = ask(behaviour)`` about one pair, in both orders."""
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.0)
    servers = []

    def asked(behaviour, address="{}", pairs=1, prices=PRICES, **changes):
        servers.append(BadServer(behaviour))
        host = f"http://127.0.0.1:{servers[-1].port}"
        settings = {
            "model": "judge-1", "base_url": address.format(f"{host}/v1", host=host),
            "api_key_env": "HOLDER", "template": "own", "tokenizer": None, "logprobs": True,
            "order": "both", "order_seed": 0, "concurrency": 2, "requests_per_minute": 10**6,
            "max_usd": None, "timeout_seconds": 600.0, "max_tries": 2, "max_tokens": 1,
            "max_tokens_name": "max_tokens", "temperature": 0.0, **changes,
        }  # fmt: skip
        cache = VerdictCache(tmp_path / f"{len(servers)}.sqlite")
        judge = PairJudge(ChatJudge(**settings), KEY, cache, prices)
        each = [Pair(i, "s", f"question {i}", "one", "two") for i in range(pairs)]
        questions = [(pair, first) for pair in each for first in (True, False)]
        return asyncio.run(judge.judge_all(questions, lambda v: None)), judge, servers[-1]

    yield asked
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_one_line_with_its_reason(ask, name):
    seconds = 0.3 if name in ENDLESS else 600.0
    try:
        verdicts, judge, _ = ask(BAD[name], timeout_seconds=seconds)
    except JudgeRefuses as error:
        told = [str(error)]
    else:
        assert all(verdict.preference is None and verdict.reason for verdict in verdicts)
        told = [verdict.problem for verdict in verdicts]
        assert judge.calls <= 4 and judge.spending.reserved == 0.0
    for text in told:
        assert text.isprintable() and 0 < len(text) < 500 and KEY not in text


def test_there_are_sixty():
    assert len(BAD) >= 60


@pytest.mark.parametrize(
    "behaviour", [BAD["a refusal"], BAD["a filter"], BAD["cut before any answer"]]
)
def test_what_cannot_succeed_is_paid_for_once(ask, behaviour):
    verdicts, judge, server = ask(behaviour, max_tries=6)
    assert len(server.requests) == 2 == judge.calls == len(verdicts)


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
         "judge.max_tokens_name=max_completion_tokens"),
        ("Unsupported value: 'temperature' does not support 0", "judge.temperature=null"),
        ("You are not allowed to request logprobs from this model.", "judge.logprobs=false"),
    ],
)  # fmt: skip
def test_a_parameter_that_every_call_has_ends_it_with_the_setting_that_mends_it(
    ask, message, setting
):
    refusal = says({"error": {"message": message, "code": "unsupported_parameter"}}, "400 Bad")
    with pytest.raises(JudgeRefuses, match=f"; say {setting}. Verdicts that came are kept"):
        ask(refusal, pairs=50, max_tries=6)
    inside = says({"error": {"message": message, "code": 400}})
    with pytest.raises(JudgeRefuses, match=f"an error inside a 200: .*; say {setting}"):
        ask(inside, pairs=50, max_tries=6)


def test_verdicts_of_text_are_counted_apart(ask):
    turn = iter([completion("M", logprobs=logprobs_of({"token": "M", "logprob": -0.1})),
                 completion("**M**", logprobs={"content": None})])  # fmt: skip
    verdicts, judge, server = ask(lambda connection: says(next(turn))(connection), concurrency=1)
    assert len(server.requests) == 2  # neither was thrown away
    assert sorted(v.read_from for v in verdicts) == ["logprobs", "text"]
    pair = Pair(0, "s", "question 0", "one", "two")
    record = Judged(
        judge.settings, [pair], verdicts, judge.usd, judge.usd, 2, judge.at_most
    ).record()
    assert record["read_from"] == {"logprobs": 1, "text": 1} and record["reasons"] == {}
    assert verdict_lines(record) == [
        "verdicts: 1 from the labels' log-probs, 1 from its text, each a whole win or loss",
        "cost: $0.02 now, at most $0.02 in 2 calls ever",
    ]


def test_missing_verdicts_are_counted_by_their_reason(ask):
    verdicts, judge, _ = ask(BAD["a refusal"], pairs=3)
    pairs = [Pair(i, "s", f"question {i}", "one", "two") for i in range(3)]
    record = Judged(
        judge.settings, pairs, verdicts, judge.usd, judge.usd, 6, judge.at_most
    ).record()
    assert record["reasons"] == {"refusal": 6}
    assert "no verdict: 6 refusal" in verdict_lines(record)


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -(10**9), "completion_tokens": -5}])
def test_a_cost_that_nobody_knows_is_the_worst_and_called_at_most(ask, usage):
    verdicts, judge, _ = ask(says({**completion(), "usage": usage}))
    assert judge.at_most and judge.usd == pytest.approx(sum(v.usd for v in verdicts))
    assert all(verdict.usd > 0.05 for verdict in verdicts)  # 100 dollars a million, some 900 bytes


def test_the_budget_is_used_up_though_much_of_it_is_reserved(ask):
    """A call is reserved at about 0.1 dollars and costs 0.0101: with eight in flight a budget of
    0.5 would seem spent at once. (The server says that it closes: a call on a connection that is
    about to be closed would be lost, and lost ones count at 0.1.)"""
    with pytest.raises(Exception, match=r"judge.max_usd=0.5 is reached after (3\d|4\d) of 200"):
        once = says(completion(), Connection="close")
        ask(once, pairs=100, concurrency=8, max_usd=0.5)


AZURE = "{host}/openai/deployments/gpt-4o-2024-11-20?api-version=2024-10-21"


@pytest.mark.parametrize("address", [AZURE, AZURE.replace("?", "/?")])
def test_azures_form_of_address_is_joined_rightly_and_gets_its_key_in_azures_header(ask, address):
    verdicts, _, server = ask(says(completion()), address=address)
    assert {verdict.preference for verdict in verdicts} == {1.0, 2.0}
    line = server.requests[0].split(b"\r\n")[0].decode()
    path = "/openai/deployments/gpt-4o-2024-11-20/chat/completions?api-version=2024-10-21"
    assert line == f"POST {path} HTTP/1.1"
    headers = server.headers()
    assert headers["api-key"] == KEY and "authorization" not in headers


def test_another_query_goes_with_every_call_too(ask):
    _, _, server = ask(says(completion()), address="{}?team=red")
    assert server.requests[0].startswith(b"POST /v1/chat/completions?team=red HTTP/1.1\r\n")
    assert server.headers()["authorization"] == f"Bearer {KEY}"


def test_another_host_hears_nothing_of_openais_organisation_nor_of_this_machine(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    for address in ("{}", AZURE):
        _, _, server = ask(says(completion()), address=address)
        request = server.requests[0].lower()
        assert b"of-mine" not in request and b"x-stainless" not in request


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://h/v1/chat/completions", "base_url ends in /chat/completions, which is added to"),
        ("https://me:hunter2@h/v1", "base_url names a user or a password before its host"),
        ("'https://h/v1?key=hunter2'", "base_url holds what looks like a credential in a"),
        ("localhost:8000", "base_url is no address of a server"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_any_call(address, problem):
    words = ["run=x.json", "judge=compatible", "judge.model=m", "judge.api_key_env=HOLDER"]
    with pytest.raises(ConfigError, match=problem) as raised:
        read_settings([*words, f"judge.base_url={address}"])
    assert "hunter2" not in str(raised.value)


def test_a_key_that_the_judge_says_back_is_kept_nowhere(ask, tmp_path):
    top = logprobs_of({"token": "M", "logprob": -0.1}, {"token": KEY, "logprob": -3})
    refusal, listed = completion(None, refusal=KEY), completion("M", logprobs=top)
    for body in (completion(f"M {KEY}"), refusal, listed):
        verdicts, _, _ = ask(says(body))
        assert KEY not in str(verdicts)
    with pytest.raises(JudgeRefuses) as raised:
        ask(answers(f"wrong: {KEY}", "401 No"))
    assert KEY not in str(raised.value) and "wrong: [hidden]" in str(raised.value)
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.iterdir())
