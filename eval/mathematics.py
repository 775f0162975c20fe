"""GSM8K and MATH: problems with their answers go in, which answers are right comes out.

``math-verify`` reads the last expression of an answer (a ``\\boxed`` one first) and says whether it
equals the published one; what it cannot read, or compare within its seconds, is wrong.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from eval.answers import local_file
from eval.contracts import CheckedSettings, EvaluateConfig, EvaluationContext
from eval.tasks import tasks_of, template_problems
from eval.types import Task
from lsp.errors import RunError
from lsp.settings.schema import setting, settings
from lsp.tools.rows import Row, read_rows


@settings
class Mathematics(CheckedSettings):
    """Rows of a problem and its answer: as it stands, behind the last ``####`` (GSM8K's), or the
    last ``\\boxed`` of a solution (MATH's)."""

    measured: ClassVar = {"accuracy": ("right", "verdict")}
    asked: str = setting("what a model is asked, with {task} where the problem stands")
    problem_column: str = setting("column of the problem")
    answer_column: str = setting("column of the published answer, or of a solution that ends in it")
    kind_column: str | None = setting("column to report by; null: none")

    def problems(self, config: EvaluateConfig) -> list[tuple[str, str]]:
        return template_problems(self.asked)

    def build(self, context: EvaluationContext) -> list[Task]:
        """Refuses a published answer that cannot be read."""
        if self.data is None:
            raise RunError(f"benchmark={self.name} needs benchmark.data=<file of its problems>")
        rows = read_rows(local_file(self.data))
        texts = [row.text(self.problem_column) for row in rows]
        keys = [published(row, self.answer_column) for row in rows]
        kinds = [str(row.get(self.kind_column, "all")) for row in rows]
        return tasks_of(self.asked, texts, kinds, keys, self.data)

    def check(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[dict[str, Any]]:
        parse, verify = math_verify()
        rows = []
        for task, answer in zip(tasks, answers, strict=True):
            # An escaped dollar is money, and math-verify reads nothing behind one.
            found = parse(answer.replace("\\$", "$"))
            right = bool(verify(parse(task.key), found))
            rows.append({"right": [right], "read": str(found[-1]) if found else None})
        return rows


def published(row: Row, column: str) -> str:
    """A row's published answer, as math-verify reads it. Raises RunError where it reads none."""
    text = row.text(column)
    answer = text.rpartition("####")[2].strip()
    if "\\boxed" not in answer:
        answer = f"${answer}$"
    if not math_verify()[0](answer):
        raise RunError(f"{row.place}: no answer can be read from {column!r}, {text[-60:]!r}")
    return answer


def math_verify() -> tuple[Any, Any]:
    """Its functions ``parse`` and ``verify``. Raises RunError where it is absent."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        advice = "pip install '.[math]'"
        raise RunError(f"checking mathematics needs the extra: {advice}") from error
    return parse, verify
