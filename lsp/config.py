"""The settings of a run: frozen dataclasses, and the rules that need more than one of them.

Hydra composes ``conf/`` into a tree; ``from_tree`` turns it into a ``Config``. What does not fit
raises one ``ConfigError`` with every problem, before anything heavy loads; nothing is repaired, so
the config that is logged is the config that ran. This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lsp.cards import CARDS
from lsp.prompts import Prompts
from lsp.schema import ConfigError, Problem, check_tree, consent, flat, number
from lsp.scrub import scrub

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
        """Rules that need more than one setting."""
        return _cross_checks(self)


def from_tree(tree: Mapping[str, Any], trusted: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """A composed, resolved tree -> Config, or one ConfigError with every problem.

    ``trusted``: dotted key -> value of what the user wrote on the command line.
    """
    config, problems = check_tree(Config, tree, trusted)
    if config is None:
        raise ConfigError(problems)
    return config


def _cross_checks(config: Config) -> list[Problem]:
    """Rules that need more than one setting."""
    problems: list[Problem] = []
    method = config.method

    def problem(key: str, value: Any, reason: str, fix: str) -> None:
        problems.append(Problem(key, value, reason, fix))

    if config.group_size < 2:
        problem(
            "group_size",
            config.group_size,
            "an answer is rewarded against the mean of its group, so one answer learns nothing",
            "choose group_size=2 or more",
        )
    if method.trains_challenger and config.num_queries < 2:
        problem(
            "num_queries",
            config.num_queries,
            "the Challenger is rewarded against the mean over the step's queries",
            "choose num_queries=2 or more, or method.challenger_weight=0",
        )
    if method.challenger == "reference" and method.challenger_weight > 0:
        problem(
            "method.challenger_weight",
            method.challenger_weight,
            "the frozen reference writes the queries, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.challenger=policy",
        )
    if method.queries == "dataset" and method.challenger_weight > 0:
        problem(
            "method.challenger_weight",
            method.challenger_weight,
            "the queries come from a data set, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.queries=challenger",
        )
    bounded = getattr(config.reward, "range", None)
    if method.challenger_reward != "negative_value" and bounded is None:
        problem(
            "method.challenger_reward",
            method.challenger_reward,
            "needs a reward with a known range, and this one has none",
            "choose method.challenger_reward=negative_value",
        )
    if config.optim.beta1 >= 1 or config.optim.beta2 >= 1:
        problem(
            "optim.beta1, optim.beta2",
            f"{config.optim.beta1}, {config.optim.beta2}",
            "AdamW's decay rates lie below 1",
            "choose for instance 0.9 and 0.95",
        )
    if config.init.source == "checkpoint" and config.init.run is None:
        problem(
            "init.run",
            None,
            "init=checkpoint does not say which",
            "give init.run=<run folder, run id or model folder>",
        )
    if config.init.source == "base" and config.init.run is not None:
        problem(
            "init.run",
            config.init.run,
            "init=base starts from model.name and reads no run",
            "say init=checkpoint (or init=grpo) with it",
        )
    if config.hardware.parallel == "fsdp" and config.model.lora.rank:
        problem(
            "hardware.parallel",
            "fsdp",
            "shards what is trained, and under LoRA that is small adapters beside whole weights",
            "choose hardware.parallel=ddp, or model.lora.rank=0",
        )
    device = config.runtime.device
    if device != "auto" and device != "cpu" and not device.startswith("cuda"):
        problem("runtime.device", device, "is no device", "choose auto, cpu or cuda")
    card = config.hardware.gpu
    if card is not None and card not in CARDS:
        fix = f"choose one of {', '.join(CARDS)}, or null"
        problem("hardware.gpu", card, "is no card of lsp/cards.py", fix)
    if config.model.name == "pocket" and config.world == "paper":
        problem(
            "model.name",
            "pocket",
            "the pocket model was schooled on the pocket world's prompts alone",
            "choose another model, or world=pocket",
        )
    for key, value in flat(config).items():
        if isinstance(value, str) and scrub(value) != value:
            fix = "keys come from environment variables, never from settings"
            problem(key, scrub(value), "holds what looks like a secret", fix)
    try:
        config.prompts.challenger_messages()
    except ValueError as error:
        problem("prompts.challenger", None, str(error), "use {task} and {template} alone")
    problems += _model_problems(config)
    for key, component in (("data", config.data), ("reward", config.reward), ("eval", config.eval)):
        for reason, fix in getattr(component, "problems", lambda c: [])(config):
            problem(key, None, reason, fix)
    return problems


def _model_problems(config: Config) -> list[Problem]:
    """What a local model's config.json already tells; a Hub's is seen when it loads."""
    name = config.model.name
    folder = local_model_folder(name)
    if folder is None:
        return []
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = told["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        fix = "give a folder written by save_pretrained, a Hub id, or model.name=pocket"
        return [Problem("model.name", name, "there is no model in that folder", fix)]
    problems = []
    context = told.get("max_position_embeddings")
    for key in ("max_new_tokens", "max_query_tokens"):
        value = getattr(config.rollout, key)
        if context is not None and value >= context:
            fix = f"choose less than {context}, prompts included"
            reason = f"the {kind} model has a context of {context} tokens"
            problems.append(Problem(f"rollout.{key}", value, reason, fix))
    vocabulary = told.get("vocab_size", 0)
    if config.method.kl_estimator == "exact" and vocabulary > EXACT_KL_VOCABULARY:
        reason = f"keeps whole distributions over {vocabulary:,} tokens, and is for at most"
        reason += f" {EXACT_KL_VOCABULARY:,}"
        fix = "choose k2, whose expected gradient is the same"
        problems.append(Problem("method.kl_estimator", "exact", reason, fix))
    return problems


def warnings(config: Config) -> list[str]:
    """What is allowed and probably not meant."""
    found = []
    if config.rollout.top_p < 1:
        found.append(
            "rollout.top_p below 1: what is sampled is not what the loss takes log-probabilities"
            " of, so updates are off-policy; 1 is meant for training"
        )
    if config.method.kl_estimator == "k1" and config.method.beta > 0:
        found.append(
            "method.kl_estimator=k1: its expected gradient is zero on-policy, since"
            " E[grad log pi] = 0; it adds noise and holds nothing back. k2 is the penalty meant"
        )
    return found


def local_model_folder(name: str) -> Path | None:
    """The folder that a model name means on this machine, or None for a Hub id.

    ``pocket`` is the shipped base. A name that starts with a dot, slash or tilde, or that is a
    folder here, is a path.
    """
    if name == "pocket":
        return Path(__file__).parent / "pocket" / "base"
    path = Path(name).expanduser()
    return path if path.is_dir() or name.startswith((".", "/", "~")) else None
