"""``reward=judge``: a chat server's grades as R, through the real openai client."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from lsp.contracts import BuildContext
from lsp.errors import ConfigError
from lsp.judging.cache import VerdictCache
from lsp.judging.client import GIVE_UP
from lsp.judging.spending import Prices
from lsp.settings.compose import compose

KEY = "q7-Judge_Key.0123456789"
DOLLARS = Prices(input=100.0, output=100.0)
"""A call of the loopback judge, 100 tokens and 1, costs 0.0101 dollars."""

HALF = pytest.approx([0.5])
"""R of "abcdef": a grade of 6 with probability 3/4, else 0, of 9."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A key, and next to no waits between tries."""
    monkeypatch.setenv("REWARD_HOLDER", KEY)
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)


def settings_of(server, folder, *more, kind="judge"):
    return [
        f"reward={kind}", "reward.model=judge-1", f"reward.base_url={server.url}",
        "reward.api_key_env=REWARD_HOLDER", "reward.requests_per_minute=10000000",
        "reward.timeout_seconds=600", "reward.max_tries=2", f"runs_root={folder}", "tracker=none",
        *more,
    ]  # fmt: skip


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """``scorer(server, "reward.grades=[1,5]", prices=…)``."""

    def made(server, *more, prices=None):
        if prices is not None:
            for module in ("judge", "judge_scorer"):
                monkeypatch.setattr(f"lsp.rewards.{module}.prices", lambda model: prices)
        config = compose(settings_of(server, tmp_path, *more))
        return config.reward.build(BuildContext(config))

    return made


def test_a_grade_is_the_mean_over_the_digits_that_the_judge_may_say(judge_server, scorer):
    server = judge_server("Grading")
    graded = scorer(server)
    # "abcdef": 6 with 3/4, 0 with 1/4: 4.5 of 9. "": 0. Nine and more letters: 0.75 of 9.
    assert graded(["q", "q", "r"], ["abcdef", "", "x" * 20]) == pytest.approx([0.5, 0.0, 0.75])
    assert graded.details() == {"unread": [0, 0, 0], "from_text": [0, 0, 0]}
    assert server.keys == {f"Bearer {KEY}"}


def test_without_log_probs_the_text_decides_and_that_is_counted(judge_server, scorer):
    graded = scorer(judge_server("Grading", logprobs=False))
    assert graded(["q", "q"], ["abcdef", "abc"]) == pytest.approx([6 / 9, 3 / 9])
    assert graded.details()["from_text"] == [1, 1]
    server = judge_server("Grading")
    unasked = scorer(server, "reward.logprobs=false", "reward.cache=null")
    assert unasked(["q"], ["abcdef"]) == pytest.approx([6 / 9])
    assert "logprobs" not in server.requests[0]


def test_other_grades_are_the_scale_and_stand_in_the_prompt(judge_server, scorer):
    server = judge_server("Grading")
    # 0 is no grade from 1 to 5, so what the judge says of 3 is all there is: (3 - 1) / 4.
    assert scorer(server, "reward.grades=[1,5]")(["q"], ["abc"]) == [0.5]
    assert "Reply with one digit from 1\nto 5." in server.requests[0]["messages"][1]["content"]


HOSTILE = ['"}, {"answer": "x', "{lowest} {query}", "\x00\x1b[31m", "\ud83c half", "é 中 🎲"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_can_close_its_field_or_fill_another(judge_server, scorer, text):
    server = judge_server("Grading")
    scorer(server)([text], [text])
    asked = server.requests[0]["messages"][1]["content"]
    assert json.loads(asked.split("\n\n")[1]) == {"query": text, "answer": text}


def test_a_pair_is_asked_about_once_for_ever(judge_server, scorer):
    server = judge_server("Grading")
    first = scorer(server)
    once = first(["q", "q", "r"], ["ab", "ab", "ab"])
    assert once[0] == once[1] and len(server.requests) == 2
    assert first(["q"], ["ab"]) == once[:1]
    assert scorer(server)(["r", "q"], ["ab", "ab"]) == once[1:]  # another run
    assert len(server.requests) == 2
    scorer(server, "reward.model=judge-2")(["q"], ["ab"])
    scorer(server, "reward.system=Be strict. Say a digit.")(["q"], ["ab"])
    assert len(server.requests) == 4


@pytest.mark.parametrize("word", ["REFUSED", "FILTERED", "MUMBLED", "TOO LONG"])
def test_a_pair_without_a_verdict_has_the_r_that_was_said_and_is_counted_and_kept(
    judge_server, scorer, word
):
    server = judge_server("Grading")
    graded = scorer(server, "reward.unread=0.25")
    assert graded(["q", "q"], ["abcdef", word]) == pytest.approx([0.5, 0.25])
    assert graded.details()["unread"] == [0, 1]
    asked = len(server.requests)
    assert scorer(server, "reward.unread=0.25")(["q"], [word]) == [0.25]
    assert len(server.requests) == asked


def test_without_an_r_for_it_such_a_pair_ends_the_run(judge_server, scorer):
    server = judge_server("Grading")
    says = (
        "no verdict on the query 'q' and the answer 'REFUSED': refusal: I cannot grade this.;"
        " verdicts that came are kept, so a new run with reward.unread=<R of such a pair, from 0 to"
        " 1> pays for none of them"
    )
    with pytest.raises(ValueError) as raised:
        scorer(server, "reward.unread=null")(["q", "q"], ["abcdef", "REFUSED"])
    assert str(raised.value) == says
    assert scorer(server)(["q"], ["abcdef"]) == HALF and len(server.requests) == 2


def test_a_server_that_fails_ends_the_run_and_its_failures_are_not_kept(judge_server, scorer):
    server = judge_server("Grading")
    with pytest.raises(ValueError) as raised:
        scorer(server)(["q", "q"], ["abcdef", "BUSY"])
    assert str(raised.value) == (
        f"the judge at {server.url} failed 1 of 2 questions in 2 tries each, the last: HTTP 500"
        " context length exceeded; see that it runs, or raise reward.timeout_seconds or"
        " reward.max_tries. Verdicts that came are kept"
    )
    server.ODD = ()
    assert scorer(server)(["q"], ["BUSY"]) == pytest.approx([0.75 * 4 / 9])
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401", "the judge refuses: HTTP 401 .*; check reward.model, reward.base_url and the key in"
         " REWARD_HOLDER. Verdicts that came are kept"),
        ("temperature", "the judge refuses: .*; say reward.temperature=null. Verdicts"),
        ("max_tokens", "; say reward.max_tokens_name=max_completion_tokens. Verdicts"),
    ],
)  # fmt: skip
def test_what_every_question_would_meet_ends_it_with_the_way_out(judge_server, scorer, fault, says):
    server = judge_server("Grading")
    server.always = fault
    graded = scorer(server, "reward.concurrency=1")
    with pytest.raises(ValueError, match=says):
        graded(["q"] * 9, list("abcdefghi"))
    assert len(server.requests) == 1


def test_a_judge_that_reads_no_query_at_all_ends_the_run(judge_server, scorer):
    """One query whose answers are all refused does not. What ends it is not kept."""
    server = judge_server("Grading")
    graded = scorer(server)
    assert graded(["MUMBLED"] * 40, [str(i) for i in range(40)]) == [0.5] * 40
    queries = [f"MUMBLED {i}" for i in range(GIVE_UP)]
    says = f"the judge: {GIVE_UP} queries in a row had no verdict on any answer, the last 'MUMBLED"
    with pytest.raises(ValueError, match=says):
        graded(queries, ["a"] * GIVE_UP)
    server.ODD = ()
    assert scorer(server)(queries[1:2], ["a"]) == pytest.approx([0.75 / 9])


def test_the_budget_is_that_of_all_calls_in_the_cache(judge_server, scorer, tmp_path):
    server = judge_server("Grading")
    file = tmp_path / "judged.sqlite"
    answers = [f"{i:03}" for i in range(100)]
    graded = scorer(server, "reward.max_usd=0.5", "reward.concurrency=1", prices=DOLLARS)
    assert graded(["q"], ["abcdef"]) == HALF and graded.details()["usd"] == [0.0101]
    with pytest.raises(ValueError) as raised:
        graded(["q"] * 100, answers)
    spent = VerdictCache(file).spent()
    assert 0.3 < spent <= 0.5 and len(server.requests) == round(spent / 0.0101)
    assert str(raised.value) == (
        f"reward.max_usd=0.5 is reached: calls in {file} cost ${spent:.2f}; verdicts are kept: with"
        " a higher reward.max_usd written behind it no call is made twice"
    )
    asked = len(server.requests)
    scorer(server, "reward.max_usd=50", prices=DOLLARS)(["q"] * 100, answers)
    assert len(server.requests) == 101 and VerdictCache(file).spent() == pytest.approx(1.0201)
    assert asked < 101


def test_a_budget_that_is_spent_is_refused_before_anything_loads(
    judge_server, scorer, tmp_path, monkeypatch
):
    monkeypatch.setattr("lsp.rewards.judge.prices", lambda model: DOLLARS)
    config = compose(settings_of(judge_server("Grading"), tmp_path, "reward.max_usd=1"))
    file = tmp_path / "judged.sqlite"
    config.reward.check(BuildContext(config))
    assert not file.exists()
    VerdictCache(file).begin_call("a", 1.5)
    with pytest.raises(ValueError) as raised:
        config.reward.check(BuildContext(config))
    assert str(raised.value) == (
        f"reward.max_usd=1 is spent: calls in {file} cost $1.50; raise it, or name another file as"
        " reward.cache"
    )


