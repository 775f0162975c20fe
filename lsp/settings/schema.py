"""Classes of settings: how one is declared, and its way into plain values and back.

A class of settings is declared with ``@settings``: its annotations and the limits of each
``setting`` are the schema, held by pydantic without any conversion. A field marked ``PLUGGABLE``
holds a part (lsp/contracts.py). This module knows no setting by name and imports no torch.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field

Settings = TypeVar("Settings")
PLUGGABLE = "a part that can be plugged in; the annotation beside it is its contract"
CODE = "names a Python function, which is imported from the command line alone"
CONSENT = "lets code of others run, which the command line alone can allow"
Code = Annotated[str, CODE]
Consent = Annotated[bool, CONSENT]
Plain = dict[str, bool | int | float | str]
"""Values by names of the user's."""
LARGEST_WEIGHT = 1e6
"""Of a term of a loss or reward: beside it, in fp32, terms of size 1 begin to be rounded away."""
Weight = Annotated[float, Field(ge=0, le=LARGEST_WEIGHT)] | Literal["auto"]


def setting(description: str, **limits: Any) -> Any:
    """A field, by its line in docs/settings.md and pydantic's limits (``ge``, ``gt``, ``le``,
    ``lt``, ``default``, ``default_factory``)."""
    return Field(description=description, **limits)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def settings(kind: type[Settings]) -> type[Settings]:
    """A frozen class of settings: nothing is converted but whole numbers to ``float``."""
    rules = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    dataclass = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=rules)
    return typing.cast("type[Settings]", dataclass(kind))


def to_tree(value: Any) -> Any:
    """The inverse of ``check_tree``: plain dicts and lists, parts with their ``_target_``."""
    if dataclasses.is_dataclass(value):
        tree = {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
        for name, hint in hints_of(type(value)).items():
            if PLUGGABLE in hint.marks and tree[name] is not None:
                kind = type(getattr(value, name))
                tree[name] = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **tree[name]}
        return tree
    if isinstance(value, dict):
        return {name: to_tree(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [to_tree(item) for item in value]
    return value


def flat(config: Any) -> dict[str, Any]:
    """Dotted key -> value, the form in which trackers and comparisons want a config."""
    return flat_tree(to_tree(config))


def flat_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``flat`` of a config that is plain dicts already."""
    items: dict[str, Any] = {}
    for key, value in tree.items():
        full = join(prefix, key)
        items |= flat_tree(value, full) if isinstance(value, dict) else {full: value}
    return items


def with_value(config: Settings, key: str, value: Any) -> Settings:
    """A copy with another value under one dotted key."""
    name, _, rest = key.partition(".")
    node: Any = config
    if isinstance(node, dict):  # settings by names of the user's
        changed: Any = {**node, name: with_value(node[name], rest, value)}
    else:
        inner = with_value(getattr(node, name), rest, value) if rest else value
        changed = dataclasses.replace(node, **{name: inner})
    return cast(Settings, changed)


def key_of_part(node: Any, part: Any) -> str | None:
    """The dotted key under which settings, or groups of them, hold a part; None where they do
    not."""
    children: Mapping[str, Any] = {}
    if isinstance(node, dict):
        children = node
    elif dataclasses.is_dataclass(node):
        children = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    for name, child in children.items():
        if child is part:
            return name
        if rest := key_of_part(child, part):
            return join(name, rest)
    return None


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class Hint(typing.NamedTuple):
    """A field's annotation taken apart: its type without None, and what is marked on it."""

    kind: Any
    optional: bool
    marks: tuple[Any, ...]

    @property
    def is_node(self) -> bool:
        """Whether it is read by itself: a part, or settings inside settings."""
        is_group = dataclasses.is_dataclass(self.kind) or typing.get_origin(self.kind) is dict
        return is_group or PLUGGABLE in self.marks


def without_limits(hint: Any) -> Any:
    """An annotation without its limits."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def hints_of(kind: type) -> dict[str, Hint]:
    """Field -> annotation of a class of settings."""
    hints = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        marks: tuple[Any, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            marks = tuple(mark for mark in extras if isinstance(mark, str))
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = next((o for o in options if o is not types.NoneType), hint)
        hints[name] = Hint(plain, types.NoneType in options, marks)
    return hints
