"""What is trained is fp32 and computes in bfloat16, as a bfloat16 model does."""

import copy
from dataclasses import replace

import pytest
import torch

from lsp.batch import pad
from lsp.learner import Learner
from lsp.model.precision import rounded, train_in_float32
from lsp.types import TrainingRow

ROWS = [
    TrainingRow("solver", (0, 7, 8, 9), (10, 11, 1), (0.0,) * 3, 0.5, 0.1, 1),
    TrainingRow("solver", (0, 7, 8), (12, 1), (0.0,) * 2, -0.25, 0.05, 1),
]


def learner_of(players, checkpointing=False):
    """Of a bfloat16 policy that is not its reference."""
    optim = replace(players.config.optim, gradient_checkpointing=checkpointing)
    config = replace(players.config, optim=optim)
    policy = copy.deepcopy(players.policy).bfloat16()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.01)
    reference = copy.deepcopy(players.reference).bfloat16()
    return Learner(replace(players, policy=policy, reference=reference, config=config), config)


def losses_and_gradients(learner):
    batch = pad(ROWS)
    parts = learner.loss(batch, learner._reference(batch))
    parts.loss.backward()
    return parts, {name: tensor.grad for name, tensor in learner.named.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_are_those_of_the_bfloat16_model_and_gradients_add_up_in_fp32(
    players, checkpointing
):
    """A layer works on prompts and on what follows them: two gradients, each of bfloat16."""
    parts, gradients = losses_and_gradients(learner_of(players, checkpointing))
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    plain = learner_of(players)
    policy = plain.players.policy
    for parameter in policy.parameters():  # the model that nothing is kept exact beneath
        parameter.data = parameter.data.bfloat16()
    expected, rounded_gradients = losses_and_gradients(plain)
    assert torch.equal(parts.scores.logprobs_C, expected.scores.logprobs_C)
    assert parts.loss.item() == expected.loss.item()
    for name, gradient in rounded_gradients.items():
        assert gradient.dtype == torch.bfloat16
        difference = (gradients[name] - gradient.float()).norm()
        assert difference <= 2**-8 * gradient.float().norm(), name


def test_weights_are_bfloat16_for_a_play_and_exact_again_after_it(players):
    learner = learner_of(players)
    policy = learner.players.policy
    exact = {name: tensor.clone() for name, tensor in learner.named.items()}
    with learner.whole_policy():
        assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}
        assert policy.dtype == torch.bfloat16
    assert all(torch.equal(tensor, exact[name]) for name, tensor in learner.named.items())


def test_an_update_that_bfloat16_would_round_away_adds_up():
    """Ten steps of 1e-4 on a weight of 1, whose bfloat16 neighbours are 1/128 apart."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    module = torch.nn.Module()
    module.register_parameter("weight", weight)
    assert train_in_float32(module) == torch.bfloat16
    for _ in range(10):
        weight.data += 1e-4
    assert weight.item() == pytest.approx(1.001, abs=1e-6)
    with rounded(module, torch.bfloat16):
        assert weight.item() == 1.0


def test_a_float32_model_stays_as_it_is(players):
    policy = copy.deepcopy(players.policy)
    pointers = [parameter.data_ptr() for parameter in policy.parameters()]
    assert train_in_float32(policy) is None
    with rounded(policy, None):
        assert [parameter.data_ptr() for parameter in policy.parameters()] == pointers
