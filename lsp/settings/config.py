"""The settings of a run: a tree composed from conf/ goes in, a ``Config`` comes out.

What settings demand of each other is in lsp/settings/rules.py; docs/settings.md is generated from
the descriptions below. Every number has a least and a largest value, both far beyond what anybody
means: they catch slips of the hand (``1e9`` for ``1e-9``). This module imports no torch.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from lsp.contracts import (
    EngineSettings,
    EvaluatorSettings,
    QueriesSettings,
    RewardSettings,
    SelfJudgeSettings,
    TrackerSettings,
    World,
)
from lsp.settings.method import MethodConfig
from lsp.settings.prompts import Prompts
from lsp.settings.schema import PLUGGABLE, Consent, Plain, setting, settings

EXACT_KL_VOCABULARY = 8192
"""The largest vocabulary for ``kl_estimator=exact``, which keeps [tokens, V] distributions."""

MANY = 10_000_000
"""More steps than any run has: at a second each, four months."""

TINY_LR = 1e-12
"""fp32 keeps 7 digits, so that a step of it moves no weight above 1e-5."""


@settings
class InitConfig:
    """Where the policy (and so the reference) starts."""

    source: Literal["base", "grpo", "lsp", "lsp_zero", "checkpoint"] = setting(
        "base; the newest finished run of a method from the same base; or checkpoint"
    )
    run: str | None = setting(
        "a run's folder or id, a checkpoint's, a model's, or that of a peft adapter of"
        " model.name; null: see source"
    )


@settings
class LoraSettings:
    """Adapters beside every linear layer but the vocabulary head."""

    rank: int = setting("0 trains all weights instead", ge=0, le=65_536)
    alpha: float = setting("what adapters add is scaled by alpha / rank", ge=1e-3, le=1e6)


@settings
class ModelShape:
    """What a decoder's parameters are counted from, as its config.json has it."""

    of: str = setting("the Hub id that has this shape; under another name it says nothing")
    layers: int = setting("decoder layers", ge=1, le=10_000)
    hidden: int = setting("width of the hidden states", ge=1, le=2**20)
    intermediate: int = setting("width of the MLP", ge=1, le=2**24)
    heads: int = setting("attention heads", ge=1, le=65_536)
    kv_heads: int = setting("heads of keys and values", ge=1, le=65_536)
    head_size: int = setting("numbers of one attention head", ge=1, le=65_536)
    vocabulary: int = setting("tokens", ge=1, le=2**24)
    tied: bool = setting("the vocabulary head is the embedding")
    qkv_bias: bool = setting("queries, keys and values have biases (Qwen 2)")
    qk_norm: bool = setting("queries and keys are normed by head (Qwen 3)")


@settings
class ModelConfig:
    """The base model."""

    name: str = setting("pocket (the shipped one), a folder, or a Hub id")
    revision: str | None = setting("branch, tag or commit of a Hub id; null: main")
    trust_remote_code: Consent = setting("run Python files that came with the model")
    dtype: Literal["float32", "bfloat16"] = setting(
        "that models compute in; what is trained is fp32 beneath"
    )
    date_string: str | None = setting(
        "the day that chat templates are told; null: their own, 26 Jul 2024 where they ask a clock"
    )
    template_kwargs: Plain = setting(
        "what its chat template is told beside the conversation, enable_thinking say",
        default_factory=dict,
    )
    lora: LoraSettings = setting("adapters instead of all weights")
    shape: ModelShape | None = setting(
        "of a Hub's model, for the plan; a folder's config.json tells it", default=None
    )


@settings
class OptimConfig:
    """AdamW with a linear warm-up, then a constant rate."""

    lr: float = setting("learning rate after the warm-up", ge=TINY_LR, le=10)
    warmup_steps: int = setting("steps until the rate is lr", ge=0, le=MANY)
    weight_decay: float = setting("AdamW's", ge=0, le=10)
    beta1: float = setting("decay rate of the first moment", ge=0, lt=1)
    beta2: float = setting("decay rate of the second moment", ge=0, lt=1)
    max_grad_norm: float = setting("longer gradients are shortened to it", ge=1e-6, le=1e9)
    micro_batch_tokens: int = setting(
        "padded tokens in one forward and backward pass", ge=1, le=2**30
    )
    gradient_checkpointing: bool = setting(
        "compute layers again in the backward pass: less memory, one more forward pass"
    )
    max_skipped_steps: int = setting(
        "steps in a row without a finite gradient that end the run", ge=1, le=MANY
    )
    role_gradients_every: int = setting(
        "steps between measurements of each role's gradient norm and of their cosine,"
        " which cost a second gradient buffer; 0: off",
        ge=0,
        le=MANY,
    )


