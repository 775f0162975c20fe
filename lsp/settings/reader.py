"""A tree of plain values -> settings, or every problem at once: key, value, reason, way out.

Nothing is repaired. Parts that can be plugged in are nodes with a ``_target_``, the dotted path of
a class of settings that inherits its contract (lsp/contracts.py). Config files may only name
targets under ``lsp.`` and ``eval.``; another path, whatever a ``Code`` field says, and the true of
a ``Consent`` field must stand on the command line under that very key, so that a config from
elsewhere runs no code.
"""

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from lsp.errors import ConfigError, Problem
from lsp.settings.schema import (
    CODE,
    CONSENT,
    PLUGGABLE,
    Plain,
    Settings,
    Weight,
    hints_of,
    join,
    without_limits,
)

TRUSTED_TARGETS = ("lsp.", "eval.")
Rules = Callable[[Settings], Sequence[Problem]]
"""What settings demand of each other, once each of them is right by itself."""
Tree = Mapping[str, Any]


def check_tree(kind: type[Settings], tree: Tree, trusted: Tree, rules: Rules[Settings]) -> Settings:
    """A composed, resolved tree -> settings. Raises ConfigError with every problem. ``trusted``:
    dotted key -> value of what the user wrote on the command line; other code outside this project
    is not imported. A value that does not fit has a stand-in, so that the rules between settings
    can be looked at too."""
    problems: list[Problem] = []
    config = _Reader(trusted, problems).node(kind, tree, "")
    if config is not None:
        wrong = {problem.key for problem in problems}
        problems += [problem for problem in rules(config) if problem.key not in wrong]
    if problems:
        raise ConfigError(problems)
    return typing.cast(Settings, config)


