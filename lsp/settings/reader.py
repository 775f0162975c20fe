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
from lsp.settings.schema import CODE, CONSENT, PLUGGABLE, Hint, Settings, hints_of, join

TRUSTED_TARGETS = ("lsp.", "eval.")
Rules = Callable[[Settings], Sequence[Problem]]
"""What settings demand of each other, once each of them is right by itself."""


def check_tree(
    kind: type[Settings],
    tree: Mapping[str, Any],
    trusted: Mapping[str, Any],
    rules: Rules[Settings],
) -> Settings:
    """A composed, resolved tree -> settings. Raises ConfigError with every problem.

    ``trusted``: dotted key -> value of what the user wrote on the command line; other code outside
    this project is not imported. A value that does not fit has a stand-in, so that the rules
    between settings can be looked at too.
    """
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

    def __init__(self, trusted: Mapping[str, Any], problems: list[Problem]):
        self.trusted = trusted
        self.problems = problems

    def problem(self, key: str, value: Any, reason: str, fix: str) -> None:
        self.problems.append(Problem(key, value, reason, fix))

    def node(self, kind: type, tree: Any, path: str) -> Any:
        """One class of settings; None where a part of it cannot be had at all."""
        if not isinstance(tree, Mapping):
            self.problem(path, tree, "is one value", f"it is a group: {path}.<setting>=…")
            return None
        hints = hints_of(kind)
        values = {str(key): value for key, value in tree.items() if key != "_target_"}
        whole = True
        for name, hint in hints.items():
            full, value = join(path, name), values.get(name)
            if name not in values or (value is None and hint.optional):
                continue
            if PLUGGABLE in hint.marks:
                values[name] = self.part(hint.kind, value, full)
            elif hint.is_group:
                values[name] = self.group(hint.kind, value, full)
            elif CODE in hint.marks and isinstance(value, str):
                self.code(value, full)
            elif typing.get_origin(hint.kind) is tuple and isinstance(value, list):
                values[name] = tuple(value)
            elif CONSENT in hint.marks and value is True and self.trusted.get(full) is not True:
                reason = "a config file cannot consent to run the code that came with a model"
                fix = f"write {full}=true on the command line if you have read that code and"
                self.problem(full, "true", reason, f"{fix} trust it")
            whole = whole and (values[name] is not None or not self.is_read_apart(hint))
        try:
            made = kind(**values)
        except ValidationError as error:
            made = self.stand_in(kind, values, path, error)
        return made if whole else None

    @staticmethod
    def is_read_apart(hint: Hint) -> bool:
        """Whether a field is a node that is read, and whose problems are noted, by itself."""
        return hint.is_group or PLUGGABLE in hint.marks

    def stand_in(
        self, kind: type, values: dict[str, Any], path: str, error: ValidationError
    ) -> Any:
        """The node with other values where its own do not fit, each of which is a problem."""
        fields = {field.name: field for field in dataclasses.fields(kind)}
        hints, missing, noted = hints_of(kind), False, set()
        for detail in error.errors():
            name = str(detail["loc"][0])
            full = join(path, name)
            if name in noted or (
                name in hints and self.is_read_apart(hints[name]) and name in values
            ):
                continue  # noted where that node was read
            noted.add(name)
            if name not in fields:
                known = [join(path, other) for other in fields]
                self.problems.append(unknown_key(full, values.pop(name), known))
            elif name not in values:
                self.problem(full, None, "is missing", f"give {full}=…")
                missing = True
            else:
                self.problem(full, *_described(full, values[name], hints[name].kind, detail))
                values[name] = _fitting(hints[name].kind, detail)
        if missing:
            return None
        try:
            return kind(**values)
        except ValidationError:  # a stand-in does not fit either; what is wrong is noted
            return None

    def group(self, kind: Any, tree: Any, path: str) -> Any:
        """Settings inside settings, or several of one class by names of the user's."""
        if typing.get_origin(kind) is not dict:
            return self.node(kind, tree, path)
        if not isinstance(tree, Mapping):
            fix = f"give each a name: {path}.<name>.<setting>=…"
            self.problem(path, "null" if tree is None else tree, "is no group", fix)
            return None
        for name in tree:
            if not re.fullmatch(r"[A-Za-z_][\w-]*", str(name)):
                fix = "take letters, digits, - and _, a letter first"
                self.problem(f"{path}.{name}", None, f"{name} cannot be a name here", fix)
        member = typing.get_args(kind)[1]
        nodes = {name: self.node(member, item, f"{path}.{name}") for name, item in tree.items()}
        return None if None in nodes.values() else nodes

    def part(self, contract: type, tree: Any, path: str) -> Any:
        """A part of a contract; None where it is none."""
        target = tree.get("_target_") if isinstance(tree, Mapping) else None
        if not isinstance(target, str):
            group = path if path.startswith("rollout") else path.partition(".")[0]
            choice = f"{path}=<name>" if group == path else f"+{group}@{path}=<name>"
            fix = f"choose a file of conf/{group.replace('.', '/')}: {choice}"
            self.problem(path, tree, "is no component", fix)
            return None
        kind = self.code(target, f"{path}._target_", target.startswith(TRUSTED_TARGETS))
        if kind is None:
            return None
        if lack := broken_contract(kind, contract):
            place = contract.__module__.replace(".", "/")
            fix = f"mend the class; {place}.py says what {contract.__name__} must have"
            self.problem(f"{path}._target_", target, lack, fix)
            return None
        return self.node(kind, tree, path)

    def code(self, target: str, path: str, ours: bool = False) -> Any:
        """What a dotted path names, imported where it is ours, or the command line says this very
        path under this very key; else None. What is no part must be callable."""
        if not ours and self.trusted.get(path) != target:
            fix = f"write {path}={target} on the command line if you trust it"
            reason = "code outside lsp and eval is not run from a config file"
            self.problem(path, target, reason, fix)
            return None
        try:
            named = imported(target)
        except Exception as error:  # a module of somebody else's may raise anything
            self.problem(path, target, f"cannot be imported ({error})", "correct the path")
            return None
        if not callable(named):
            self.problem(path, target, "cannot be called", "name a function")
            return None
        return named


