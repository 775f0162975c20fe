"""A micro-batch goes in; its loss under the policy comes out, with what was measured on the way.

One module with one forward pass, in which every weight of the policy is used: what wraps it for
several processes (lsp/model/distribution.py) sees all of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsp.batch import row_sums
from lsp.losses import correction_weight, kl_loss, kl_per_token, policy_loss
from lsp.model.logprobs import TokenScores, completion_hidden, head_loss, token_scores
from lsp.settings.config import Config
from lsp.types import MicroBatch


class LossParts(NamedTuple):
    """``loss`` is differentiable, the others are not; all but it per completion token, [C]."""

    loss: Tensor
    scores: TokenScores
    kl_C: Tensor


class PolicyLoss(nn.Module):
    """L_Sol or alpha_Ch L_Ch of rows of one role (lsp/losses.py); the denominators are in the rows'
    weights."""

    def __init__(self, policy: PreTrainedModel, config: Config):
        super().__init__()
        self.policy = policy
        self.config = config

    def forward(self, batch: MicroBatch, ref: TokenScores) -> LossParts:
        """``ref``: the reference's scores of the same tokens."""
        method, role = self.config.method, batch.rows[0].role
        temperature, beta = self.config.rollout.temperature_of(role), method.beta_of(role)
        weights = [[row.policy_weight, row.kl_weight] for row in batch.rows]
        weights_B2 = torch.tensor(weights, device=batch.row_C.device)
        policy_weight_C, kl_weight_C = weights_B2[batch.row_C].unbind(1)
        hidden_CD, head = completion_hidden(self.policy, batch), self.policy.get_output_embeddings()
        inputs = hidden_CD, head, batch.target_C, temperature
        correction, cap = self.config.rollout_correction, self.config.loss.rollout_correction_cap
        if correction != "none":
            rollout_C = rollout_logprobs(batch)
        if correction == "sequence":
            with torch.no_grad():
                of_row_C = row_totals(batch, token_scores(*inputs).logprobs_C - rollout_C)

        def loss_of(logprobs: Tensor, kl: Tensor, part: slice) -> Tensor:
            policy_weight, kl_weight = policy_weight_C[part], kl_weight_C[part]
            if correction != "none":
                by_token = correction == "token"
                off = logprobs.detach() - rollout_C[part] if by_token else of_row_C[part]
                weight = correction_weight(off, cap)
                policy_weight, kl_weight = policy_weight * weight, kl_weight * weight
            return policy_loss(logprobs, policy_weight) + kl_loss(kl, kl_weight, beta)

        def kl_of(logprobs: Tensor, part: slice) -> Tensor:
            return kl_per_token(logprobs, ref.logprobs_C[part], method.kl_estimator)

        if method.kl_estimator == "exact":
            scores = token_scores(*inputs, with_distribution=True)
            distributions = scores.distribution_CV, ref.distribution_CV
            kl_C = kl_per_token(scores.logprobs_C, ref.logprobs_C, "exact", *distributions)
            loss = loss_of(scores.logprobs_C, kl_C, slice(None))
        else:
            loss, scores = head_loss(
                *inputs, lambda logprobs, part: loss_of(logprobs, kl_of(logprobs, part), part)
            )
            kl_C = kl_of(scores.logprobs_C, slice(None))
        measured = TokenScores(scores.logprobs_C.detach(), scores.entropy_C, None)
        return LossParts(loss, measured, kl_C.detach())


def rollout_logprobs(batch: MicroBatch) -> Tensor:
    """The engine's log-probability of each completion token, [C]."""
    values = [value for row in batch.rows for value in row.rollout_logprobs]
    return torch.tensor(values, device=batch.row_C.device)


def row_totals(batch: MicroBatch, value_C: Tensor) -> Tensor:
    """The sum over its row, at each token. [C] -> [C]."""
    return row_sums(batch, value_C)[batch.row_C]
