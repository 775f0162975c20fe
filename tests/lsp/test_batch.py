"""Rows of the loss: weights by hand, merging, packing; and any micro-batching, one gradient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsp.batch import pack, pad, row_sums, training_rows
from lsp.learner import Learner
from lsp.settings.compose import compose
from lsp.types import Completion, Play, Query, TrainingRow

METHOD = replace(compose([]).method, challenger_weight=0.5)


def completion(*ids, finish="stop"):
    return Completion(ids, tuple(-0.1 for _ in ids), "x", finish)


def play_of(challenger=True):
    """Two queries (texts alike), two answers each; the first group's answers are equal."""
    queries = [
        Query(f"q{i}", "same", "stop", (1, 2), completion(5 + i, 0) if challenger else None)
        for i in range(2)
    ]
    none = torch.full((2, 2), torch.nan)
    return Play(
        queries=queries,
        answers=[[completion(7, 0), completion(7, 0)], [completion(8, 8, 0, finish="length")] * 2],
        solver_prompt_ids=[(3,), (4,)],
        reward_QG=none,
        reward_details={},
        quality_QG=none,
        quality_text=[],
        solver_reward_QG=none,
        solver_advantage_QG=torch.tensor([[0.5, -0.25], [1.0, -1.0]]),
        query_value_Q=torch.zeros(2),
        challenger_reward_Q=torch.zeros(2),
        challenger_advantage_Q=torch.tensor([2.0, -2.0]),
    )


def test_weights_by_hand():
    # N = 4 planned queries (two were not played), G = 2: denominators stay 8 and 4.
    rows = training_rows(play_of(), METHOD, 4, 10, 10)
    by_key = {(row.role, row.completion_ids): row for row in rows}
    equal = by_key["solver", (7, 0)]
    assert equal.policy_weight == pytest.approx((0.5 - 0.25) / 8)
    assert (equal.kl_weight, equal.count) == (pytest.approx(2 / 8), 2)
    # alpha = 0.5 multiplies all of L_Ch, its KL included.
    first = by_key["challenger", (5, 0)]
    assert first.policy_weight == pytest.approx(0.5 * 2.0 / 4)
    assert first.kl_weight == pytest.approx(0.5 / 4)


def test_token_mean_divides_by_the_tokens_of_the_role():
    rows = training_rows(play_of(), replace(METHOD, loss_aggregation="token_mean"), 2, 10, 10)
    solver = [row for row in rows if row.role == "solver"]
    tokens = sum(len(row.completion_ids) * row.count for row in solver)
    assert tokens == 10
    assert sum(len(r.completion_ids) * r.kl_weight for r in solver) == pytest.approx(1.0)


def test_masked_truncated_answers_leave_the_denominator():
    rows = training_rows(play_of(), replace(METHOD, mask_truncated_answers=True), 2, 10, 10)
    solver = [row for row in rows if row.role == "solver"]
    assert [row.completion_ids for row in solver] == [(7, 0)]
    assert solver[0].kl_weight == pytest.approx(2 / 4)


def test_no_challenger_rows_without_weight_or_with_one_query():
    untrained = training_rows(play_of(), replace(METHOD, challenger_weight=0.0), 2, 10, 10)
    assert {row.role for row in untrained} == {"solver"}
    full = play_of()
    one = replace(
        full,
        queries=full.queries[:1],
        answers=full.answers[:1],
        solver_prompt_ids=full.solver_prompt_ids[:1],
        solver_advantage_QG=full.solver_advantage_QG[:1],
        challenger_advantage_Q=torch.zeros(1),
    )
    assert {row.role for row in training_rows(one, METHOD, 2, 10, 10)} == {"solver"}
    moving = replace(METHOD, challenger_baseline="moving")  # has something to compare one with
    assert {row.role for row in training_rows(one, moving, 2, 10, 10)} == {"solver", "challenger"}


def test_a_query_of_an_earlier_challenger_has_no_row():
    play = play_of()
    mixed = [play.queries[0], replace(play.queries[1], completion=None)]
    rows = training_rows(replace(play, queries=mixed), METHOD, 2, 10, 10)
    (own,) = [row for row in rows if row.role == "challenger"]
    assert own.completion_ids == (5, 0)


def rows_of(lengths):
    return [TrainingRow("solver", (1,) * p, (2,) * c, (0.0,) * c, 0, 0, 1) for p, c in lengths]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30), st.integers(1, 60))
