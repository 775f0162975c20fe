"""The loss as one module, and what is corrected where another program sampled."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from lsp.batch import pad
from lsp.learner import Learner
from lsp.losses import correction_weight
from lsp.settings.compose import compose
from lsp.types import TrainingRow

RATIO = 1.5
"""Of the policy's probability of each token to the engine's."""


def test_a_weight_is_the_ratio_up_to_the_cap():
    off = torch.tensor([0.0, math.log(1.5), math.log(3.0), math.log(0.25)])
    assert correction_weight(off, 2.0).tolist() == pytest.approx([1.0, 1.5, 2.0, 0.25])


def test_what_the_engine_is_decides_unless_a_setting_does():
    assert compose([]).rollout_correction == "none"
    assert compose(["loss.rollout_correction=sequence"]).rollout_correction == "sequence"


@pytest.fixture
def sampled(players):
    """Rows of three and two tokens whose engine gave each token 1 / RATIO of what the policy
    does, in two roles' weights."""
    own = [
        TrainingRow("solver", (0, 7, 8, 9), (10, 11, 1), (), 0.5, 0.1, 1),
        TrainingRow("solver", (0, 7, 8), (12, 1), (), -0.25, 0.05, 1),
    ]
    learner = learner_of(players, "none")
    batch = pad(own)
    scores = learner._reference(batch)  # the policy is the reference
    by_row = [scores.logprobs_C[batch.row_C == i] - math.log(RATIO) for i in range(2)]
    return [
        replace(row, rollout_logprobs=tuple(logprobs.tolist()))
        for row, logprobs in zip(own, by_row, strict=True)
    ]


def learner_of(players, correction):
    loss = replace(players.config.loss, rollout_correction=correction)
    config = replace(players.config, loss=loss)
    own = replace(players, policy=copy.deepcopy(players.policy), config=config)
    return Learner(own, config)


def gradient_of(learner, rows):
    batch = pad(rows)
    learner.loss(batch, learner._reference(batch)).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in learner.trained])


@pytest.mark.parametrize(
    ("correction", "of_three", "of_two"),
    [("token", RATIO, RATIO), ("sequence", 2.0, 2.0)],  # 1.5^3 and 1.5^2 are above the cap
)
def test_gradients_are_weighted_by_the_ratio(players, sampled, correction, of_three, of_two):
    for row, weight in zip(sampled, (of_three, of_two), strict=True):
        plain = gradient_of(learner_of(players, "none"), [row])
        corrected = gradient_of(learner_of(players, correction), [row])
        assert (corrected - weight * plain).norm() < 1e-5 * plain.norm()


def test_the_exact_kl_is_corrected_alike(players, sampled):
    method = replace(players.config.method, kl_estimator="exact")
    config = replace(players.config, method=method)
    exact = replace(players, config=config)
    plain = gradient_of(learner_of(exact, "none"), sampled)
    corrected = gradient_of(learner_of(exact, "token"), sampled)
    assert (corrected - RATIO * plain).norm() < 1e-5 * plain.norm()


def test_the_mismatch_is_logged_by_role_where_it_is_corrected(players, sampled):
    metrics = learner_of(players, "token").update(sampled, 1).metrics()
    off = math.log(RATIO)
    assert metrics["rollout/solver/mismatch/mean"] == pytest.approx(off, rel=1e-4)
    assert metrics["rollout/solver/mismatch/max"] == pytest.approx(off, rel=1e-4)
    assert metrics["rollout/logprob_mismatch"] == pytest.approx(off, rel=1e-4)
    assert metrics["rollout/solver/mismatch/k3"] == pytest.approx(RATIO - 1 - off, rel=1e-3)
    assert metrics["rollout/solver/ratio/min"] == pytest.approx(RATIO, rel=1e-4)
    assert metrics["rollout/solver/clipped_frac"] == 0.0
    assert "rollout/challenger/ratio/max" not in metrics
    metrics = learner_of(players, "sequence").update(sampled, 1).metrics()
    assert metrics["rollout/solver/clipped_frac"] == 1.0
    assert metrics["rollout/solver/ratio/max"] == pytest.approx(RATIO**3, rel=1e-4)
    metrics = learner_of(players, "none").update(sampled, 1).metrics()
    assert not [key for key in metrics if "ratio" in key]
