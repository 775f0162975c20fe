"""The settings of a run: a tree composed from conf/ goes in, a ``Config`` comes out.

What settings demand of each other is in lsp/settings/rules.py; docs/settings.md is generated from
the descriptions below. Upper limits are far above what anybody means: they catch slips of the hand.
This module imports no torch.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lsp.contracts import (
    EngineSettings,
    EvaluatorSettings,
    QueriesSettings,
    RewardSettings,
    SelfJudgeSettings,
    TrackerSettings,
    World,
)
from lsp.settings.prompts import Prompts
from lsp.settings.schema import PLUGGABLE, Consent, settings

EXACT_KL_VOCABULARY = 8192
"""The largest vocabulary for ``kl_estimator=exact``, which keeps [tokens, V] distributions."""

MANY = 10_000_000
"""More steps than any run has."""


@settings
class InitConfig:
    """Where the policy (and so the reference) starts."""

    source: Literal["base", "grpo", "lsp", "lsp_zero", "checkpoint"] = Field(
        description="base; the newest finished run of a method from the same base; or checkpoint"
    )
    run: str | None = Field(
        description="a run's folder or id, a checkpoint's, a model's, or that of a peft adapter of"
        " model.name; null: see source"
    )


@settings
class LoraSettings:
    """Adapters beside every linear layer but the vocabulary head."""

    rank: int = Field(ge=0, le=65_536, description="0 trains all weights instead")
    alpha: float = Field(gt=0, le=1e6, description="what adapters add is scaled by alpha / rank")


@settings
class ModelShape:
    """What a decoder's parameters are counted from, as its config.json has it."""

    of: str = Field(
        description="the Hub id that has this shape; under another name it says nothing"
    )
    layers: int = Field(ge=1, le=10_000, description="decoder layers")
    hidden: int = Field(ge=1, le=2**20, description="width of the hidden states")
    intermediate: int = Field(ge=1, le=2**24, description="width of the MLP")
    heads: int = Field(ge=1, le=65_536, description="attention heads")
    kv_heads: int = Field(ge=1, le=65_536, description="heads of keys and values")
    head_size: int = Field(ge=1, le=65_536, description="numbers of one attention head")
    vocabulary: int = Field(ge=1, le=2**24, description="tokens")
    tied: bool = Field(description="the vocabulary head is the embedding")
    qkv_bias: bool = Field(description="queries, keys and values have biases (Qwen 2)")
    qk_norm: bool = Field(description="queries and keys are normed by head (Qwen 3)")


@settings
class ModelConfig:
    """The base model."""

    name: str = Field(description="pocket (the shipped one), a folder, or a Hub id")
    revision: str | None = Field(description="branch, tag or commit of a Hub id; null: main")
    trust_remote_code: Consent = Field(description="run Python files that came with the model")
    dtype: Literal["float32", "bfloat16"] = Field(
        description="of the weights; bfloat16 ones are trained through masters in fp32"
    )
    date_string: str | None = Field(
        description="pins the date that some chat templates insert; null: the template's own"
    )
    lora: LoraSettings = Field(description="adapters instead of all weights")
    shape: ModelShape | None = Field(
        default=None, description="of a Hub's model, for the plan; a folder's config.json tells it"
    )


@settings
class MethodConfig:
    """LSP, LSP-Zero, GRPO and the controls are values of these settings, nothing else."""

    queries: Literal["challenger", "dataset"] = Field(description="who asks")
    challenger: Literal["policy", "reference"] = Field(
        description="which weights the asking Challenger has; the reference never learns"
    )
    beta: float = Field(ge=0, le=1e6, description="KL coefficient of both roles")
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = Field(
        description="how the KL to the reference is estimated (lsp/losses.py); k2 is the penalty"
    )
    challenger_weight: float = Field(
        ge=0, le=1e6, description="alpha_Ch, times all of the Challenger's loss; 0: not trained"
    )
    challenger_reward: Literal["negative_value", "variance", "band"] = Field(
        description="what a query earns beside w V_Q (lsp/game.py); negative_value is the paper's"
    )
    self_reward_weight: float = Field(
        ge=0, le=1e6, description="w in R + w R_Q and -V + w V_Q; 0 is LSP-Zero"
    )
    log_quality: bool = Field(description="score and log R_Q at weight 0 too")
    divide_by_std: bool = Field(
        description="divide the Solver's advantages by their group's standard deviation"
    )
    loss_aggregation: Literal["sum", "sequence_mean", "token_mean", "constant"] = Field(
        description="how tokens are added up in a role's loss (lsp/losses.py); sum is the paper's"
    )
    mask_truncated_answers: bool = Field(description="answers cut at the limit bear no loss")

    @property
    def trains_challenger(self) -> bool:
        return self.queries == "challenger" and self.challenger_weight > 0

    @property
    def scores_quality(self) -> bool:
        return self.self_reward_weight > 0 or self.log_quality

    @property
    def label(self) -> str:
        """The name these settings have in the paper (or as a control)."""
        if self.queries == "dataset":
            return "grpo"
        if self.challenger == "reference":
            return "frozen_challenger"
        if self.challenger_weight == 0:
            return "untrained_challenger"
        return "lsp" if self.self_reward_weight > 0 else "lsp_zero"


