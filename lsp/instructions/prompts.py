"""Rows of IFEval's or IFBench's columns go in, prompts with their constraints come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lsp.errors import RunError
from lsp.instructions.checkers import Constraint, problem_of
from lsp.tools.rows import Row


@dataclass(frozen=True)
class Prompt:
    """A natural instruction and what of it is checked."""

    text: str
    constraints: tuple[Constraint, ...]


def read_prompts(rows: Sequence[Row]) -> list[Prompt]:
    """Of rows with ``prompt``, ``instruction_id_list`` and ``kwargs``. Raises RunError for a row
    that is none."""
    return [Prompt(row.text("prompt"), tuple(_constraints(row))) for row in rows]


def unchecked(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Kind -> why, of each constraint that cannot be checked here."""
    constraints = [constraint for prompt in prompts for constraint in prompt.constraints]
    problems = ((constraint.kind, problem_of(constraint)) for constraint in constraints)
    return {kind: problem for kind, problem in problems if problem}


def _constraints(row: Row) -> list[Constraint]:
    kinds, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not _is_list_of(kinds, str) or not kinds:
        raise RunError(f"{row.place}: 'instruction_id_list' must be a list of kinds")
    if not _is_list_of(arguments, dict) or len(arguments) != len(kinds):
        raise RunError(f"{row.place}: 'kwargs' must be a list of an object for each kind")
    return [Constraint(*pair) for pair in zip(kinds, arguments, strict=True)]


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
