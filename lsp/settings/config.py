"""The settings of a run: frozen dataclasses (lsp/rules.py: what they demand of each other).

Hydra composes ``conf/`` into a tree; ``from_tree`` turns it into a ``Config``. What does not fit
raises one ``ConfigError`` with every problem, before anything heavy loads; nothing is repaired, so
the config that is logged is the config that ran. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lsp.prompts import Prompts
from lsp.schema import ConfigError, Problem, check_tree, consent, number

EXACT_KL_VOCABULARY = 8192
"""The largest vocabulary for ``kl_estimator=exact``, which keeps [tokens, V] distributions."""


@dataclass(frozen=True)
class InitConfig:
    """Where the policy (and so the reference) starts: the base, a run of a method, a checkpoint.

    A method's name takes the newest finished run of that method from the same base unless ``run``
    names one; ``checkpoint`` needs ``run``: a run's folder or id, a checkpoint's, a model
    folder, or the folder of a peft adapter of ``model.name``.
    """

    source: Literal["base", "grpo", "lsp", "lsp_zero", "checkpoint"]
    run: str | None


@dataclass(frozen=True)
class LoraSettings:
    """Adapters beside every linear layer but the head; ``rank`` 0 trains all weights instead. What
    they add is scaled by ``alpha`` / ``rank``."""

    rank: int = number(minimum=0)
    alpha: float = number(above=0)


@dataclass(frozen=True)
class ModelShape:
    """What a decoder's parameters are counted from (``lsp/shapes.py``), as its config.json says it.

    ``of``: the Hub id that has this shape; under another ``name`` it says nothing. ``head_size``:
    of one attention head. ``tied``: the vocabulary head is the embedding. ``qkv_bias``: queries,
    keys and values have biases (Qwen 2). ``qk_norm``: queries and keys are normed by head (Qwen 3).
    """

    of: str
    layers: int = number(minimum=1)
    hidden: int = number(minimum=1)
    intermediate: int = number(minimum=1)
    heads: int = number(minimum=1)
    kv_heads: int = number(minimum=1)
    head_size: int = number(minimum=1)
    vocabulary: int = number(minimum=1)
    tied: bool
    qkv_bias: bool
    qk_norm: bool


@dataclass(frozen=True)
class ModelConfig:
    """The base model. ``name``: ``pocket`` (the shipped one), a folder, or a Hub id. ``shape``: of
    a Hub's model, for the plan; a folder's config.json tells it itself.

    ``date_string`` pins the date that some chat templates insert (Llama 3.2's takes today's
    otherwise). ``trust_remote_code``: Python files that came with the model are run.
    """

    name: str
    revision: str | None
    trust_remote_code: bool = consent()
    dtype: Literal["float32", "bfloat16"]
    date_string: str | None
    lora: LoraSettings
    shape: ModelShape | None = None


@dataclass(frozen=True)
class MethodConfig:
    """LSP, LSP-Zero, GRPO and the controls are values of these settings, nothing else.

    ``queries``: who asks. ``challenger``: which weights the asking Challenger has;
    ``reference`` never learns. ``beta``: KL coefficient. ``challenger_weight``: alpha_Ch, times
    all of L_Ch. ``self_reward_weight``: w in R + w R_Q and -V + w V_Q. ``log_quality`` scores
    and logs R_Q at weight 0 too.
    """

    queries: Literal["challenger", "dataset"]
    challenger: Literal["policy", "reference"]
    beta: float = number(minimum=0)
    kl_estimator: Literal["k1", "k2", "k3", "exact"]
    challenger_weight: float = number(minimum=0)
    challenger_reward: Literal["negative_value", "variance", "band"]
    self_reward_weight: float = number(minimum=0)
    log_quality: bool
    divide_by_std: bool
    loss_aggregation: Literal["sum", "sequence_mean", "token_mean", "constant"]
    mask_truncated_answers: bool

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


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, linear warm-up, then constant. ``micro_batch_tokens``: padded tokens a pass;
    ``gradient_checkpointing``: layers are computed again in the backward pass, less memory for one
    more forward pass. A step whose loss or gradient is not finite is skipped; ``max_skipped_steps``
    in a row end the run."""

    lr: float = number(above=0)
    warmup_steps: int = number(minimum=0)
    weight_decay: float = number(minimum=0)
    beta1: float = number(minimum=0)
    beta2: float = number(minimum=0)
    max_grad_norm: float = number(above=0)
    micro_batch_tokens: int = number(minimum=1)
    gradient_checkpointing: bool
    max_skipped_steps: int = number(minimum=1)


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of both roles; log-probabilities are taken at the same temperature.

    ``max_query_tokens`` must exceed the longest query one wants: a query cut there is not
    played. ``max_rows``: rows decoded at once; ``max_tokens``: columns of keys and values
    that they may take, prompts and completions. ``stop``: strings that end a completion, beside the
    end tokens. ``top_p`` below 1 leaves out unlikely tokens, which the loss does not know of.
    """

    stop: tuple[str, ...]
    temperature: float = number(above=0)
    top_p: float = number(above=0, maximum=1)
    max_new_tokens: int = number(minimum=1)
    max_query_tokens: int = number(minimum=1)
    max_rows: int = number(minimum=1)
    max_tokens: int = number(minimum=1)


@dataclass(frozen=True)
class SelfRewardConfig:
    """The reference judges quality: ``expected`` (digits renormalised, one forward pass) or
    ``generate`` (text of at most ``max_new_tokens``, parsed strictly). ``lsp_weight`` is the
    ``method.self_reward_weight`` of ``method=lsp`` in this world: R_Q is raw, 0..7, so how much
    of it balances R depends on the scale of R."""

    mode: Literal["expected", "generate"]
    max_new_tokens: int = number(minimum=1)
    lsp_weight: float = number(above=0)


@dataclass(frozen=True)
class CheckpointConfig:
    """Save every ``every`` steps (0: only at the end); keep the last ``keep`` and the best one by
    ``objective``."""

    every: int = number(minimum=0)
    keep: int = number(minimum=1)


@dataclass(frozen=True)
class CollapseConfig:
    """Limits of moving means over ``window`` steps; crossing one raises an alarm, once.

    A query is a near duplicate where its estimated Jaccard similarity (character 4-grams) to one
    of the last ``memory`` queries of earlier steps is at least ``similarity``. Reward hacking:
    quality falls by ``max_quality_drop`` (of 7) while a role's external reward gains more than
    ``min_reward_gain``.
    """

    window: int = number(minimum=1)
    memory: int = number(minimum=1)
    similarity: float = number(above=0)
    min_distinct_query_frac: float = number(minimum=0)
    max_near_duplicate_frac: float = number(minimum=0)
    min_played_query_frac: float = number(minimum=0)
    min_challenger_entropy: float = number(minimum=0)
    max_unparsed_frac: float = number(minimum=0)
    max_unasked_code_frac: float = number(minimum=0)
    max_quality_drop: float = number(above=0)
    min_reward_gain: float = number(minimum=0)


@dataclass(frozen=True)
class RuntimeConfig:
    """``threads``: torch's, null for its own choice. Bits are promised per thread count."""

    device: str
    threads: int | None = number(minimum=1)