@settings
class OptimConfig:
    """AdamW with a linear warm-up, then a constant rate."""

    lr: float = Field(gt=0, le=10, description="learning rate after the warm-up")
    warmup_steps: int = Field(ge=0, le=MANY, description="steps until the rate is lr")
    weight_decay: float = Field(ge=0, le=10, description="AdamW's")
    beta1: float = Field(ge=0, lt=1, description="decay rate of the first moment")
    beta2: float = Field(ge=0, lt=1, description="decay rate of the second moment")
    max_grad_norm: float = Field(gt=0, le=1e9, description="longer gradients are shortened to it")
    micro_batch_tokens: int = Field(
        ge=1, le=2**30, description="padded tokens in one forward and backward pass"
    )
    gradient_checkpointing: bool = Field(
        description="compute layers again in the backward pass: less memory, one more forward pass"
    )
    max_skipped_steps: int = Field(
        ge=1, le=MANY, description="steps in a row without a finite gradient that end the run"
    )
    role_gradients_every: int = Field(
        ge=0,
        le=MANY,
        description="steps between measurements of each role's gradient norm and of their cosine,"
        " which cost a second gradient buffer; 0: off",
    )


@settings
class RolloutConfig:
    """Sampling of both roles; log-probabilities are taken at the same temperature."""

    engine: Annotated[EngineSettings, PLUGGABLE] = Field(description="what writes completions")
    stop: tuple[str, ...] = Field(
        description="strings that end a completion, beside the end tokens"
    )
    temperature: float = Field(
        ge=0.01, le=100, description="of both roles; 1 samples from the model itself"
    )
    top_p: float = Field(
        ge=0.01,
        le=1,
        description="below 1 unlikely tokens are left out, which the loss does not know",
    )
    max_new_tokens: int = Field(ge=1, le=2**20, description="of an answer")
    max_query_tokens: int = Field(
        ge=1, le=2**20, description="of a query; one that is cut there is not played"
    )
    max_rows: int = Field(ge=1, le=2**20, description="rows decoded at once")
    max_tokens: int = Field(
        ge=1, le=2**36, description="columns of keys and values that these rows may take in all"
    )


@settings
class CheckpointConfig:
    """When the model and the optimizer's state are saved."""

    every: int = Field(ge=0, le=MANY, description="steps between checkpoints; 0: only at the end")
    keep: int = Field(
        ge=1, le=MANY, description="the last so many are kept, and the best one by objective"
    )


@settings
class CollapseConfig:
    """Limits of moving means; crossing one raises an alarm, once."""

    window: int = Field(ge=1, le=MANY, description="steps that a moving mean is taken over")
    memory: int = Field(ge=1, le=2**24, description="queries remembered, 128 bytes each")
    similarity: float = Field(
        gt=0, le=1, description="Jaccard similarity (character 4-grams) that makes a near duplicate"
    )
    min_distinct_query_frac: float = Field(
        ge=0, le=1, description="different texts among a step's queries"
    )
    max_near_duplicate_frac: float = Field(
        ge=0, le=1, description="queries that resemble one of an earlier step"
    )
    min_played_query_frac: float = Field(ge=0, le=1, description="queries that could be played")
    min_challenger_entropy: float = Field(ge=0, le=100, description="nats a token")
    max_unparsed_frac: float = Field(ge=0, le=1, description="self-scores that could not be read")
    max_unasked_code_frac: float = Field(
        ge=0, le=1, description="answers that look like code, to queries that ask for none"
    )
    max_quality_drop: float = Field(
        gt=0, le=1e6, description="of R_Q, while a role's reward gains more than min_reward_gain"
    )
    min_reward_gain: float = Field(ge=0, le=1e6, description="see max_quality_drop: reward hacking")


