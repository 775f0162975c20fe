"""The paper's arithmetic on numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsp import game

NAN = float("nan")
# Two queries, three answers each.
REWARD = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
QUALITY = torch.tensor([[7.0, 4.0, 1.0], [2.0, NAN, 4.0]])
NO_QUALITY = torch.full((2, 3), NAN)


def test_query_value_is_the_mean_over_the_group():
    assert game.query_value(REWARD).tolist() == [0.5, 0.0]


def test_query_quality_is_the_mean_over_read_scores():
    assert game.query_quality(QUALITY).tolist() == [4.0, 3.0]
    assert game.query_quality(NO_QUALITY).isnan().all()


def test_solver_reward_adds_the_weighted_self_score():
    # R + 0.5 R_Q; the unread score of the second group counts as that group's mean, 3.
    assert game.solver_reward(REWARD, QUALITY, 0.5).tolist() == [[4.5, 2.0, 1.0], [1.0, 1.5, 2.0]]


def test_an_unread_self_score_adds_zero_advantage():
    advantage = game.solver_advantage(game.solver_reward(REWARD, QUALITY, 1.0))
    # Group 2: R is 0 throughout, R_Q is 2, -, 4 around 3.
    assert advantage[1].tolist() == [-1.0, 0.0, 1.0]


def test_a_group_without_any_self_score_plays_for_the_external_reward():
    assert torch.equal(game.solver_reward(REWARD, NO_QUALITY, 5.0), REWARD)


def test_weight_zero_is_lsp_zero():
    assert torch.equal(game.solver_reward(REWARD, QUALITY, 0.0), REWARD)
    assert game.challenger_reward(REWARD, QUALITY, 0.0).tolist() == [-0.5, 0.0]


def test_challenger_reward_is_minus_value_plus_weighted_quality():
    # -V + 0.5 V_Q: -0.5 + 2, 0 + 1.5
    assert game.challenger_reward(REWARD, QUALITY, 0.5).tolist() == [1.5, 1.5]


def test_a_query_without_self_score_takes_the_mean_of_those_that_have_one():
    quality = torch.tensor([[6.0, 6.0, 6.0], [NAN, NAN, NAN], [2.0, NAN, NAN]])
    reward = torch.zeros(3, 3)
    # V_Q: 6, (6 + 2) / 2 = 4, 2
    assert game.challenger_reward(reward, quality, 1.0).tolist() == [6.0, 4.0, 2.0]


def test_without_any_self_score_the_challenger_plays_for_minus_value_alone():
    assert game.challenger_reward(REWARD, NO_QUALITY, 3.0).tolist() == [-0.5, 0.0]


def test_variance_shape_peaks_where_half_of_the_answers_are_right():
    reward = torch.tensor([[0.0, 2.0], [2.0, 2.0]])
    found = game.challenger_reward(reward, NO_QUALITY[:, :2], 0.0, "variance", (0.0, 2.0))
    # p = R / 2. Group 1: variance of {0, 1} is 1/4 -> 1; group 2: 0 -> exp(-0.0625 / 0.02).
    assert found.tolist() == pytest.approx([1.0, math.exp(-3.125)])


def test_band_shape_peaks_at_a_middling_value():
    reward = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.25, 0.25]])
    found = game.challenger_reward(reward, torch.full((3, 2), NAN), 0.0, "band", (0.0, 1.0))
    assert found.tolist() == [1.0, 0.0, 0.5]


def test_shapes_that_need_a_range_say_so():
    with pytest.raises(ValueError, match="needs the reward's range"):
        game.challenger_reward(REWARD, QUALITY, 1.0, "band")
    with pytest.raises(ValueError, match="'value': one of negative_value, none, variance, band, "):
        game.challenger_reward(REWARD, QUALITY, 1.0, "value", (0.0, 1.0))


def earned(shape, *right, size=10, top=1.0):
    """By a shape alone, from so many right answers of ``size``, each worth ``top``, to a query."""
    reward = torch.tensor([[top] * count + [0.0] * (size - count) for count in right])
    found = game.challenger_reward(reward, torch.full_like(reward, NAN), 0.0, shape, (0.0, top))
    return found.tolist()


def test_none_earns_the_weighted_quality_alone_and_needs_no_range():
    # 0 + 0.5 V_Q: V_Q is 4 and 3
    assert game.challenger_reward(REWARD, QUALITY, 0.5, "none").tolist() == [2.0, 1.5]
    assert game.challenger_reward(REWARD, NO_QUALITY, 0.0, "none").tolist() == [0.0, 0.0]


def test_learnable_is_one_minus_the_success_rate_but_for_all_and_nothing():
    # Absolute Zero, equation 4: r = 0 where the mean success is 0 or 1, else 1 - it.
    assert earned("learnable", 0, 1, 5, 9, 10) == pytest.approx([0.0, 0.9, 0.5, 0.1, 0.0])
    assert earned("learnable", 0, 1, 2, size=2, top=4.0) == [0.0, 0.5, 0.0]  # m of R / 4


def test_undecided_is_one_where_some_answers_are_right_and_not_all():
    # Self-Questioning LM: 1 if 0 < right < all, else 0.
    assert earned("undecided", 0, 1, 5, 9, 10) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_solvable_is_a_triangle_between_half_and_nine_tenths():
    """OpenSIR: 1 at the middle of [.5, .9], at both ends 1 / (rates j/G inside), 0 outside."""
    # G = 10 has 5 rates inside, .5 to .9; halfway between an end, 1/5, and the peak lies 3/5.
    expected = [0.0, 0.2, 0.6, 1.0, 0.6, 0.2, 0.0]
    assert earned("solvable", 4, 5, 6, 7, 8, 9, 10) == pytest.approx(expected)
    # G = 4 has two, .5 and .75; .75 is a quarter of the way from the peak to an end, 1/2.
    assert earned("solvable", 1, 2, 3, 4, size=4) == pytest.approx([0.0, 0.5, 0.875, 0.0])
    # G = 3 has 2/3 alone, so the triangle is a box.
    assert earned("solvable", 1, 2, 3, size=3) == pytest.approx([0.0, 1.0, 0.0])


@given(st.sampled_from(game.SHAPES[2:]), st.lists(st.integers(0, 8), min_size=1, max_size=6))
def test_shapes_of_a_range_stay_within_nought_and_one(shape, right):
    assert all(-1e-6 <= value <= 1 + 1e-6 for value in earned(shape, *right, size=8, top=3.0))


def test_the_moving_baseline_by_hand():
    # SPIRAL: b <- .95 b + .05 mean r, from 0. Means 2 and -1: .1, then .095 - .05 = .045.
    first = game.moved_baseline(0.0, torch.tensor([1.0, 3.0]))
    assert first == pytest.approx(0.1)
    assert game.moved_baseline(first, torch.tensor([-1.0, -1.0])) == pytest.approx(0.045)


def test_a_reward_is_compared_with_the_baseline_where_one_is_given():
    # A = r - b; one query alone has something to be compared with.
    found = game.challenger_advantage(torch.tensor([1.0, 2.0, 6.0]), 0.5)
    assert found.tolist() == [0.5, 1.5, 5.5]
    assert game.challenger_advantage(torch.tensor([1.0]), 0.0).tolist() == [1.0]


def test_solver_advantage_is_centred_and_not_divided():
    assert game.solver_advantage(REWARD).tolist() == [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]


def test_division_by_std_is_over_the_group_with_ddof_1_and_epsilon():
    # std of {1, 0, 0.5} with ddof 1 is 0.5; a group without variance stays at zero.
    found = game.solver_advantage(REWARD, divide_by_std=True)
    expected = 0.5 / 0.5001
    assert found[0].tolist() == pytest.approx([expected, -expected, 0.0])
    assert found[1].tolist() == [0.0, 0.0, 0.0]


def test_challenger_advantage_is_centred_over_the_queries():
    assert game.challenger_advantage(torch.tensor([1.0, 2.0, 6.0])).tolist() == [-2.0, -1.0, 3.0]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_queries_give_no_challenger_advantage(count):
    assert game.challenger_advantage(torch.full((count,), 5.0)).tolist() == [0.0] * count


rewards = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4), min_size=2, max_size=5
)
scores = st.lists(
    st.lists(st.sampled_from([NAN, 0.0, 3.0, 7.0]), min_size=4, max_size=4), min_size=5, max_size=5
)


@given(rewards, scores, st.floats(0, 3))
def test_advantages_sum_to_zero_and_are_finite(reward, quality, weight):
    reward_QG = torch.tensor(reward)
    quality_QG = torch.tensor(quality)[: len(reward)]
    solver = game.solver_advantage(game.solver_reward(reward_QG, quality_QG, weight))
    challenger = game.challenger_advantage(game.challenger_reward(reward_QG, quality_QG, weight))
    assert solver.isfinite().all() and challenger.isfinite().all()
    assert solver.sum(dim=1).abs().max() < 1e-3
    assert challenger.sum().abs() < 1e-3


@given(rewards)
def test_repeated_queries_are_groups_of_their_own(reward):
    once = game.solver_advantage(torch.tensor(reward))
    twice = game.solver_advantage(torch.tensor(reward + reward))
    assert torch.equal(twice, torch.cat([once, once]))


def test_nothing_is_written_in_place():
    reward, quality = REWARD.clone(), QUALITY.clone()
    game.solver_advantage(game.solver_reward(reward, quality, 1.0), True)
    game.challenger_advantage(game.challenger_reward(reward, quality, 1.0))
    assert torch.equal(reward, REWARD)
    assert torch.equal(quality.nan_to_num(-1.0), QUALITY.nan_to_num(-1.0))


def test_an_invalid_query_earns_the_least_of_the_played_or_less():
    earned = torch.tensor([-0.5, 0.25, -0.75])
    assert game.invalid_query_reward(earned, 0.0) == -0.75
    assert game.invalid_query_reward(earned, 1.0) == -1.75


def test_the_first_play_tells_the_weight_that_makes_both_rewards_as_loud():
    # R of the read: 1, 0, .5, 0, 0; R_Q: 7, 4, 1, 2, 4. Squared deviations: .8 and 21.2, ddof 1.
    weight = game.auto_weight(REWARD, QUALITY, 0.5)
    assert weight == pytest.approx(0.5 * math.sqrt(0.8 / 4) / math.sqrt(21.2 / 4))
    assert game.auto_weight(REWARD, NO_QUALITY, 0.5) is None
    assert game.auto_weight(REWARD[1:], QUALITY[1:], 0.5) is None  # R does not vary
    assert game.auto_weight(REWARD, torch.full((2, 3), 4.0), 0.5) is None
