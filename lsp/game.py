"""The game's arithmetic, pure: rewards go in, values and advantages of both roles come out.

Equations are those of "Language Self-Play For Data-Free Training" (arXiv 2509.07414). Shape
suffixes: ``_Q`` the step's played queries, ``_QG`` the queries times their G answers. A group
is a row of such a tensor, so a query that is asked twice is two groups, whatever its text.

A self-score that could not be read is NaN in ``quality_QG``; no function here returns NaN
where the external rewards are finite, except ``query_quality``, which says so.
"""

import torch
from torch import Tensor

ADVANTAGE_EPSILON = 1e-4
SHAPES = ("negative_value", "none", "variance", "band", "learnable", "undecided", "solvable")
BASELINE_DECAY = 0.95
SMALLEST_SPREAD = 0.1
"""Of self-scores, 0 to 7, by which a weight can be told; a smaller one would be blown up."""


def query_value(reward_QG: Tensor) -> Tensor:
    """V(q_i) = mean over j of R(q_i, a_ij). [Q, G] -> [Q]."""
    return reward_QG.mean(dim=1)


def query_quality(quality_QG: Tensor) -> Tensor:
    """V_Q(q_i), the mean self-score over the answers that have one; NaN where none has. [Q]."""
    return quality_QG.nanmean(dim=1)


def solver_reward(reward_QG: Tensor, quality_QG: Tensor, self_reward_weight: float) -> Tensor:
    """R + w R_Q. [Q, G].

    An unread self-score counts as its group's V_Q, so it adds zero advantage and leaves the
    group's mean where it is; a group without any plays for R alone.
    """
    group_mean_Q1 = query_quality(quality_QG).unsqueeze(1).nan_to_num(nan=0.0)
    filled_QG = torch.where(quality_QG.isnan(), group_mean_Q1, quality_QG)
    return reward_QG + self_reward_weight * filled_QG


def challenger_reward(
    reward_QG: Tensor,
    quality_QG: Tensor,
    self_reward_weight: float,
    shape: str = "negative_value",
    reward_range: tuple[float, float] | None = None,
) -> Tensor:
    """What the Challenger earns for each query, [Q]: a term of the answers' rewards, + w V_Q.

    ``shape`` is that term; with p = (R - low) / (high - low), R taken into [0, 1], and m its mean
    over the answers:

    * ``negative_value``: -V(q), the paper's; needs no range.
    * ``none``: 0; with w = 0 the Challenger is held to the reference and learns nothing else.
    * ``variance``: exp(-(Var_j p - 1/4)^2 / 0.02), highest where half of the answers are
      right (SPICE, arXiv 2510.24684; population variance, whose largest value is 1/4).
    * ``band``: 1 - 2 |m - 1/2|, highest for a middling value (R-Zero, arXiv 2508.05004).
    * ``learnable``: 1 - m where 0 < m < 1, else 0 (Absolute Zero, arXiv 2505.03335).
    * ``undecided``: 1 where 0 < m < 1, else 0 (Self-Questioning LM, arXiv 2508.03682, its rule for
      tests, which some and not all answers pass).
    * ``solvable``: 0 outside 1/2 <= m <= 9/10; inside a triangle, 1 at 7/10 and at both ends
      1 / (how many of the rates j/G lie inside) (OpenSIR, arXiv 2511.00602).

    A query with no readable self-score takes the mean V_Q of those that have one; where no
    query has, the term stands alone.
    """
    if shape == "negative_value":
        term_Q = -query_value(reward_QG)
    elif shape == "none":
        term_Q = torch.zeros_like(query_value(reward_QG))
    elif reward_range is None:
        raise ValueError(f"challenger reward {shape!r} needs the reward's range")
    else:
        low, high = reward_range
        scaled_QG = (reward_QG - low) / (high - low)
        mean_Q = scaled_QG.mean(dim=1)
        between_Q = (mean_Q > 0) & (mean_Q < 1)
        match shape:
            case "variance":
                term_Q = torch.exp(-((scaled_QG.var(dim=1, unbiased=False) - 0.25) ** 2) / 0.02)
            case "band":
                term_Q = 1 - 2 * (mean_Q - 0.5).abs()
            case "learnable":
                term_Q = torch.where(between_Q, 1 - mean_Q, 0.0)
            case "undecided":
                term_Q = between_Q.float()
            case "solvable":
                size = scaled_QG.shape[1]
                rates = sum(0.5 <= j / size <= 0.9 for j in range(1, size + 1))
                slope_Q = (mean_Q - 0.7).abs() / 0.2
                inside_Q = (mean_Q >= 0.5) & (mean_Q <= 0.9)
                term_Q = torch.where(inside_Q, 1 - (1 - 1 / max(1, rates)) * slope_Q, 0.0)
            case _:
                raise ValueError(f"challenger reward {shape!r}: one of {', '.join(SHAPES)}")
    quality_Q = query_quality(quality_QG)
    over_queries = quality_Q.nanmean().nan_to_num(nan=0.0)
    return term_Q + self_reward_weight * torch.where(quality_Q.isnan(), over_queries, quality_Q)


def invalid_query_reward(challenger_reward_Q: Tensor, penalty: float) -> float:
    """What a query earns that could not be played: the least that one of the played earned, less
    ``penalty``. 0 is R-Zero's rule (arXiv 2508.05004: an ill-formed question gets the lowest
    reward); above it Absolute Zero's (arXiv 2505.03335: less than any valid one gets)."""
    return challenger_reward_Q.min().item() - penalty


def auto_weight(reward_QG: Tensor, quality_QG: Tensor, ratio: float) -> float | None:
    """The w with which w std(R_Q) / std(R) is ``ratio`` over all answers that have a self-score
    (ddof 1); None where R does not vary, or R_Q by less than SMALLEST_SPREAD: then nothing can be
    told."""
    read_QG = ~quality_QG.isnan()
    if read_QG.sum() < 2:
        return None
    reward_std, quality_std = (x[read_QG].std().item() for x in (reward_QG, quality_QG))
    told = reward_std > 1e-6 and quality_std >= SMALLEST_SPREAD
    return ratio * reward_std / quality_std if told else None


def solver_advantage(solver_reward_QG: Tensor, divide_by_std: bool = False) -> Tensor:
    """A_Sol: the reward minus its group's mean. [Q, G].

    The paper does not divide by the standard deviation; ``divide_by_std`` does, as GRPO's
    first form (ddof 1, epsilon 1e-4).
    """
    centred_QG = solver_reward_QG - solver_reward_QG.mean(dim=1, keepdim=True)
    if divide_by_std:
        return centred_QG / (solver_reward_QG.std(dim=1, keepdim=True) + ADVANTAGE_EPSILON)
    return centred_QG


def challenger_advantage(challenger_reward_Q: Tensor, baseline: float | None = None) -> Tensor:
    """A_Ch: the reward minus its mean over the step's queries, or minus ``baseline``. [Q].

    With fewer than two queries and no baseline there is nothing to compare with, so the advantage
    is zero.
    """
    if baseline is not None:
        return challenger_reward_Q - baseline
    if challenger_reward_Q.numel() < 2:
        return torch.zeros_like(challenger_reward_Q)
    return challenger_reward_Q - challenger_reward_Q.mean()


def moved_baseline(baseline: float, challenger_reward_Q: Tensor) -> float:
    """b <- 0.95 b + 0.05 mean r: the role's own mean over time, from 0 (SPIRAL, arXiv 2506.24119,
    whose baseline moves with each game; here with each step)."""
    mean = challenger_reward_Q.mean().item()
    return BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean
