"""What the first steps must show."""

import copy

import pytest
import torch

from lsp.batch import pad
from lsp.loop.checks import not_the_reference, rounding, unknown_objective
from lsp.model.logprobs import completion_hidden, completion_scores, head_loss
from lsp.settings.compose import compose
from lsp.types import TrainingRow


def test_before_the_first_update_the_policy_differs_by_rounding():
    """By hand: 4 ln 256 (2^-23 + 64 * 2^-23) = 1.72e-4; k2 of half of it everywhere is 3.7e-9."""
    assert rounding("float32", 256) == pytest.approx(1.72e-4, rel=0.01)
    assert rounding("bfloat16", 256) == pytest.approx(0.173, rel=0.01)
    right = {"kl/largest_difference": 1.7e-4, "kl/solver/k2": 3.6e-9, "kl/solver/k1": 1.0}
    assert not_the_reference(right, "float32", 256) == ""
    assert not_the_reference({}, "float32", 256) == ""
    said = not_the_reference(right | {"kl/largest_difference": 2e-4}, "float32", 256)
    assert "kl/largest_difference is 0.0002 where at most 0.00017 is rounding" in said
    assert "model.lora.rank=0 and runtime.device=cpu rule causes out" in said
    said = not_the_reference(right | {"kl/challenger/k2": 4e-9}, "float32", 256)
    assert "kl/challenger/k2 is 4e-09 where at most 3.7e-09 is rounding" in said
    assert not_the_reference(right | {"kl/challenger/k2": 3e-3}, "bfloat16", 256) == ""
    assert not_the_reference({"kl/largest_difference": float("nan")}, "float32", 256)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_vocabulary_is_rounding_and_a_changed_weight_is_not(dtype):
    """151,936 tokens (Qwen's), logits of deviation 3: torch's log_softmax would be off by 1e-5."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    vocabulary = 151_936
    policy = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, hidden_size=16, intermediate_size=32,
                    num_hidden_layers=1, num_attention_heads=2, initializer_range=0.7)
    ).to(getattr(torch, dtype)).eval()  # fmt: skip
    reference = copy.deepcopy(policy)
    answers = [tuple(ids) for ids in torch.randint(0, vocabulary, (6, 8)).tolist()]
    rows = [TrainingRow("solver", (5, 6, 7, 8), ids, (), 0.0, 0.0, 1) for ids in answers]

    def measured(batches):
        """The policy as in training, the reference in other batches: other sums, other rounding."""
        found, expected = [], []
        for batch in map(pad, ([row] for row in rows)):
            hidden, head = completion_hidden(policy, batch), policy.get_output_embeddings()
            target = batch.completion_ids_BT[batch.completion_mask_BT]
            _, scores = head_loss(hidden, head, target, 1.0, lambda logprobs, _: logprobs.sum())
            found.append(scores.logprobs_C)
        with torch.no_grad():
            expected = [completion_scores(reference, pad(part), 1.0).logprobs_C for part in batches]
        difference = torch.cat(found) - torch.cat(expected)
        return {
            "kl/largest_difference": difference.abs().max().item(),
            "kl/solver/k2": difference.square().mean().item() / 2,
        }

    same = [[row] for row in rows]
    assert measured(same) == {"kl/largest_difference": 0.0, "kl/solver/k2": 0.0}
    assert not_the_reference(measured([rows]), dtype, vocabulary) == ""
    with torch.no_grad():
        policy.model.layers[0].mlp.down_proj.weight[0, 0] += 1.0
    assert "the policy is not the reference" in not_the_reference(measured(same), dtype, vocabulary)


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["objective=null"], False),
        (["objective=loss/total"], False),
        (["objective=loss/totl"], True),
        (["objective=optim/role_gradient_cosine"], False),  # comes at a later step
        (["objective=eval/other/win_rate"], True),  # of an evaluator that is not this run's
        (["objective=eval/pocket/win_rate", "eval=none"], False),  # the world's own
    ],
)
def test_an_objective_is_a_metric_of_the_first_step_or_may_come_later(overrides, refused):
    said = unknown_objective(compose(overrides), ["loss/total", "eval/pocket/win_rate"])
    assert bool(said) == refused
    if refused:
        assert "is no metric of this run; docs/metrics.md has them all, near it are" in said
