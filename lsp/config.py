"""Settings: frozen dataclasses, and every mistake in one report before anything heavy loads.

Hydra composes ``conf/`` into a tree; ``from_tree`` turns it into a ``Config``. What does not
fit raises one ``ConfigError`` that lists every problem: key, value, reason, way out. Nothing is
repaired, so the config that is logged is the config that ran. This module imports no torch.

Components (``data``, ``reward``, ``eval``, ``tracker``) are nodes with a ``_target_``: the
dotted path of a frozen dataclass whose fields are the node's schema and whose ``build()`` makes
the heavy object after validation. Adding one is one file and one yaml. Config files may only
name targets under ``lsp.`` and ``eval.``; another path must stand on the command line, so that
a config from elsewhere runs no code.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lsp.prompts import Prompts
from lsp.scrub import scrub

TRUSTED_TARGETS = ("lsp.", "eval.")


@dataclass(frozen=True)
class Problem:
    """One mistake in the settings. ``fix`` is what to write instead."""

    key: str
    value: Any
    reason: str
    fix: str

    def __str__(self) -> str:
        shown = "" if self.value is None or "=" in str(self.value) else f"={self.value}"
        return f"{self.key}{shown}: {self.reason}. {self.fix[:1].upper()}{self.fix[1:]}."


class ConfigError(ValueError):
    """All mistakes of one set of settings."""

    def __init__(self, problems: Collection[Problem]):
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{count} problem{'s' if count > 1 else ''} in the settings"
        super().__init__("\n".join([heading, *(f"  {problem}" for problem in self.problems)]))


def number(minimum: float | None = None, above: float | None = None, **more: Any) -> Any:
    """A numeric field and its range: at least ``minimum``, or strictly above ``above``."""
    return field(metadata={"minimum": minimum, "above": above, **more})


@dataclass(frozen=True)
class InitConfig:
    """Where the policy (and so the reference) starts: ``source=base|grpo|checkpoint``.

    ``grpo`` takes the newest finished GRPO run of the same base unless ``run`` names one;
    ``checkpoint`` needs ``run``: a run's folder or id, a checkpoint's, or a model folder.
    """

    source: Literal["base", "grpo", "checkpoint"]
    run: str | None


@dataclass(frozen=True)
class ModelConfig:
    """The base model. ``name``: ``pocket`` (the shipped one), a folder, or a Hub id.

    ``date_string`` pins the date that some chat templates insert (Llama 3.2's takes today's
    otherwise).
    """

    name: str
    revision: str | None
    dtype: Literal["float32", "bfloat16"]
    date_string: str | None


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
    """AdamW, linear warm-up, then constant. ``micro_batch_tokens``: padded tokens a pass. A step
    whose loss or gradient is not finite is skipped; ``max_skipped_steps`` in a row end the run."""

    lr: float = number(above=0)
    warmup_steps: int = number(minimum=0)
    weight_decay: float = number(minimum=0)
    beta1: float = number(minimum=0)
    beta2: float = number(minimum=0)
    max_grad_norm: float = number(above=0)
    micro_batch_tokens: int = number(minimum=1)
    max_skipped_steps: int = number(minimum=1)


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of both roles; log-probabilities are taken at the same temperature.

    ``max_query_tokens`` must exceed the longest query one wants: a query cut there is not
    played. ``max_rows``: rows decoded at once.
    """

    temperature: float = number(above=0)
    max_new_tokens: int = number(minimum=1)
    max_query_tokens: int = number(minimum=1)
    max_rows: int = number(minimum=1)


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
class Config:
    """Everything that a run is made of."""

    num_steps: int = number(minimum=1)
    num_queries: int = number(minimum=1)
    group_size: int = number(minimum=1)
    seed: int = number(minimum=0)
    run_dir: str | None
    run_name: str | None
    runs_root: str
    resume: str | None
    dry_run: bool
    objective: str | None
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

    def cross_checks(self) -> list[Problem]:
        """Rules that need more than one setting."""
        return _cross_checks(self)


