"""The settings of a method: who asks, what is rewarded, and what is learnt from it.

LSP, LSP-Zero, GRPO and the controls (conf/method/) are values of these. This module imports no
torch.
"""

from typing import Literal

from lsp.settings.schema import LARGEST_WEIGHT, Weight, setting, settings


@settings
class MethodConfig:
    """LSP, LSP-Zero, GRPO and the controls are values of these settings, nothing else."""

    queries: Literal["challenger", "dataset"] = setting("who asks")
    challenger: Literal["policy", "reference"] = setting(
        "which weights the asking Challenger has; the reference never learns"
    )
    beta: float = setting("KL coefficient of the roles", ge=0, le=LARGEST_WEIGHT)
    challenger_beta: float | None = setting(
        "the Challenger's own KL coefficient; null: beta", ge=0, le=LARGEST_WEIGHT, default=None
    )
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = setting(
        "how the KL to the reference is estimated (lsp/losses.py); k2 is the penalty"
    )
    challenger_weight: float = setting(
        "alpha_Ch, times all of the Challenger's loss; 0: not trained", ge=0, le=LARGEST_WEIGHT
    )
    challenger_reward: Literal[
        "negative_value", "none", "variance", "band", "learnable", "undecided", "solvable"
    ] = setting("what a query earns beside w V_Q (lsp/game.py); negative_value is the paper's")
    challenger_baseline: Literal["step", "moving"] = setting(
        "what its reward is compared with: the mean of the step's queries, or the role's own moving"
        " mean (SPIRAL's)",
        default="step",
    )
    repetition_penalty: float = setting(
        "times the share of the step's queries that resemble one (BLEU clusters, R-Zero's), off its"
        " reward",
        ge=0,
        le=LARGEST_WEIGHT,
        default=0.0,
    )
    novelty_weight: float = setting(
        "times one minus the likeness to the step's most similar query, onto its reward",
        ge=0,
        le=LARGEST_WEIGHT,
        default=0.0,
    )
    self_reward_weight: Weight = setting(
        "w in R + w R_Q and -V + w V_Q, 0 or more; 0 is LSP-Zero; auto: such that at the first play"
        " w std(R_Q) / std(R) is self_reward_ratio, and fixed from then on"
    )
    self_reward_ratio: float = setting(
        "how loud R_Q is beside R with self_reward_weight=auto",
        ge=1e-6,
        le=LARGEST_WEIGHT,
        default=1.0,
    )
    query_gate: Literal["none", "legal"] = setting(
        "legal: a query that this world has no answers to is not played; see invalid_query",
        default="none",
    )
    earlier_challengers: float = setting(
        "the share of the queries that are asked by the reference or a checkpoint of this run, one"
        " a step; they bear no Challenger's loss",
        ge=0,
        le=1,
        default=0.0,
    )
    invalid_query: Literal["unplayed", "lowest", "penalty"] = setting(
        "what a query earns that cannot be played: unplayed, it bears no loss; lowest, as little as"
        " the worst that was played (R-Zero's); penalty, invalid_query_penalty less (Absolute"
        " Zero's)",
        default="unplayed",
    )
    invalid_query_penalty: float = setting(
        "see invalid_query", ge=1e-6, le=LARGEST_WEIGHT, default=1.0
    )
    log_quality: bool = setting("score and log R_Q at weight 0 too")
    divide_by_std: bool = setting(
        "divide the Solver's advantages by their group's standard deviation"
    )
    loss_aggregation: Literal["sum", "sequence_mean", "token_mean", "constant"] = setting(
        "how tokens are added up in a role's loss (lsp/losses.py); sum is the paper's"
    )
    mask_truncated_answers: bool = setting("answers cut at the limit bear no loss")

    def beta_of(self, role: str) -> float:
        """A role's KL coefficient."""
        own = self.challenger_beta if role == "challenger" else None
        return self.beta if own is None else own

    @property
    def trains_challenger(self) -> bool:
        return self.queries == "challenger" and self.challenger_weight > 0

    @property
    def fixed_weight(self) -> float | None:
        """w where it is a number from the start; None where the first play tells it."""
        return None if self.self_reward_weight == "auto" else self.self_reward_weight

    @property
    def rewards_quality(self) -> bool:
        return self.fixed_weight != 0

    @property
    def scores_quality(self) -> bool:
        return self.rewards_quality or self.log_quality

    @property
    def label(self) -> str:
        """The name these settings have in the paper (or as a control)."""
        if self.queries == "dataset":
            return "grpo"
        if self.challenger == "reference":
            return "frozen_challenger"
        if self.challenger_weight == 0:
            return "untrained_challenger"
        return "lsp" if self.rewards_quality else "lsp_zero"
