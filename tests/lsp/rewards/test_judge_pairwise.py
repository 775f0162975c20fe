"""``reward=judge_pairwise``: how often a chat server prefers an answer to an opponent's."""

import json

import pytest

from lsp.contracts import BuildContext
from lsp.errors import ConfigError
from lsp.settings.compose import compose


@pytest.fixture
def settings(tmp_path, monkeypatch, judge_server):
    """``settings(judge, opponent, "reward.order=one")``, of servers that need no key."""
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)

    def made(judge, opponent, *more):
        return [
            "reward=judge_pairwise", "reward.model=judge-1", f"reward.base_url={judge.url}",
            "reward.api_key_env=null", "reward.requests_per_minute=10000000",
            "reward.opponent.model=opponent-1", f"reward.opponent.base_url={opponent.url}",
            "reward.opponent.api_key_env=null", "reward.opponent.requests_per_minute=10000000",
            "reward.timeout_seconds=600", "reward.opponent.timeout_seconds=600",
            "reward.opponent.max_tries=2", f"runs_root={tmp_path}", "tracker=none", *more,
        ]  # fmt: skip

    return made


def scorer_of(given):
    config = compose(given)
    return config.reward.build(BuildContext(config))


def test_r_is_how_often_the_answer_is_preferred_over_both_orders(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent))
    # The opponent says "so" to "sort": a longer answer wins with 0.9 in either place, a shorter one
    # with 0.1; of two that are as long the first wins: 0.9 once and 0.1 once; the same is a tie.
    queries = ["sort", "sort", "sort", "sort", "copy"]
    rewards = scored(queries, ["abc", "a", "xy", "so", "abc"])
    assert rewards == pytest.approx([0.9, 0.1, 0.5, 0.5, 0.9])
    assert {r["messages"][-1]["content"] for r in opponent.requests} == {"sort", "copy"}
    assert len(opponent.requests) == 2
    assert len(judge.requests) == 8
    texts = [json.loads(r["messages"][1]["content"].split("\n\n")[1]) for r in judge.requests]
    assert {"query": "sort", "answer_1": "abc", "answer_2": "so"} in texts
    assert {"query": "sort", "answer_1": "so", "answer_2": "abc"} in texts


def test_the_opponent_is_told_what_the_solver_is_told(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent, "prompts.solver=Be brief."))
    scored(["sort"], ["abc"])
    (request,) = opponent.requests
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "sort"},
    ]
    assert request["max_tokens"] == 12 and "logprobs" not in request  # rollout.max_new_tokens


def test_in_one_order_the_pair_draws_it_and_half_the_calls_are_made(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent, "reward.order=one"))
    answers = [f"a{i:02}" for i in range(40)]
    assert scored(["sort"] * 40, answers) == pytest.approx([0.9] * 40)
    texts = [json.loads(r["messages"][1]["content"].split("\n\n")[1]) for r in judge.requests]
    first = [text["answer_1"] for text in texts if text["answer_1"] != "so"]
    assert len(texts) == 40 and 8 < len(first) < 32
    again = scorer_of(settings(judge, opponent, "reward.order=one", "reward.model=judge-2"))
    again(["sort"] * 40, answers)
    texts = [json.loads(r["messages"][1]["content"].split("\n\n")[1]) for r in judge.requests[40:]]
    assert sorted(first) == sorted(t["answer_1"] for t in texts if t["answer_1"] != "so")


def test_opponents_answers_and_verdicts_are_paid_for_once(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    rewards = [scorer_of(settings(judge, opponent))(["sort"], ["abc"]) for _ in range(2)]
    assert rewards[0] == rewards[1]
    assert (len(judge.requests), len(opponent.requests)) == (2, 1)


def test_a_query_that_the_opponent_refuses_has_no_verdict(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent))
    assert scored(["REFUSED", "sort"], ["abc", "abc"]) == pytest.approx([0.5, 0.9])
    assert scored.details() == {"unread": [1, 0], "from_text": [0, 0]}
    assert len(judge.requests) == 2
    strict = scorer_of(settings(judge, opponent, "reward.unread=null"))
    with pytest.raises(ValueError, match="no verdict on the query 'REFUSED' and the answer 'abc'"):
        strict(["REFUSED"], ["abc"])


def test_an_order_without_a_verdict_leaves_the_pair_without_one(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent))
    real = judge.answer

    def refuses_the_second(handler, body, fault):
        texts = json.loads(body["messages"][1]["content"].split("\n\n")[1])
        real(handler, body, "REFUSED" if texts["answer_2"] == "abc" else fault)

    judge.answer = refuses_the_second
    assert scored(["sort"], ["abc"]) == [0.5] and scored.details()["unread"] == [1]


def test_an_opponent_that_fails_is_named_with_its_settings(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    scored = scorer_of(settings(judge, opponent))
    with pytest.raises(ValueError) as raised:
        scored(["BUSY"], ["abc"])
    assert str(raised.value) == (
        f"the opponent at {opponent.url} failed 1 of 1 questions in 2 tries each, the last: HTTP"
        " 500 context length exceeded; see that it runs, or raise reward.opponent.timeout_seconds"
        " or reward.opponent.max_tries. Verdicts that came are kept"
    )
    opponent.always = "temperature"
    with pytest.raises(ValueError, match=r"the opponent refuses: .*; say reward.opponent.temperat"):
        scored(["sort"], ["abc"])


def test_a_plan_counts_both_servers(judge_server, settings):
    judge, opponent = judge_server("Grading"), judge_server("Grading")
    given = settings(judge, opponent, "num_queries=4", "group_size=5", "num_steps=10")
    config = compose(given)
    assert config.reward.calls(config)[:3] == [
        f"the judge judge-1 at {judge.url}: at most 40 calls a step, 400 in all",
        f"the opponent opponent-1 at {opponent.url}: at most 4 calls a step, 40 in all",
        "dollars unknown: no price of judge-1 and opponent-1 in conf/judges.json",
    ]
    config = compose([*given, "reward.order=one"])
    assert "at most 20 calls a step" in config.reward.calls(config)[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("reward.opponent.model=null", "reward.opponent.model=null: must be text"),
        ("reward.opponent.base_url=host", "reward: opponent: base_url is no address of a server"),
        ("reward.opponent.api_key_env=NOT_SET", "opponent: the environment variable NOT_SET holds"),
        ("reward.question='{query} {first}'", "question has no {second}. Write it where"),
    ],
)
def test_bad_settings_are_refused_before_anything_loads(judge_server, settings, change, says):
    server = judge_server("Grading")
    with pytest.raises(ConfigError) as raised:
        compose(settings(server, server, change))
    assert says in str(raised.value)