def from_tree(tree: Mapping[str, Any], trusted: Collection[str] = ()) -> Config:
    """A composed, resolved tree -> Config, or one ConfigError with every problem.

    ``trusted``: targets outside this project that the user wrote on the command line.
    """
    config, problems = check_tree(tree, trusted)
    if config is None:
        raise ConfigError(problems)
    return config


def check_tree(
    tree: Mapping[str, Any], trusted: Collection[str] = (), kind: type = Config
) -> tuple[Any, list[Problem]]:
    """As ``from_tree``, for any settings class with ``cross_checks()``; gives the problems to a
    caller that has more to report, and None for the config where there are any."""
    problems: list[Problem] = []
    config = _convert(kind, tree, "", problems, trusted)
    if not problems:
        problems = config.cross_checks()
    return (None if problems else config), problems


def to_tree(value: Any) -> Any:
    """The inverse of ``from_tree``: plain dicts and lists, components with their ``_target_``."""
    if dataclasses.is_dataclass(value):
        tree = {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kind = type(value)
        own = {t for t in typing.get_type_hints(Config).values() if dataclasses.is_dataclass(t)}
        if kind is not Config and kind not in own:
            tree = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **tree}
        return tree
    if isinstance(value, tuple):
        return [to_tree(item) for item in value]
    return value


def flat(config: Config) -> dict[str, Any]:
    """Dotted key -> value, the form in which trackers and comparisons want a config."""

    def walk(prefix: str, node: Any) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        items: dict[str, Any] = {}
        for key, value in node.items():
            items |= walk(f"{prefix}.{key}" if prefix else key, value)
        return items

    return walk("", to_tree(config))


def _convert(
    kind: type, tree: Any, path: str, problems: list[Problem], trusted: Collection[str]
) -> Any:
    """One dataclass node; appends to ``problems`` and returns None where it does not fit."""
    before = len(problems)
    if not isinstance(tree, Mapping):
        problems.append(Problem(path, tree, "is one value", f"it is a group: {path}.<setting>=…"))
        return None
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key in tree:
        if key not in fields and key != "_target_":
            full = f"{path}.{key}" if path else str(key)
            problems.append(unknown_key(full, tree[key], [_join(path, name) for name in fields]))
    for name, spec in fields.items():
        full = _join(path, name)
        if name not in tree:
            has_default = spec.default is not dataclasses.MISSING
            if not has_default:
                problems.append(Problem(full, None, "is missing", f"give {full}=…"))
            continue
        if spec.metadata.get("component"):
            optional = spec.metadata.get("optional", False)
            values[name] = _component(tree[name], full, problems, trusted, optional)
        else:
            values[name] = _value(hints[name], tree[name], full, spec.metadata, problems, trusted)
    return kind(**values) if len(problems) == before else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _component(
    node: Any, path: str, problems: list[Problem], trusted: Collection[str], optional: bool
) -> Any:
    if node is None and optional:
        return None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str):
        problems.append(
            Problem(path, node, "is no component", f"choose a file of conf/{path}: {path}=<name>")
        )
        return None
    if not target.startswith(TRUSTED_TARGETS) and target not in trusted:
        problems.append(
            Problem(
                f"{path}._target_",
                target,
                "code outside lsp and eval is not run from a config file",
                f"write {path}._target_={target} on the command line if you trust it",
            )
        )
        return None
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        problems.append(
            Problem(f"{path}._target_", target, f"cannot be imported ({error})", "correct the path")
        )
        return None
    if not (dataclasses.is_dataclass(kind) and hasattr(kind, "build")):
        problems.append(
            Problem(f"{path}._target_", target, "is no dataclass with build()", "name one that is")
        )
        return None
    return _convert(kind, node, path, problems, trusted)


