"""How a tree of settings is held against frozen dataclasses: every mistake in one report.

A field's annotation and metadata are its schema. What does not fit is a ``Problem``: key, value,
reason, way out. Nothing is repaired. This module knows no setting by name, and imports no torch.

Components are nodes with a ``_target_``: the dotted path of a frozen dataclass whose fields are the
node's schema and whose ``build()`` makes the heavy object after validation. Config files may only
name targets under ``lsp.`` and ``eval.``; another path, whatever a ``code()`` field says, and the
true of a ``consent()`` field must stand on the command line under that very key, so that a config
from elsewhere runs no code.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


def code() -> Any:
    """A text field that names a Python function, ``package.module.function``. It is imported, and
    only where it stands on the command line."""
    return field(metadata={"code": True})


def consent() -> Any:
    """A yes-or-no field by which the user lets code of others run: its true is taken from the
    command line alone."""
    return field(metadata={"consent": True})


def imported(path: str) -> Any:
    """What a dotted path names. Raises ImportError, AttributeError or ValueError where nothing."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def check_tree(
    kind: type, tree: Mapping[str, Any], trusted: Mapping[str, Any]
) -> tuple[Any, list[Problem]]:
    """A composed, resolved tree -> settings of a class with ``cross_checks()``, and the problems;
    None for the settings where there are any. ``trusted``: dotted key -> value of what the user
    wrote on the command line; other code outside this project is not imported."""
    problems: list[Problem] = []
    config = _convert(kind, tree, "", problems, trusted)
    if config is not None:
        wrong = {problem.key for problem in problems}
        problems += [problem for problem in config.cross_checks() if problem.key not in wrong]
    return (None if problems else config), problems


def to_tree(value: Any) -> Any:
    """The inverse of ``check_tree``: plain dicts and lists, components with their ``_target_``."""
    if dataclasses.is_dataclass(value):
        tree = {}
        for spec in dataclasses.fields(value):
            item = getattr(value, spec.name)
            tree[spec.name] = to_tree(item)
            if spec.metadata.get("component") and item is not None:
                kind = type(item)
                target = f"{kind.__module__}.{kind.__qualname__}"
                tree[spec.name] = {"_target_": target, **tree[spec.name]}
        return tree
    if isinstance(value, dict):
        return {name: to_tree(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [to_tree(item) for item in value]
    return value


def flat(config: Any) -> dict[str, Any]:
    """Dotted key -> value, the form in which trackers and comparisons want a config."""
    return flat_tree(to_tree(config))


def flat_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """``flat`` of a config that is plain dicts already."""

    def walk(prefix: str, node: Any) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        items: dict[str, Any] = {}
        for key, value in node.items():
            items |= walk(f"{prefix}.{key}" if prefix else key, value)
        return items

    return walk("", tree)


def _convert(
    kind: type, tree: Any, path: str, problems: list[Problem], trusted: Mapping[str, Any]
) -> Any:
    """One dataclass node; appends to ``problems``. A leaf that does not fit has a stand-in, so that
    the other rules can be checked too; None where the node's shape itself is wrong."""
    whole = True
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
                whole = False
            continue
        if spec.metadata.get("component"):
            optional = spec.metadata.get("optional", False)
            values[name] = _component(tree[name], full, problems, trusted, optional)
        else:
            values[name] = _value(hints[name], tree[name], full, spec.metadata, problems, trusted)
        group = dataclasses.is_dataclass(hints[name]) or typing.get_origin(hints[name]) is dict
        component = spec.metadata.get("component") and tree[name] is not None
        if (group or component) and values[name] is None:
            whole = False
    return kind(**values) if whole else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _component(
    node: Any, path: str, problems: list[Problem], trusted: Mapping[str, Any], optional: bool
) -> Any:
    if node is None and optional:
        return None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str):
        group = path.partition(".")[0]
        choice = f"{path}=<name>" if group == path else f"+{group}@{path}=<name>"
        fix = f"choose a file of conf/{group}: {choice}"
        problems.append(Problem(path, node, "is no component", fix))
        return None
    ours = target.startswith(TRUSTED_TARGETS)
    kind = _code(target, f"{path}._target_", problems, trusted, ours)
    if kind is None:
        return None
    if not (dataclasses.is_dataclass(kind) and hasattr(kind, "build")):
        problems.append(
            Problem(f"{path}._target_", target, "is no dataclass with build()", "name one that is")
        )
        return None
    return _convert(kind, node, path, problems, trusted)


def _code(
    value: str, path: str, problems: list[Problem], trusted: Mapping[str, Any], ours: bool
) -> Any:
    """What a dotted path names, imported where it is ``ours`` or the command line says this very
    path under this very key; else None."""
    if not ours and trusted.get(path) != value:
        fix = f"write {path}={value} on the command line if you trust it"
        problems.append(
            Problem(path, value, "code outside lsp and eval is not run from a config file", fix)
        )
        return None
    try:
        return imported(value)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"cannot be imported ({error})"
        problems.append(Problem(path, value, reason, "correct the path"))
        return None


def _nodes(
    kind: type, tree: Any, path: str, problems: list[Problem], trusted: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Nodes of one class by names of the user's; None where the shape of any is wrong."""
    if not isinstance(tree, Mapping):
        fix = f"give each a name: {path}.<name>.<setting>=…"
        problems.append(Problem(path, "null" if tree is None else tree, "is no group", fix))
        return None
    nodes = {}
    for name, node in tree.items():
        full = f"{path}.{name}"
        if not re.fullmatch(r"[A-Za-z_][\w-]*", str(name)):
            fix = "take letters, digits, - and _, a letter first"
            problems.append(Problem(full, None, f"{name} cannot be a name here", fix))
        nodes[name] = _convert(kind, node, full, problems, trusted)
    return None if None in nodes.values() else nodes


def _value(
    kind: Any,
    value: Any,
    path: str,
    limits: Mapping[str, Any],
    problems: list[Problem],
    trusted: Mapping[str, Any],
) -> Any:
    """One leaf (or nested group) checked against its annotation and range."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return _convert(kind, value, path, problems, trusted)
    if typing.get_origin(kind) is dict:
        return _nodes(typing.get_args(kind)[1], value, path, problems, trusted)
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
            return ()
        return tuple(value)
    fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value), True
    if not fits:
        shown = "null" if value is None else value
        problems.append(
            Problem(path, shown, f"must be {_noun(kind)}", f"write {path}=<{kind.__name__}>")
        )
        return {int: 2, float: 1.0, bool: False}.get(kind, "")
    if limits.get("consent") and value and trusted.get(path) is not True:
        reason = "a config file cannot consent to run the code that came with a model"
        fix = f"write {path}=true on the command line if you have read that code and trust it"
        problems.append(Problem(path, "true", reason, fix))
    if limits.get("code"):
        found = _code(value, path, problems, trusted, ours=False)
        if found is not None and not callable(found):
            problems.append(Problem(path, value, "cannot be called", "name a function"))
    if kind in (int, float):
        minimum, above = limits.get("minimum"), limits.get("above")
        if not math.isfinite(value):
            problems.append(Problem(path, value, "must be finite", "write a plain number"))
        elif minimum is not None and value < minimum:
            fix = f"choose {path}={minimum:g} or more"
            problems.append(Problem(path, value, f"must be at least {minimum:g}", fix))
        elif (maximum := limits.get("maximum")) is not None and value > maximum:
            fix = f"choose {path}={maximum:.10g} or less"
            problems.append(Problem(path, value, f"must be at most {maximum}", fix))
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
