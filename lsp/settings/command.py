"""A command line of the smaller commands -> its names, and ``key=value`` settings of one class."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lsp.errors import ConfigError, RunError
from lsp.settings.reader import check_tree
from lsp.settings.schema import Settings


def read_command(kind: type[Settings], arguments: Sequence[str]) -> tuple[list[str], Settings]:
    """(words that are names, the settings). Raises RunError with every unknown or unfit setting."""
    names = [text for text in arguments if is_name(text)]
    pairs = [text.partition("=") for text in arguments if not is_name(text)]
    tree = {key: parsed_value(value) for key, _, value in pairs}
    try:
        return names, check_tree(kind, tree, tree, lambda _: ())
    except ConfigError as error:
        raise RunError(str(error)) from error


def read_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """``read_command`` of a command that takes settings alone: another word is refused too."""
    names, settings = read_command(kind, arguments)
    if names:
        raise RunError(f"{names[0]} is no setting; write key=value")
    return settings


def consent(trust: Sequence[str]) -> dict[str, Any]:
    """What ``trust=[reward.path=mine.reward]`` allows to be imported: dotted key -> value, as on
    the command line of the run. Raises RunError for what is no key=value."""
    if wrong := [text for text in trust if "=" not in text]:
        raise RunError(f"trust=[{wrong[0]}] names no setting; write trust=[<key>={wrong[0]}]")
    return {key: parsed_value(value) for key, _, value in (t.partition("=") for t in trust)}


def split_settings(kind: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names and settings of ``kind``, settings that are somebody else's)."""
    keys = {field.name for field in fields(kind)}
    others = [a for a in arguments if not is_name(a) and a.partition("=")[0] not in keys]
    return [a for a in arguments if a not in others], others


def is_name(text: str) -> bool:
    """Whether a word is no setting: it has no ``=``, or is the path of something that exists."""
    return "=" not in text or Path(text).exists()


def parsed_value(text: str) -> Any:
    """What a value is: as Hydra reads it, or as YAML where Hydra's grammar has no place for it (the
    path ``/tmp/é``, the list ``[a=b]``). Several values, ``1,2``, are one text."""
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
        return text if override.is_sweep_override() else override.value()
    except HydraException:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