def _value(
    kind: Any,
    value: Any,
    path: str,
    limits: Mapping[str, Any],
    problems: list[Problem],
    trusted: Collection[str],
) -> Any:
    """One leaf (or nested group) checked against its annotation and range."""
    if dataclasses.is_dataclass(kind):
        return _convert(kind, value, path, problems, trusted)
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        if value not in options:
            names = ", ".join(map(str, options))
            problems.append(Problem(path, value, "is no choice here", f"choose one of {names}"))
        return value
    if typing.get_origin(kind) is tuple:
        (item, *_) = typing.get_args(kind)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, item) for v in value):
            problems.append(
                Problem(path, value, f"must be a list of {_noun(item)}", f"write {path}=[…]")
            )
            return None
        return tuple(value)
    fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value), True
    if not fits:
        shown = "null" if value is None else value
        problems.append(
            Problem(path, shown, f"must be {_noun(kind)}", f"write {path}=<{kind.__name__}>")
        )
        return None
    if kind in (int, float):
        minimum, above = limits.get("minimum"), limits.get("above")
        if not math.isfinite(value):
            problems.append(Problem(path, value, "must be finite", "write a plain number"))
        elif minimum is not None and value < minimum:
            fix = f"choose {path}={minimum:g} or more"
            problems.append(Problem(path, value, f"must be at least {minimum:g}", fix))
        elif above is not None and value <= above:
            fix = f"choose a value above {above:g}"
            problems.append(Problem(path, value, f"must be above {above:g}", fix))
    return value


def _noun(kind: type) -> str:
    nouns = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return nouns.get(kind, kind.__name__)


TRANSLATIONS = {
    "num_generations": "group_size",
    "n_samples_per_prompt": "group_size",
    "max_steps": "num_steps",
    "total_steps": "num_steps",
    "output_dir": "run_dir",
    "kl_coef": "method.beta",
    "beta": "method.beta",
    "kl_estimator": "method.kl_estimator",
    "alpha": "method.challenger_weight",
    "challenger_weight": "method.challenger_weight",
    "self_reward_weight": "method.self_reward_weight",
    "lr": "optim.lr",
    "learning_rate": "optim.lr",
    "max_grad_norm": "optim.max_grad_norm",
    "temperature": "rollout.temperature",
    "max_completion_length": "rollout.max_new_tokens",
    "max_new_tokens": "rollout.max_new_tokens",
    "resume_from_checkpoint": "resume",
    "save_steps": "checkpoint.every",
    "eval_steps": "eval.every",
    "batch_size": "num_queries × group_size",
    "per_device_train_batch_size": "num_queries × group_size",
}
"""Names that other trainers give to our settings: refused with a translation, never aliases."""


def unknown_key(key: str, value: Any, known: Collection[str]) -> Problem:
    """The problem of a key that does not exist, with the best way out that can be told."""
    name = key.rpartition(".")[2]
    if name in TRANSLATIONS and TRANSLATIONS[name] != key:
        ours = TRANSLATIONS[name]
        if "×" in ours:
            fix = f"rows a step are {ours}: set those two"
        else:
            fix = f"its name here is {ours}: write {ours}={'…' if value is None else value}"
        return Problem(key, value, "is another trainer's name", fix)
    close = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
        name, [k.rpartition(".")[2] for k in known], n=1
    )
    parent = key.rpartition(".")[0]
    siblings = sorted(k for k in known if k.rpartition(".")[0] == parent) or sorted(known)
    fix = f"did you mean {close[0]}" if close else f"known here: {', '.join(siblings)}"
    return Problem(key, value, "no such setting", fix)


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
    device = config.runtime.device
    if device != "auto" and device != "cpu" and not device.startswith("cuda"):
        problem("runtime.device", device, "is no device", "choose auto, cpu or cuda")
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
    for key, component in (("data", config.data), ("reward", config.reward), ("eval", config.eval)):
        for reason, fix in getattr(component, "problems", lambda c: [])(config):
            problem(key, None, reason, fix)
    return problems


def warnings(config: Config) -> list[str]:
    """What is allowed and probably not meant."""
    found = []
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
