"""Losses on numbers worked by hand, and the gradients that the KL estimators really have."""

import math

import pytest
import torch

from lsp.losses import kl_loss, kl_per_token, policy_loss, token_weight


def test_policy_loss_has_the_value_of_minus_advantage_and_the_gradient_of_log_pi():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    weighted = torch.tensor([0.5, -1.0, 0.25])
    loss = policy_loss(logprobs, weighted)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)  # -(0.5 - 1 + 0.25)
    assert logprobs.grad.tolist() == [-0.5, 1.0, -0.25]


def test_estimators_by_hand():
    own, ref = torch.tensor([math.log(0.8)]), torch.tensor([math.log(0.4)])
    d = math.log(2)
    assert kl_per_token(own, ref, "k1").item() == pytest.approx(d)
    assert kl_per_token(own, ref, "k2").item() == pytest.approx(d * d / 2)
    assert kl_per_token(own, ref, "k3").item() == pytest.approx(0.5 - 1 + d)


def test_exact_kl_by_hand_and_what_it_needs():
    own, ref = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    found = kl_per_token(own[:, 0], ref[:, 0], "exact", own, ref)
    assert found.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    with pytest.raises(ValueError, match="needs both log-distributions"):
        kl_per_token(own[:, 0], ref[:, 0], "exact")


def test_an_unknown_estimator_is_refused_by_name():
    with pytest.raises(ValueError, match="kl_estimator 'k4': one of k1, k2, k3, exact"):
        kl_per_token(torch.zeros(1), torch.zeros(1), "k4")


def expected_gradient(estimator: str, logit: float, ref: torch.Tensor) -> float:
    """E over sampled tokens of d(estimator)/d(logit), for softmax([logit, 0])."""
    total = 0.0
    for token in range(2):
        x = torch.tensor(logit, requires_grad=True)
        distribution = torch.stack([x, torch.zeros(())]).log_softmax(0)
        kl = kl_per_token(
            distribution[token : token + 1],
            ref[token : token + 1],
            estimator,
            distribution.unsqueeze(0),
            ref.unsqueeze(0),
        )
        kl.sum().backward()
        total += distribution[token].exp().item() * x.grad.item()
    return total


def analytic_gradients(logit: float, ref: torch.Tensor) -> tuple[float, float]:
    """d/dx of KL(pi || ref) and of KL(ref || pi) by autograd on the definition."""
    found = []
    for reverse in (True, False):
        x = torch.tensor(logit, requires_grad=True)
        own = torch.stack([x, torch.zeros(())]).log_softmax(0)
        kl = (own.exp() * (own - ref)).sum() if reverse else (ref.exp() * (ref - own)).sum()
        kl.backward()
        found.append(x.grad.item())
    return found[0], found[1]


@pytest.mark.parametrize("logit", [-1.5, 0.3, 2.0])
def test_expected_gradients_on_a_two_token_model(logit):
    """k1: none at all. k2 and exact: that of KL(pi || ref). k3: that of KL(ref || pi)."""
    ref = torch.tensor([0.7, 0.3]).log()
    reverse, forward = analytic_gradients(logit, ref)
    assert abs(reverse - forward) > 1e-3
    assert expected_gradient("k1", logit, ref) == pytest.approx(0.0, abs=1e-7)
    assert expected_gradient("k2", logit, ref) == pytest.approx(reverse, rel=1e-5)
    assert expected_gradient("exact", logit, ref) == pytest.approx(reverse, rel=1e-5)
    assert expected_gradient("k3", logit, ref) == pytest.approx(forward, rel=1e-5)


def test_kl_is_zero_against_itself():
    logprobs = torch.tensor([-0.1, -3.0])
    for estimator in ("k1", "k2", "k3"):
        assert kl_per_token(logprobs, logprobs, estimator).tolist() == [0.0, 0.0]


def test_k3_keeps_the_digits_of_a_small_difference():
    """About d^2 / 2, which e^-d - 1 + d would round to nothing."""
    logprobs = torch.tensor([2e-5, -1e-4])
    found = kl_per_token(logprobs, torch.zeros(2), "k3")
    assert found.tolist() == pytest.approx([2e-10, 5e-9], rel=1e-3)


def test_kl_loss_is_weighted_and_scaled_by_beta():
    assert kl_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.25]), 0.2).item() == (
        pytest.approx(0.25)
    )


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("sum", 1 / 6), ("sequence_mean", 1 / 24), ("token_mean", 1 / 20), ("constant", 1 / 60)],
)
def test_token_weights_by_hand(aggregation, expected):
    # A row of 4 tokens among 6 rows of 20 tokens, limit 10.
    assert token_weight(aggregation, 4, 6, 20, 10) == pytest.approx(expected)


def test_an_empty_row_weighs_nothing_and_an_unknown_aggregation_is_refused():
    assert token_weight("sequence_mean", 0, 6, 20, 10) == 0.0
    with pytest.raises(ValueError, match="sum, sequence_mean, token_mean, constant"):
        token_weight("mean", 4, 6, 20, 10)
