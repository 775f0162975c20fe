"""bfloat16 against float32 on a CPU: the same rows have nearly the same loss and gradient."""

import copy

import torch

from lsp.batch import pad
from lsp.model.logprobs import completion_hidden, head_loss
from lsp.types import TrainingRow


def test_loss_and_gradient_of_bfloat16_are_those_of_float32_within_a_tolerance(players):
    """Loss within 1 %, log-probabilities within 0.05 on average, a gradient whose cosine with
    float32's is above 0.99: docs/performance.md has what a real model's are."""
    source = torch.Generator().manual_seed(0)
    vocabulary = players.policy.config.vocab_size

    def ids(count):
        return tuple(torch.randint(4, vocabulary, (count,), generator=source).tolist())

    prompts = [ids(9), ids(5)]
    batch = pad(
        [TrainingRow("solver", prompts[i % 2], ids(8 + i), (), 0.0, 0.0, 1) for i in range(8)]
    )
    target_C = batch.completion_ids_BT[batch.completion_mask_BT]

    def measured(policy):
        """(loss, log-probabilities, gradient) of the rows' mean log-probability."""
        policy.zero_grad(set_to_none=True)
        loss, scores = head_loss(
            completion_hidden(policy, batch), policy.get_output_embeddings(), target_C, 1.0,
            lambda logprobs, part: -logprobs.sum() / len(target_C),
        )  # fmt: skip
        loss.backward()
        gradients = [parameter.grad.double().flatten() for parameter in policy.parameters()]
        return loss.item(), scores.logprobs_C, torch.cat(gradients)

    policy = copy.deepcopy(players.policy)
    loss, logprobs_C, gradient = measured(policy)
    rounded = measured(policy.bfloat16())
    assert abs(rounded[0] - loss) <= 0.01 * loss
    assert 0 < (rounded[1] - logprobs_C).abs().mean() <= 0.05
    assert gradient @ rounded[2] / (gradient.norm() * rounded[2].norm()) > 0.99