def imported(path: str) -> Any:
    """What a dotted path names. Raises ImportError, AttributeError or ValueError where nothing."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class _Reader:
    """Reads nodes of a tree; what is wrong goes into ``problems``."""

    def __init__(self, trusted: Tree, problems: list[Problem]):
        self.trusted, self.problems = trusted, problems

    def problem(self, key: str, value: Any, reason: str, fix: str, of_code: bool = False) -> Any:
        """Note it; None, for what cannot be had."""
        self.problems.append(Problem(key, value, reason, fix, of_code))

    def node(self, kind: type, tree: Any, path: str) -> Any:
        """One class of settings; None where a part of it cannot be had at all."""
        if not isinstance(tree, Mapping):
            return self.problem(path, tree, "is one value", f"it is a group: {path}.<setting>=…")
        hints = hints_of(kind)
        values = {str(key): value for key, value in tree.items() if key != "_target_"}
        whole = True
        for name, hint in hints.items():
            full, value = join(path, name), values.get(name)
            if name not in values or (value is None and hint.optional):
                continue
            if any(map(unwritable, value if isinstance(value, list) else [value])):
                reason = "holds a character that no file or path can hold: NUL, or half a pair"
                self.problem(full, ascii(value), reason, "write it without")
            if PLUGGABLE in hint.marks:
                values[name] = self.part(hint.kind, value, full)
            elif hint.is_node:
                values[name] = self.group(hint.kind, value, full)
            elif CODE in hint.marks and isinstance(value, str):
                self.code(value, full)
            elif typing.get_origin(hint.kind) is tuple and isinstance(value, list):
                values[name] = tuple(value)
            elif CONSENT in hint.marks and value is True and self.trusted.get(full) is not True:
                reason = "a config file cannot consent to run the code that came with a model"
                fix = f"write {full}=true on the command line if you have read that code and"
                self.problem(full, "true", reason, f"{fix} trust it", of_code=True)
            whole = whole and (values[name] is not None or not hint.is_node)
        try:
            node = kind(**values)
        except ValidationError as error:
            node = self.stand_in(kind, values, path, error)
        return node if whole else None

    def stand_in(
        self, kind: type, values: dict[str, Any], path: str, error: ValidationError
    ) -> Any:
        """The node with other values where its own do not fit, each of which is a problem."""
        keys = {field.name: join(path, field.name) for field in dataclasses.fields(kind)}
        hints, noted = hints_of(kind), set()
        for detail in error.errors():
            name = str(detail["loc"][0])
            full = join(path, name)
            if name in noted or (name in hints and hints[name].is_node and name in values):
                continue  # noted where that node was read
            noted.add(name)
            if name not in keys:
                self.problems.append(unknown_key(full, values.pop(name), keys.values()))
            elif name not in values:
                self.problem(full, None, "is missing", f"give {full}=…")
            else:
                self.problem(full, *_described(full, values[name], hints[name].kind, detail))
                values[name] = _fitting(hints[name].kind, detail)
        try:
            return kind(**values)
        except (
            ValidationError
        ):  # one is missing, or a stand-in does not fit; what is wrong is noted
            return None

    def group(self, kind: Any, tree: Any, path: str) -> Any:
        """Settings inside settings, or several of one class by names of the user's."""
        if typing.get_origin(kind) is not dict:
            return self.node(kind, tree, path)
        if not isinstance(tree, Mapping):
            fix = f"give each a name: {path}.<name>.<setting>=…"
            return self.problem(path, "null" if tree is None else tree, "is no group", fix)
        for name in tree:
            if not re.fullmatch(r"[A-Za-z_][\w-]*", str(name)):
                fix = "take letters, digits, - and _, a letter first"
                self.problem(f"{path}.{name}", None, f"{name} cannot be a name here", fix)
        member = typing.get_args(kind)[1]
        if kind == Plain:
            for name, value in tree.items():
                if not isinstance(value, bool | int | float | str):
                    fix = f"write {path}.{name}=<value>"
                    self.problem(f"{path}.{name}", value, "must be one number, text or true", fix)
            return dict(tree)
        nodes = {name: self.node(member, item, f"{path}.{name}") for name, item in tree.items()}
        return None if None in nodes.values() else nodes

    def part(self, contract: type, tree: Any, path: str) -> Any:
        """A part of a contract; None where it is none."""
        target = tree.get("_target_") if isinstance(tree, Mapping) else None
        if not isinstance(target, str):
            group = path if path.startswith("rollout") else path.partition(".")[0]
            choice = f"{path}=<name>" if group == path else f"+{group}@{path}=<name>"
            fix = f"choose a file of conf/{group.replace('.', '/')}: {choice}"
            return self.problem(path, tree, "is no component", fix)
        kind = self.code(target, f"{path}._target_", target.startswith(TRUSTED_TARGETS))
        if kind is None:
            return None
        if reason := broken_contract(kind, contract):
            place = contract.__module__.replace(".", "/")
            fix = f"mend the class; {place}.py says what {contract.__name__} must have"
            return self.problem(f"{path}._target_", target, reason, fix)
        return self.node(kind, tree, path)

    def code(self, target: str, path: str, ours: bool = False) -> Any:
        """What a dotted path names, imported where it is ours, or the command line says this very
        path under this very key; else None. What is no part must be callable."""
        if not ours and self.trusted.get(path) != target:
            fix = f"write {path}={target} on the command line if you trust it"
            reason = "code outside lsp and eval is not run from a config file"
            return self.problem(path, target, reason, fix, of_code=True)
        try:
            named = imported(target)
        except Exception as error:  # a module of somebody else's may raise anything
            reason = f"cannot be imported ({error})"
            return self.problem(path, target, reason, "correct the path")
        if not callable(named):
            return self.problem(path, target, "cannot be called", "name a function")
        return named


def unwritable(text: Any) -> bool:
    """Whether it is a text that UTF-8, or a path, has no place for."""
    if not isinstance(text, str):
        return False
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def broken_contract(kind: Any, contract: type) -> str:
    """Why a class cannot serve as a part of a contract; empty where it can. It is a class of
    settings, and the annotation of its ``build`` says what it returns."""
    if not (isinstance(kind, type) and is_pydantic_dataclass(kind)):
        return "is no class of settings (lsp.settings.schema.settings)"
    if not issubclass(kind, contract):
        return f"does not inherit {contract.__module__}.{contract.__name__}"
    if missing := getattr(kind, "__abstractmethods__", None):
        return f"lacks {', '.join(sorted(missing))}"
    required, built = _returned(contract), _returned(kind)
    if required is None or built is None or built is required:  # which of them is open
        return ""
    if not issubclass(built, required):
        name = f"{required.__module__}.{required.__name__}"
        return f"builds a {built.__name__}, which does not inherit {name}"
    if missing := getattr(built, "__abstractmethods__", None):
        return f"builds a {built.__name__}, which lacks {', '.join(sorted(missing))}"
    return ""


def _returned(kind: Any) -> type | None:
    """The class that ``build`` says it returns, where it says one that can be looked at."""
    try:
        hint = typing.get_type_hints(kind.build).get("return")
    except (AttributeError, NameError):  # no build, or a name that only a type checker imports
        return None
    options = [o for o in (typing.get_args(hint) or (hint,)) if o is not types.NoneType]
    return options[0] if len(options) == 1 and isinstance(options[0], type) else None


NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
BOUNDS = {
    "greater_than_equal": ("ge", "at least", "{path}={limit} or more", 0),
    "less_than_equal": ("le", "at most", "{path}={limit} or less", 0),
    "greater_than": ("gt", "above", "a value above {limit}", 1),
    "less_than": ("lt", "below", "a value below {limit}", -1),
}
"""pydantic's name of an error -> its limit's name, in words, the way out, how far off fits."""


def _described(path: str, value: Any, kind: Any, detail: Any) -> tuple[Any, str, str]:
    """(value, reason, way out) of one of pydantic's errors."""
    in_list = len(detail["loc"]) > 1 and typing.get_origin(kind) is tuple
    if detail["type"] in BOUNDS:
        name, words, fix, _ = BOUNDS[detail["type"]]
        limit = f"{detail['ctx'][name]:.10g}"
        if in_list:
            place, found = detail["loc"][1], detail["input"]
            reason = f"its value {place + 1}, {found}, must be {words} {limit}"
            return list(value), reason, f"write {path}=[…]"
        return value, f"must be {words} {limit}", f"choose {fix.format(path=path, limit=limit)}"
    if detail["type"] == "finite_number":
        return value, "must be finite", "write a plain number"
    if typing.get_origin(kind) is typing.Literal:
        names = ", ".join(map(str, typing.get_args(kind)))
        return value, "is no choice here", f"choose one of {names}"
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        count = "" if Ellipsis in items else f"{len(items)} "
        shown = list(value) if isinstance(value, tuple) else value
        noun = {int: "whole numbers", float: "numbers", str: "texts"}.get(
            without_limits(items[0]), "values"
        )
        return shown, f"must be a list of {count}{noun}", f"write {path}=[…]"
    if kind == Weight:
        return value, "must be a number or auto", f"write {path}=<number>, or auto"
    noun, name = NOUNS.get(kind, str(kind)), getattr(kind, "__name__", "value")
    return "null" if value is None else value, f"must be {noun}", f"write {path}=<{name}>"


def _fitting(kind: Any, detail: Any) -> Any:
    """A value that stands in for one that does not fit."""
    if detail["type"] in BOUNDS and kind in (int, float):
        name, _, _, further = BOUNDS[detail["type"]]
        return kind(detail["ctx"][name] + further)
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    stand_ins: dict[Any, Any] = {int: 2, float: 0.5, bool: False, str: "", Weight: 0.5}
    return stand_ins.get(kind, ())


OTHER_NAMES = {
    "group_size": ("num_generations", "n_samples_per_prompt"),
    "num_steps": ("max_steps", "total_steps"),
    "run_dir": ("output_dir",),
    "resume": ("resume_from_checkpoint",),
    "method.beta": ("kl_coef", "beta"),
    "method.kl_estimator": ("kl_estimator",),
    "method.challenger_weight": ("alpha", "challenger_weight"),
    "method.self_reward_weight": ("self_reward_weight",),
    "optim.lr": ("lr", "learning_rate"),
    "optim.max_grad_norm": ("max_grad_norm",),
    "rollout.temperature": ("temperature",),
    "rollout.max_new_tokens": ("max_completion_length", "max_new_tokens"),
    "checkpoint.every": ("save_steps",),
    "eval.every": ("eval_steps",),
    "num_queries × group_size": ("batch_size", "per_device_train_batch_size"),
}
"""Setting -> names that other trainers give it: refused with a translation, never aliases."""

MOVED = {"tracker.role_gradients_every": "optim.role_gradients_every"}
"""Keys of earlier versions."""


def unknown_key(key: str, value: Any, keys: Collection[str]) -> Problem:
    """The problem of a key that is not among ``keys``, with the best way out there is."""
    parent, _, name = key.rpartition(".")
    if key in MOVED:
        return Problem(key, value, "has moved", f"write {MOVED[key]}={value}")
    ours = next((ours for ours, others in OTHER_NAMES.items() if name in others), key)
    if ours != key:
        fix = f"its name here is {ours}: write {ours}={'…' if value is None else value}"
        if "×" in ours:
            fix = f"rows a step are {ours}: set those two"
        return Problem(key, value, "is another trainer's name", fix)
    names = [other.rpartition(".")[2] for other in keys]
    close = difflib.get_close_matches(key, keys, 1) or difflib.get_close_matches(name, names, 1)
    siblings = sorted(k for k in keys if k.rpartition(".")[0] == parent) or sorted(keys)
    fix = f"did you mean {close[0]}" if close else f"known here: {', '.join(siblings)}"
    return Problem(key, value, "no such setting", fix)