@settings
class LossConfig:
    """What the loss (lsp/losses.py) does beside what a method is."""

    rollout_correction: Literal["none", "token", "sequence"] | None = setting(
        "truncated importance weights for what another program sampled, of a token or its whole"
        " completion; null: token, and none where the engine computes with the trainer's weights",
        default=None,
    )
    rollout_correction_cap: float = setting(
        "C: larger weights are cut to it", ge=1, le=1e6, default=2.0
    )


@settings
class RolloutConfig:
    """Sampling of both roles; log-probabilities are taken at the same temperature."""

    engine: Annotated[EngineSettings, PLUGGABLE] = setting("what writes completions")
    url: tuple[str, ...] | str = setting(
        "the server that rollout.engine=vllm asks, http://host:port, or several, [<url>,<url>],"
        " which share the rows",
        default=(),
    )
    stop: tuple[str, ...] = setting("strings that end a completion, beside the end tokens")
    temperature: float = setting("of both roles; 1 samples from the model itself", ge=0.01, le=100)
    query_temperature: float | None = setting(
        "of the Challenger, in its loss too; null: temperature", ge=0.01, le=100, default=None
    )
    top_p: float = setting(
        "below 1 unlikely tokens are left out, which the loss does not know", ge=0.01, le=1
    )
    max_new_tokens: int = setting("of an answer", ge=1, le=2**20)
    max_query_tokens: int = setting(
        "of a query; one that is cut there is not played", ge=1, le=2**20
    )
    max_rows: int = setting("rows decoded at once", ge=1, le=2**20)
    max_tokens: int = setting(
        "columns of keys and values that these rows may take in all", ge=1, le=2**36
    )
    lag: int = setting(
        "1: servers write a step's rows while the one before it is scored and learnt from, so by"
        " weights one update older",
        ge=0,
        le=1,
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers that write completions, without slashes at their ends."""
        urls = (self.url,) if isinstance(self.url, str) else self.url
        return tuple(url.rstrip("/") for url in urls)

    def temperature_of(self, role: str) -> float:
        """What a role samples at, and its log-probabilities are taken at."""
        own = self.query_temperature if role == "challenger" else None
        return self.temperature if own is None else own


@settings
class CheckpointConfig:
    """When the model and the optimizer's state are saved."""

    every: int = setting("steps between checkpoints; 0: only at the end", ge=0, le=MANY)
    keep: int = setting("the last so many are kept, and the best one by objective", ge=1, le=MANY)


@settings
class CollapseConfig:
    """Limits of moving means; crossing one raises an alarm, once."""

    window: int = setting("steps that a moving mean is taken over", ge=1, le=MANY)
    memory: int = setting("queries remembered, 128 bytes each", ge=1, le=2**24)
    similarity: float = setting(
        "Jaccard similarity (character 4-grams) that makes a near duplicate", ge=0.01, le=1
    )
    min_distinct_query_frac: float = setting("different texts among a step's queries", ge=0, le=1)
    max_near_duplicate_frac: float = setting(
        "queries that resemble one of an earlier step", ge=0, le=1
    )
    max_largest_kind_frac: float = setting(
        "legal queries of the most frequent kind, where the world has kinds (families)",
        ge=0,
        le=1,
        default=0.75,
    )
    min_played_query_frac: float = setting("queries that could be played", ge=0, le=1)
    # The uniform distribution over 2^24 tokens has 16.6.
    min_challenger_entropy: float = setting("nats a token", ge=0, le=20)
    max_unparsed_frac: float = setting("self-scores that could not be read", ge=0, le=1)
    max_unasked_code_frac: float = setting(
        "answers that look like code, to queries that ask for none", ge=0, le=1
    )
    max_answer_repetition: float = setting(
        "repeated runs of three words within an answer", ge=0, le=1, default=0.3
    )
    max_quality_drop: float = setting(
        "of R_Q, while a role's reward gains more than min_reward_gain", ge=1e-6, le=1e6
    )
    min_reward_gain: float = setting("see max_quality_drop: reward hacking", ge=0, le=1e6)


@settings
class RuntimeConfig:
    """Where models compute."""

    device: str = setting("auto (cuda where there is one, else cpu), cpu, cuda, cuda:1")
    threads: int | None = setting(
        "torch's; null: its own choice. The same bits need the same number",
        ge=1,
        le=1024,  # libgomp ends the process where the machine starts no more of them
    )


@settings
class HardwareConfig:
    """What a run is planned for, and how its processes share the work."""

    gpu: str | None = setting("a name in lsp/settings/gpus.py, for the plan's hours")
    gpu_memory_gb: float | None = setting(
        "a plan that needs more on one GPU is refused; null: no limit", ge=0.001, le=1e5
    )
    tokens_per_second: float | None = setting(
        "tokens a second that a process on this machine's CPU decodes with this model, as `python"
        " -m lsp.preflight` measures; the plan's hours follow from it; null: not known",
        ge=0.001,
        le=1e9,
        default=None,
    )
    gpus: int | None = setting(
        "processes that there are to be; null: as many as are started", ge=1, le=65_536
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "whole weights in each process (DDP), or sharded over GPUs (FSDP2)"
    )
    offload: bool = setting(
        "reference and reward model leave the GPU while they have nothing to do"
    )


@settings
class Config:
    """Everything that a run is made of."""

    num_steps: int = setting("updates", ge=1, le=MANY)
    num_queries: int = setting("N: queries a step", ge=1, le=65_536)
    group_size: int = setting("G: answers to each query", ge=1, le=65_536)
    seed: int = setting("of everything that is drawn", ge=0, le=2**32 - 1)
    run_dir: str | None = setting("the run's folder; null: <runs_root>/<run id>")
    run_name: str | None = setting("shown in W&B; null: method, init, beta, weight, seed")
    runs_root: str = setting("where runs go, and where init=grpo and resume look for them")
    resume: str | None = setting(
        "a run's folder or id to go on with from its last checkpoint; auto: that of"
        " run_dir, where there is one"
    )
    accept_gap: bool = setting(
        "with resume: go on although part of the record is damaged or lost", default=False
    )
    dry_run: bool = setting("print the plan, check all that a start checks, and stop")
    objective: str | None = setting("the metric that a sweeper gets and `best` goes by")
    objective_goal: Literal["max", "min"] = setting("which value of it is the best")
    world: Annotated[World, PLUGGABLE] = setting("what is known of this world's queries")
    method: MethodConfig = setting("who asks, and what is learnt from")
    init: InitConfig = setting("where the policy starts")
    model: ModelConfig = setting("the base model")
    prompts: Prompts = setting("the words of the roles")
    data: Annotated[QueriesSettings, PLUGGABLE] = setting("the queries of method.queries=dataset")
    reward: Annotated[RewardSettings, PLUGGABLE] = setting("the external reward R")
    self_reward: Annotated[SelfJudgeSettings, PLUGGABLE] = setting("the quality self-reward R_Q")
    rollout: RolloutConfig = setting("sampling of both roles")
    loss: LossConfig = setting("of what the engine wrote", default_factory=LossConfig)
    optim: OptimConfig = setting("the optimizer and its steps")
    eval: Annotated[EvaluatorSettings | None, PLUGGABLE] = setting(
        "what is measured on the way and at the end; null: nothing"
    )
    tracker: Annotated[TrackerSettings, PLUGGABLE] = setting(
        "where a run is tracked beside its folder"
    )
    collapse: CollapseConfig = setting("limits that raise alarms")
    on_collapse: Literal["warn", "stop"] = setting("what an alarm does")
    checkpoint: CheckpointConfig = setting("when the run is saved")
    runtime: RuntimeConfig = setting("where models compute")
    hardware: HardwareConfig = setting("what it is planned for, and sharded over")

    @property
    def rollout_correction(self) -> str:
        """``loss.rollout_correction``, where null is told by the engine."""
        own = self.loss.rollout_correction
        return own or ("none" if self.rollout.engine.in_process else "token")


def local_model_folder(name: str) -> Path | None:
    """The folder that a model name means on this machine, or None for a Hub id.

    ``pocket`` is the shipped base. A name that starts with a dot, slash or tilde, or that is a
    folder here, is a path.
    """
    if name == "pocket":
        return Path(__file__).parents[1] / "pocket" / "base"
    path = Path(os.path.expanduser(name))  # pathlib's raises where there is no such user
    return path if path.is_dir() or name.startswith((".", "/", "~")) else None


NO_MODEL = "is neither a folder here nor a Hub id"
"""Of a name that no model can have."""


def may_be_hub_id(name: str) -> bool:
    from huggingface_hub import errors  # which loads no torch
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True