def test_packing_keeps_every_row_and_the_budget(lengths, budget):
    rows = rows_of(lengths)
    batches = list(pack(rows, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) == 1 or pad([rows[i] for i in batch]).padded_tokens <= budget


def test_padding_and_row_sums():
    batch = pad(rows_of([(1, 2), (3, 1), (1, 1)]))
    assert batch.prompt_ids_KP.tolist() == [[1, 0, 0], [1, 1, 1]]  # a prompt that is there twice
    assert batch.prompt_length_K.tolist() == [1, 3] and batch.owner_B.tolist() == [0, 1, 0]
    assert batch.completion_ids_BT.tolist() == [[2, 2], [2, 0], [2, 0]]
    assert batch.completion_mask_BT.int().tolist() == [[1, 1], [1, 0], [1, 0]]
    assert (batch.tokens, batch.padded_tokens) == (8, 12)
    assert row_sums(batch, torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [3.0, 4.0, 8.0]


def played_rows(players, method, micro_batch_tokens):
    """A learner and the rows of one real play of the pocket world."""
    from lsp.algorithm import Clock, play_queries

    config = replace(players.config, method=method)
    config = replace(config, optim=replace(config.optim, micro_batch_tokens=micro_batch_tokens))
    players = replace(players, config=config)
    queries = players.step_queries(1)
    play = play_queries(players, config, queries, 1, Clock())
    rows = training_rows(
        play, method, config.num_queries, config.rollout.max_query_tokens,
        config.rollout.max_new_tokens,
    )  # fmt: skip
    return Learner(players, config), play, rows


def gradient(learner, rows, micro_batch_tokens):
    from lsp.learner import ROLES, UpdateStats

    learner.optimizer.zero_grad(set_to_none=True)
    stats = UpdateStats()
    for role in ROLES:  # a micro-batch has rows of one
        own = [row for row in rows if row.role == role]
        for chosen in pack(own, micro_batch_tokens):
            batch = pad([own[i] for i in chosen])
            learner._backward(batch, learner._reference(batch), stats)
    parameters = learner.players.policy.parameters()
    return torch.cat([p.grad.flatten() for p in parameters]), stats


@pytest.mark.parametrize("aggregation", ["sum", "sequence_mean", "token_mean", "constant"])
def test_any_micro_batching_gives_the_same_gradient(players, aggregation):
    method = replace(METHOD, loss_aggregation=aggregation)
    learner, _, rows = played_rows(players, method, 8192)
    whole, all_stats = gradient(learner, rows, 10**9)
    single, one_stats = gradient(learner, rows, 1)
    learner.optimizer.zero_grad(set_to_none=True)
    assert (whole - single).norm() <= 1e-5 * whole.norm()
    assert all_stats.loss == pytest.approx(one_stats.loss, abs=1e-6)


def test_merging_equal_rows_is_exact(players):
    learner, _, merged = played_rows(players, METHOD, 8192)
    assert len(merged) < sum(row.count for row in merged)
    split = []
    for row in merged:
        share = replace(
            row,
            policy_weight=row.policy_weight / row.count,
            kl_weight=row.kl_weight / row.count,
            count=1,
        )
        split += [share] * row.count
    together, _ = gradient(learner, merged, 8192)
    apart, _ = gradient(learner, split, 8192)
    learner.optimizer.zero_grad(set_to_none=True)
    assert (together - apart).norm() <= 1e-5 * apart.norm()


def test_at_the_first_step_kl_is_zero_and_the_engine_agrees_with_the_trainer(players):
    learner, _, rows = played_rows(players, METHOD, 8192)
    _, stats = gradient(learner, rows, 8192)
    learner.optimizer.zero_grad(set_to_none=True)
    metrics = stats.metrics()
    assert metrics["kl/solver/k2"] < 1e-6 and metrics["kl/challenger/k2"] < 1e-6
    assert metrics["rollout/logprob_mismatch"] < 1e-4


@pytest.mark.parametrize("wrong", [0.25, float("nan")])
def test_rollout_logprobs_that_are_not_the_trainers_show(players, wrong):
    learner, _, rows = played_rows(players, METHOD, 8192)
    first = (rows[0].rollout_logprobs[0] + wrong, *rows[0].rollout_logprobs[1:])
    changed = [replace(rows[0], rollout_logprobs=first), *rows[1:]]
    _, stats = gradient(learner, changed, 8192)
    learner.optimizer.zero_grad(set_to_none=True)
    found = stats.metrics()["rollout/logprob_mismatch"]
    assert found == pytest.approx(wrong, abs=1e-3, nan_ok=True)


def test_invalid_queries_bear_loss_where_the_play_says_so():
    """Two played at 2 and -2, one cut: the rows of all three, and the cut one's advantage."""
    cut = Query("q2", "cut", "length", (1, 2), completion(9, 9, finish="length"))
    play = replace(play_of(), invalid=[cut], invalid_reward=-3.0, invalid_advantage=-1.5)
    rows = training_rows(play, METHOD, 4, 10, 10)
    (row,) = [row for row in rows if row.completion_ids == (9, 9)]
    assert row.policy_weight == pytest.approx(0.5 * -1.5 / 4)
    assert row.kl_weight == pytest.approx(0.5 / 4)
    assert not [
        row for row in training_rows(play_of(), METHOD, 4, 10, 10) if 9 in row.completion_ids
    ]