def broken_contract(kind: Any, contract: type) -> str:
    """Why a class cannot serve as a part of a contract, for instance for want of a method that what
    it builds must have; empty where it can. It is a class of settings, whose ``build`` says in its
    annotation what it returns."""
    if not (isinstance(kind, type) and is_pydantic_dataclass(kind)):
        return "is no class of settings (lsp.settings.schema.settings)"
    if not issubclass(kind, contract):
        return f"does not inherit {contract.__module__}.{contract.__name__}"
    if lacks := getattr(kind, "__abstractmethods__", None):
        return f"lacks {', '.join(sorted(lacks))}"
    if not hasattr(contract, "build"):
        return ""
    wanted, built = _returned(contract), _returned(kind)
    if wanted is None or built is None or built is wanted:  # which of them is open
        return ""
    if not issubclass(built, wanted):
        needs = f"{wanted.__module__}.{wanted.__name__}"
        return f"builds a {built.__name__}, which does not inherit {needs}"
    if lacks := getattr(built, "__abstractmethods__", None):
        return f"builds a {built.__name__}, which lacks {', '.join(sorted(lacks))}"
    return ""


def _returned(kind: Any) -> type | None:
    """The class that ``build`` says it returns, where it says one that can be looked at."""
    try:
        hint = typing.get_type_hints(kind.build).get("return")
    except NameError:  # a name that only a type checker imports
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
    if detail["type"] in BOUNDS:
        name, words, fix, _ = BOUNDS[detail["type"]]
        limit = f"{detail['ctx'][name]:.10g}"
        return value, f"must be {words} {limit}", f"choose {fix.format(path=path, limit=limit)}"
    if detail["type"] == "finite_number":
        return value, "must be finite", "write a plain number"
    if typing.get_origin(kind) is typing.Literal:
        names = ", ".join(map(str, typing.get_args(kind)))
        return value, "is no choice here", f"choose one of {names}"
    if typing.get_origin(kind) is tuple:
        noun = NOUNS.get(typing.get_args(kind)[0], "values")
        return value, f"must be a list of {noun}", f"write {path}=[…]"
    noun, name = NOUNS.get(kind, str(kind)), getattr(kind, "__name__", "value")
    return "null" if value is None else value, f"must be {noun}", f"write {path}=<{name}>"


def _fitting(kind: Any, detail: Any) -> Any:
    """A value that stands in for one that does not fit."""
    if detail["type"] in BOUNDS:
        name, _, _, further = BOUNDS[detail["type"]]
        return kind(detail["ctx"][name] + further)
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    stand_ins: dict[Any, Any] = {int: 2, float: 0.5, bool: False, str: ""}
    return stand_ins.get(kind, ())


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

MOVED = {"tracker.role_gradients_every": "optim.role_gradients_every"}
"""Keys of earlier versions."""


def unknown_key(key: str, value: Any, known: Collection[str]) -> Problem:
    """The problem of a key that does not exist, with the best way out that can be told."""
    name = key.rpartition(".")[2]
    if key in MOVED:
        return Problem(key, value, "has moved", f"write {MOVED[key]}={value}")
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
