"""What the benchmarks of maths and code share: rows and a template go in, tasks come out."""

from collections.abc import Sequence
from typing import Any

from eval.types import Task
from lsp.errors import RunError

PLACE = "{task}"


def template_problems(template: str) -> list[tuple[str, str]]:
    """(reason, way out) where a template has no one place for the task."""
    if template.count(PLACE) == 1:
        return []
    return [(f"benchmark.asked holds {PLACE} {template.count(PLACE)} times", f"write {PLACE} once")]


def tasks_of(
    asked: str, texts: Sequence[str], kinds: Sequence[str], keys: Sequence[Any], data: str
) -> list[Task]:
    """One verdict a task, of its kind. Raises RunError where there is none, or one stands twice."""
    if not texts:
        raise RunError(f"{data} holds no tasks")
    if len(set(texts)) < len(texts):
        raise RunError(f"{data}: some tasks stand twice, so answers cannot be told apart")
    rows = zip(texts, kinds, keys, strict=True)
    return [
        Task(index, "all", asked.replace(PLACE, text), (kind,), key)
        for index, (text, kind, key) in enumerate(rows)
    ]
