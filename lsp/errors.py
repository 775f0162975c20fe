"""What is wrong, why and the way out go in; one message for the user comes out."""

import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


class RunError(Exception):
    """Something about a run that the user has to settle; its text says what and how."""


class Interrupted(Exception):
    """The run was asked to stop and did, with everything saved; the text says how to go on.
    ``signals`` are those that asked, in their order."""

    def __init__(self, text: str, signals: Sequence[signal.Signals] = ()):
        super().__init__(text)
        self.signals = signals


class PartFailed(ValueError):
    """A part ended the run; other settings of ``part`` (``reward``) may help when it goes on."""

    def __init__(self, part: str, text: str):
        super().__init__(text)
        self.part = part


@dataclass(frozen=True)
class Problem:
    """One mistake in the settings. ``fix`` is what to write instead. ``of_code``: they name code of
    others, which the command line alone can do."""

    key: str
    value: Any
    reason: str
    fix: str
    of_code: bool = False

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
