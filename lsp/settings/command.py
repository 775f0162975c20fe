"""Command lines of the smaller commands: names, and ``key=value`` settings of a dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lsp.errors import RunError

Settings = TypeVar("Settings")


def read_command(kind: type[Settings], arguments: Sequence[str]) -> tuple[list[str], Settings]:
    """(words without ``=``, the settings). Raises RunError for an unknown or unfit setting."""
    names = [text for text in arguments if "=" not in text or Path(text).exists()]
    try:
        given = OmegaConf.from_cli([text for text in arguments if text not in names])
        merged = OmegaConf.merge(OmegaConf.structured(kind), given)
        return names, OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        known = ", ".join(field.name for field in fields(kind))
        raise RunError(f"{str(error).splitlines()[0]}; settings are {known}") from error


def read_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """``read_command`` of a command that takes settings alone: another word is refused too."""
    names, settings = read_command(kind, arguments)
    if names:
        raise RunError(f"{names[0]} is no setting; write key=value")
    return settings
