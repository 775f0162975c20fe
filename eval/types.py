"""What flows through an evaluation: Instruction -> Pair (with two answers) -> Verdict."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Instruction:
    """One question of a benchmark; ``source`` is the set that it comes from."""

    index: int
    source: str
    text: str


@dataclass(frozen=True)
class Task(Instruction):
    """A question whose answers are checked by themselves: ``kinds`` names each verdict on one, and
    ``key`` is what the check needs."""

    kinds: tuple[str, ...] = ()
    key: Any = None


@dataclass(frozen=True)
class Pair:
    """One instruction with the model's and the baseline's answer. ``source``: its set of origin."""

    index: int
    source: str
    instruction: str
    model_output: str
    base_output: str

    @property
    def identical(self) -> bool:
        return self.model_output == self.base_output

    def shown(self, model_first: bool) -> tuple[str, str, str]:
        """(instruction, first output, second output) in one of the two orders."""
        outputs = (self.model_output, self.base_output)
        return (self.instruction, *(outputs if model_first else outputs[::-1]))


Question = tuple[Pair, bool]
"""What a judge is asked: a pair, and whether the model's answer is shown first."""


@dataclass(frozen=True)
class Verdict:
    """One call's outcome. ``model_first``: the model's answer was shown first. ``preference`` is
    in [1, 2], 2 where the model's answer is preferred, or None where no readable answer came;
    ``problem`` then says why, and ``reason`` in a word that results count. ``read_from``: what a
    chat judge's preference is of, ``logprobs``, or ``text``, which gives whole ones alone.
    ``usd``: what the answer cost when it came, at most, on the day ``date``."""

    index: int
    source: str
    model_first: bool
    preference: float | None = None
    text: str | None = None
    cached: bool = False
    usd: float = 0.0
    date: str | None = None
    problem: str | None = None
    reason: str | None = None
    read_from: str | None = None
