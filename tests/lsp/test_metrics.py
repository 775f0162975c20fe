"""Scalars of a play made by hand."""

import math
from dataclasses import replace

import pytest
import torch

from lsp.metrics import empty_play, play_metrics, spread
from lsp.types import Completion, Play, Query

NAN = math.nan


def completion(tokens, finish="stop"):
    return Completion((5,) * tokens, (0.0,) * tokens, "x", finish)


QUERIES = [
    Query("q0", "same", "stop", (1,), completion(2)),
    Query("q1", "same", "stop", (1,), completion(4)),
    Query("q2", "cut", "length", (1,), completion(9)),
    Query("q3", "", "empty", (1,), completion(1)),
]
PLAY = Play(
    queries=QUERIES[:2],
    answers=[[completion(1), completion(3)], [completion(4, "length"), completion(4)]],
    solver_prompt_ids=[(1,), (2,)],
    reward_QG=torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
    reward_details={"truncated": torch.tensor([[0.0, 0.0], [1.0, 1.0]])},
    quality_QG=torch.tensor([[4.0, NAN], [6.0, 5.0]]),
    quality_text=[["4", "?"], ["6", "5"]],
    solver_reward_QG=torch.tensor([[3.0, 2.0], [3.5, 3.5]]),
    solver_advantage_QG=torch.tensor([[0.5, -0.5], [0.0, 0.0]]),
    query_value_Q=torch.tensor([0.5, 0.5]),
    challenger_reward_Q=torch.tensor([1.5, 2.5]),
    challenger_advantage_Q=torch.tensor([-0.5, 0.5]),
    self_reward_weight=0.5,
)


def test_every_scalar_by_hand():
    std_reward = (0.5 / 3) ** 0.5  # of 1, 0, 0.5, 0.5, ddof 1
    assert play_metrics(QUERIES, PLAY) == pytest.approx(
        {
            "rollout/played_query_frac": 2 / 4,
            "rollout/distinct_query_frac": 3 / 4,
            "rollout/query_length_frac": 1 / 4,
            "rollout/query_empty_frac": 1 / 4,
            "rollout/query_malformed_frac": 0.0,
            "rollout/query_illegal_frac": 0.0,
            "rollout/query_length/mean": (2 + 4 + 9 + 1) / 4,
            "rollout/answer_length/mean": (1 + 3 + 4 + 4) / 4,
            "rollout/answer_truncated_frac": 1 / 4,
            "reward/external/mean": 0.5,
            "reward/external/std": std_reward,
            "reward/external/truncated/mean": 0.5,
            "reward/external/truncated/std": 3**-0.5,
            "reward/solver/mean": 3.0,
            "reward/solver/std": 0.5**0.5,  # of 0, -1, 0.5, 0.5 around their mean
            "reward/solver/zero_variance_frac": 1 / 2,
            "advantage/solver/mean": 0.0,
            "advantage/solver/std": (0.5 / 3) ** 0.5,
            "reward/challenger/mean": 2.0,
            "reward/challenger/std": 0.5**0.5,
            "advantage/challenger/mean": 0.0,
            "advantage/challenger/std": 0.5**0.5,
            "quality/unparsed_frac": 1 / 4,
            "quality/weight": 0.5,
            "quality/mean": 5.0,
            "quality/std": 1.0,
            "quality/weighted_std_ratio": 0.5 * 1.0 / std_reward,
        }
    )


def test_a_step_in_which_nothing_could_be_played_says_why():
    assert play_metrics(QUERIES[2:], empty_play()) == {
        "rollout/played_query_frac": 0.0,
        "rollout/distinct_query_frac": 1.0,
        "rollout/query_length_frac": 0.5,
        "rollout/query_empty_frac": 0.5,
        "rollout/query_malformed_frac": 0.0,
        "rollout/query_illegal_frac": 0.0,
        "rollout/query_length/mean": 5.0,
    }


def test_illegal_queries_are_counted():
    queries = [*QUERIES[:2], *(replace(query, status="illegal") for query in QUERIES)]
    found = play_metrics(queries, PLAY)
    assert found["rollout/query_illegal_frac"] == pytest.approx(4 / 6)
    assert found["rollout/query_length_frac"] == 0.0


def test_what_the_challenger_earned_is_of_its_own_queries():
    """The first was asked by an earlier one: rewards and advantages are those of the second."""
    queries = [replace(QUERIES[0], completion=None), QUERIES[1]]
    found = play_metrics(queries, replace(PLAY, queries=queries))
    names = ("reward/challenger/mean", "reward/challenger/std", "advantage/challenger/mean")
    assert [found[name] for name in names] == [2.5, 0.0, 0.5]
    assert found["rollout/query_length/mean"] == 4
    nobody = [replace(query, completion=None) for query in QUERIES[:2]]
    assert not set(names) & set(play_metrics(nobody, replace(PLAY, queries=nobody)))


def test_one_value_has_no_spread():
    assert spread("a", torch.tensor([[2.5]])) == {"a/mean": 2.5, "a/std": 0.0}