@dataclass(frozen=True)
class HardwareConfig:
    """What a run is planned for, and how its processes share the work.

    ``gpu``: the card that hours are estimated for; ``gpu_memory_gb``: a plan that needs more on one
    GPU is refused; ``gpus``: how many processes there are to be, null for as many as torchrun
    starts. ``parallel``: ``ddp`` holds whole weights in
    each process, ``fsdp`` shards the decoder's layers (FSDP2). ``offload``: reference and reward
    model leave the GPU while they have nothing to do.
    """

    gpu: str | None
    gpu_memory_gb: float | None = number(above=0)
    gpus: int | None = number(minimum=1)
    parallel: Literal["ddp", "fsdp"]
    offload: bool


@dataclass(frozen=True)
class Config:
    """Everything that a run is made of."""

    num_steps: int = number(minimum=1)
    num_queries: int = number(minimum=1)
    group_size: int = number(minimum=1)
    seed: int = number(minimum=0, maximum=2**32 - 1)
    run_dir: str | None
    run_name: str | None
    runs_root: str
    resume: str | None
    dry_run: bool
    objective: str | None
    objective_goal: Literal["max", "min"]
    world: str
    method: MethodConfig
    init: InitConfig
    model: ModelConfig
    prompts: Prompts
    data: Any = field(metadata={"component": True})
    reward: Any = field(metadata={"component": True})
    self_reward: SelfRewardConfig
    rollout: RolloutConfig
    optim: OptimConfig
    eval: Any = field(metadata={"component": True, "optional": True})
    tracker: Any = field(metadata={"component": True})
    collapse: CollapseConfig
    on_collapse: Literal["warn", "stop"]
    checkpoint: CheckpointConfig
    runtime: RuntimeConfig
    hardware: HardwareConfig

    def cross_checks(self) -> list[Problem]:
        """Rules that need more than one setting (``lsp.rules``)."""
        from lsp.rules import cross_checks

        return cross_checks(self)


def from_tree(tree: Mapping[str, Any], trusted: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """A composed, resolved tree -> Config, or one ConfigError with every problem.

    ``trusted``: dotted key -> value of what the user wrote on the command line.
    """
    config, problems = check_tree(Config, tree, trusted)
    if config is None:
        raise ConfigError(problems)
    return config


def local_model_folder(name: str) -> Path | None:
    """The folder that a model name means on this machine, or None for a Hub id.

    ``pocket`` is the shipped base. A name that starts with a dot, slash or tilde, or that is a
    folder here, is a path.
    """
    if name == "pocket":
        return Path(__file__).parent / "pocket" / "base"
    path = Path(name).expanduser()
    return path if path.is_dir() or name.startswith((".", "/", "~")) else None