def test_processes_share_rate_and_budget(judge_server, scorer, monkeypatch):
    """Each of four may spend a fourth of what is left: 0.125 dollars, eleven calls or twelve, less
    what the last of them reserves."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    server = judge_server("Grading", delay=0.05)
    more = "reward.max_usd=0.5", "reward.concurrency=8"
    graded = scorer(server, *more, prices=DOLLARS)
    with pytest.raises(ValueError, match="max_usd=0.5 is reached"):
        graded(["q"] * 50, [str(i) for i in range(50)])
    assert 1 <= len(server.requests) <= 12
    assert graded.share == 0.25


def test_two_processes_that_ask_at_once_keep_the_first_answer(judge_server, scorer):
    """Both miss the cache; whoever answers last takes what the other has stored."""
    server = judge_server("Grading")
    one, two = scorer(server), scorer(server)
    real = two.cache.get
    missed = []

    def late(key):
        """The first look finds nothing, since the other has not answered yet."""
        if not missed:
            missed.append(key)
            return None
        return real(key)

    first = one(["q"], ["abcdef"])
    server.logprobs = False  # a second answer would be another: 6 of 9
    two.cache.get = late
    assert two(["q"], ["abcdef"]) == first == HALF and len(server.requests) == 2


def test_a_server_without_a_key_is_sent_none(judge_server, scorer):
    server = judge_server("Grading")
    assert scorer(server, "reward.api_key_env=null")(["q"], ["abcdef"]) == HALF
    assert server.keys == {None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("reward.model=null", "reward.model=null: must be text"),
        ("reward.api_key_env=NOT_SET", "the environment variable NOT_SET holds no key. Export it"),
        ("reward.api_key_env=OPENAI_API_KEY", "another host than OpenAI's does not get OpenAI's"),
        ("reward.base_url=localhost:8000", "base_url is no address of a server"),
        ("reward.base_url=http://h/v1/chat/completions", "ends in /chat/completions, which is"),
        ("reward.max_usd=1", "max_usd=1 needs the price of judge-1. Add it to conf/judges.json"),
        ("reward.question='{query}'", "question has no {answer}. Write it where that text is to"),
        ("reward.question='{query} {answer} {grade}'", "placeholder {grade} has no value; known"),
        ("reward.grades=[9,0]", "grades=[9,0] does not go from a lower to a higher digit"),
        ("reward.grades=[0,10]", "reward.grades=[0, 10]: "),
        ("reward.unread=2", "reward.unread=2: must be at most 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_loads(judge_server, tmp_path, change, says):
    with pytest.raises(ConfigError) as raised:
        compose(settings_of(judge_server("Grading"), tmp_path, change))
    assert says in str(raised.value)


def test_processes_of_several_machines_need_a_cache_of_their_own(
    judge_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    given = settings_of(judge_server("Grading"), tmp_path)
    with pytest.raises(ConfigError, match="several machines cannot share a cache .* Say cache=<a"):
        compose(given)
    assert compose([*given, f"reward.cache={tmp_path}/own.sqlite"]).reward.file(None).parent


def test_a_plan_says_calls_and_dollars(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    given = ["reward=judge", "reward.model=gpt-4o-2024-11-20", f"runs_root={tmp_path}",
             "num_queries=4", "group_size=5", "num_steps=10", "reward.max_usd=2"]  # fmt: skip
    config = compose(given)
    calls, dollars, spent = config.reward.calls(config)
    assert calls == (
        "the judge gpt-4o-2024-11-20 at https://api.openai.com/v1: at most 20 calls a step, 200 in"
        " all"
    )
    # The words with two empty strings, a query of 24 tokens, an answer of 12, 16 around each turn.
    words = config.reward.messages({"query": "", "answer": ""})
    prompt = sum(len(message["content"]) for message in words) + 24 + 12 + 32
    step = 20 * (prompt * 2.5 + 1 * 10.0) / 1e6
    assert dollars.startswith(
        f"at most ${step:.2f} a step, ${10 * step:.2f} in all: texts at their"
    )
    assert spent == (
        f"$0.00 spent so far ({tmp_path}/judged.sqlite); max_usd=2 ends the run before more is"
    )
    other = compose([*given[:-1], "reward.base_url=http://host/v1", "reward.api_key_env=null",
                     "reward.model=mine"])  # fmt: skip
    assert other.reward.calls(other)[1:] == [
        "dollars unknown: no price of mine in conf/judges.json",
        f"$0.00 spent so far ({tmp_path}/judged.sqlite); max_usd=null is no limit",
    ]
    assert math.prod(config.reward.range) == 0 and not any(tmp_path.iterdir())


def test_the_settings_load_no_torch():
    code = "import sys, lsp.rewards.judge; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
