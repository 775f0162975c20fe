"""The loss, pure: token log-probabilities and weights go in, scalars come out.

    L_Sol = -(1/NG) sum_ij [ (pi/sg pi)(a_ij|q_i) A_ij - beta log(pi/pi_ref)(a_ij|q_i) ]

and L_Ch the same over the N queries (arXiv 2509.07414); sg is stop-gradient: one on-policy
step for each batch of play, no clipping. Everything here works on tensors of any one shape
(``_T``: tokens, packed or padded), so it can be called on rows from elsewhere.

Normalisation is one number for each row, its *token weight*: the loss is a weighted sum over
tokens, so any split into micro-batches gives the same gradient.
"""

import torch
from torch import Tensor

KL_ESTIMATORS = ("k1", "k2", "k3", "exact")
CORRECTIONS = ("none", "token", "sequence")


def token_weight(aggregation: str, length: int, rows: int, tokens: int, max_tokens: int) -> float:
    """What each token of one row weighs in its role's loss.

    Args:
        aggregation: ``sum``, the paper's: tokens of a row add up, rows are averaged;
            ``sequence_mean``: each row's mean, then the mean over rows;
            ``token_mean``: the mean over all tokens of the role;
            ``constant``: ``sum`` over a fixed length, so the scale of the learning rate does
            not move with the length limit.
        length: tokens of this row (0 gives 0).
        rows, tokens: the role's denominators for the whole step, on all ranks: N G or N rows,
            and their tokens. The caller gives them; they never follow from a micro-batch.
        max_tokens: the length limit.
    """
    if length == 0:
        return 0.0
    match aggregation:
        case "sum":
            return 1 / rows
        case "sequence_mean":
            return 1 / (rows * length)
        case "token_mean":
            return 1 / tokens
        case "constant":
            return 1 / (rows * max_tokens)
    raise ValueError(f"loss aggregation {aggregation!r}: sum, sequence_mean, token_mean, constant")


def policy_loss(logprobs_T: Tensor, weighted_advantage_T: Tensor) -> Tensor:
    """-sum_t (pi/sg pi)_t A_t w_t, a scalar. The ratio is 1; its gradient is that of log pi.

    ``weighted_advantage_T`` is advantage times token weight (of merged rows: their sum).
    """
    ratio_T = torch.exp(logprobs_T - logprobs_T.detach())
    return -(ratio_T * weighted_advantage_T).sum()


def kl_per_token(
    logprobs_T: Tensor,
    ref_logprobs_T: Tensor,
    estimator: str,
    distribution_TV: Tensor | None = None,
    ref_distribution_TV: Tensor | None = None,
) -> Tensor:
    """KL(pi || pi_ref) at each sampled prefix, to be differentiated directly. [T].

    With d = log pi - log pi_ref of the sampled token (J. Schulman, "Approximating KL
    divergence", 2020):

    * ``k1`` = d: unbiased in value, but its expected *gradient* is zero on-policy, since
      E[grad log pi] = 0: noise, not a penalty.
    * ``k2`` = d^2 / 2: its expected gradient is exactly that of KL(pi || pi_ref).
    * ``k3`` = e^-d - 1 + d, GRPO's: unbiased in value, its gradient is that of
      KL(pi_ref || pi), another direction.
    * ``exact``: sum over the vocabulary; needs both log-distributions, [T, V].
    """
    if estimator == "exact":
        if distribution_TV is None or ref_distribution_TV is None:
            raise ValueError("kl_estimator=exact needs both log-distributions over the vocabulary")
        return (distribution_TV.exp() * (distribution_TV - ref_distribution_TV)).sum(dim=-1)
    d_T = logprobs_T - ref_logprobs_T
    match estimator:
        case "k1":
            return d_T
        case "k2":
            return d_T.square() / 2
        case "k3":
            return torch.expm1(-d_T) + d_T  # e^-d - 1 would lose the digits of a small d
    raise ValueError(f"kl_estimator {estimator!r}: one of {', '.join(KL_ESTIMATORS)}")


def kl_loss(kl_T: Tensor, weight_T: Tensor, beta: float) -> Tensor:
    """beta sum_t KL_t w_t, a scalar."""
    return beta * (kl_T * weight_T).sum()


def correction_weight(difference_T: Tensor, cap: float) -> Tensor:
    """What the loss of a token is multiplied by where another program sampled it: the truncated
    importance weight min(pi / pi_engine, C) (Ionides, "Truncated Importance Sampling", 2008; for
    LLM rollouts Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025). [T].

    ``difference_T`` is log pi - log pi_engine: of the token alone (``rollout_correction=token``),
    which leaves a bias of second order in the mismatch, or the sum over its completion
    (``sequence``), unbiased but for the cap, of a variance that grows with length.
    """
    return difference_T.exp().clamp(max=cap)