@settings
class RuntimeConfig:
    """Where models compute."""

    device: str = Field(description="auto (cuda where there is one, else cpu), cpu, cuda, cuda:1")
    threads: int | None = Field(
        ge=1,
        le=1024,
        description="torch's; null: its own choice. The same bits need the same number",
    )


@settings
class HardwareConfig:
    """What a run is planned for, and how its processes share the work."""

    gpu: str | None = Field(description="a name in lsp/settings/gpus.py, for the plan's hours")
    gpu_memory_gb: float | None = Field(
        gt=0, le=1e5, description="a plan that needs more on one GPU is refused; null: no limit"
    )
    gpus: int | None = Field(
        ge=1, le=65_536, description="processes that there are to be; null: as many as are started"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        description="whole weights in each process, or the decoder's layers sharded (FSDP2)"
    )
    offload: bool = Field(
        description="reference and reward model leave the GPU while they have nothing to do"
    )


@settings
class Config:
    """Everything that a run is made of."""

    num_steps: int = Field(ge=1, le=MANY, description="updates")
    num_queries: int = Field(ge=1, le=65_536, description="N: queries a step")
    group_size: int = Field(ge=1, le=65_536, description="G: answers to each query")
    seed: int = Field(ge=0, le=2**32 - 1, description="of everything that is drawn")
    run_dir: str | None = Field(description="the run's folder; null: <runs_root>/<run id>")
    run_name: str | None = Field(description="shown in W&B; null: method, init, beta, weight, seed")
    runs_root: str = Field(
        description="where runs go, and where init=grpo and resume look for them"
    )
    resume: str | None = Field(
        description="a run's folder or id to go on with from its last checkpoint; auto: that of"
        " run_dir, where there is one"
    )
    dry_run: bool = Field(description="print the plan and stop")
    objective: str | None = Field(description="the metric that a sweeper gets and `best` goes by")
    objective_goal: Literal["max", "min"] = Field(description="which value of it is the best")
    world: Annotated[World, PLUGGABLE] = Field(description="what is known of this world's queries")
    method: MethodConfig = Field(description="who asks, and what is learnt from")
    init: InitConfig = Field(description="where the policy starts")
    model: ModelConfig = Field(description="the base model")
    prompts: Prompts = Field(description="the words of the roles")
    data: Annotated[QueriesSettings, PLUGGABLE] = Field(
        description="the queries of method.queries=dataset"
    )
    reward: Annotated[RewardSettings, PLUGGABLE] = Field(description="the external reward R")
    self_reward: Annotated[SelfJudgeSettings, PLUGGABLE] = Field(
        description="the quality self-reward R_Q"
    )
    rollout: RolloutConfig = Field(description="sampling of both roles")
    optim: OptimConfig = Field(description="the optimizer and its steps")
    eval: Annotated[EvaluatorSettings | None, PLUGGABLE] = Field(
        description="what is measured on the way and at the end; null: nothing"
    )
    tracker: Annotated[TrackerSettings, PLUGGABLE] = Field(
        description="where a run is tracked beside its folder"
    )
    collapse: CollapseConfig = Field(description="limits that raise alarms")
    on_collapse: Literal["warn", "stop"] = Field(description="what an alarm does")
    checkpoint: CheckpointConfig = Field(description="when the run is saved")
    runtime: RuntimeConfig = Field(description="where models compute")
    hardware: HardwareConfig = Field(description="what it is planned for, and sharded over")


def local_model_folder(name: str) -> Path | None:
    """The folder that a model name means on this machine, or None for a Hub id.

    ``pocket`` is the shipped base. A name that starts with a dot, slash or tilde, or that is a
    folder here, is a path.
    """
    if name == "pocket":
        return Path(__file__).parents[1] / "pocket" / "base"
    path = Path(name).expanduser()
    return path if path.is_dir() or name.startswith((".", "/", "~")) else None
