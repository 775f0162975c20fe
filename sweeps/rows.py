"""What runs of a world are compared by: a run's summary goes in, a row of the table comes out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import mean
from typing import Any, ClassVar

Heading = tuple[str, int]


@dataclass(frozen=True)
class Row:
    """One run's outcome; numbers are ``final/…`` of its summary, and ``base_…`` its ``base/…``."""

    variant: str
    base: int
    seed: int
    seconds: float

    outcome: ClassVar[str]
    """The number that claims are about."""
    numbers: ClassVar[Mapping[str, Heading]]
    """Columns of the table: field -> (heading, digits); what no run measured is left out."""

    @classmethod
    def of(cls, variant: str, base: int, seed: int, summary: Mapping[str, Any]) -> "Row":
        """What no run of this world may lack raises TypeError."""
        found = {}
        for name in (field.name for field in fields(cls)):
            is_base = name.startswith("base_")
            key = f"base/{name.removeprefix('base_')}" if is_base else f"final/{name}"
            if key in summary:
                found[name] = summary[key]
        more = cls.further(summary)
        return cls(
            variant=variant, base=base, seed=seed, seconds=summary["seconds"], **found, **more
        )

    @classmethod
    def further(cls, summary: Mapping[str, Any]) -> dict[str, float]:
        """Numbers that are made of several."""
        return {}


@dataclass(frozen=True)
class PocketRow(Row):
    """NaN: what only the exact game tells, of a run with ``eval.exact=false``."""

    accuracy: float
    accuracy_5_to_8: float
    greedy_accuracy: float
    valid_query_frac: float
    argument_length: float
    base_accuracy: float
    effective_support: float = math.nan
    coverage: float = math.nan
    challenger_gap: float = math.nan
    solver_gap: float = math.nan
    nash_conv: float = math.nan

    outcome = "accuracy"
    numbers: ClassVar = {
        "accuracy": ("exact accuracy", 3),
        "accuracy_5_to_8": ("lengths 5-8", 3),
        "greedy_accuracy": ("greedy", 3),
        "valid_query_frac": ("legal queries", 2),
        "coverage": ("coverage", 2),
        "argument_length": ("length", 1),
        "challenger_gap": ("Challenger's gap", 2),
        "solver_gap": ("Solver's gap", 3),
    }

    @classmethod
    def further(cls, summary: Mapping[str, Any]) -> dict[str, float]:
        longer = [summary[f"final/accuracy/length_{n}"] for n in range(5, 9)]
        return {"accuracy_5_to_8": mean(longer)}


@dataclass(frozen=True)
class InstructionsRow(Row):
    """Of the instructions world; NaN: an IFEval number that was not asked for (``eval.ifeval``)."""

    held_out_reward: float
    base_held_out_reward: float
    followed_all: float
    base_followed_all: float
    held_out_kinds_reward: float
    base_held_out_kinds_reward: float
    likelihood: float
    base_likelihood: float
    repetition: float
    base_repetition: float
    answer_words: float
    base_answer_words: float
    legal_query_frac: float
    base_legal_query_frac: float
    ifeval: float = math.nan
    base_ifeval: float = math.nan

    outcome = "held_out_reward"
    numbers: ClassVar = {
        "held_out_reward": ("held-out prompts", 3),
        "followed_all": ("all rules", 3),
        "held_out_kinds_reward": ("kinds never trained on", 3),
        "ifeval": ("IFEval", 1),
        "likelihood": ("log p a token", 2),
        "repetition": ("repetition", 2),
        "answer_words": ("words", 1),
        "legal_query_frac": ("legal queries", 2),
    }


KINDS: Mapping[str, type[Row]] = {"pocket": PocketRow, "instructions": InstructionsRow}
"""World -> its rows."""
