"""IFEval and IFBench: prompts with constraints go in, what of them answers follow comes out.

Strict and loose are IFEval's (arXiv 2311.07911); lsp/instructions/checkers.py has the checkers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from eval.answers import local_file
from eval.contracts import CheckedSettings, EvaluationContext
from eval.types import Task
from lsp.errors import RunError
from lsp.instructions.checkers import follows
from lsp.instructions.prompts import read_prompts, unchecked
from lsp.settings.schema import setting, settings
from lsp.tools.rows import read_rows


@settings
class InstructionFollowing(CheckedSettings):
    """Rows of ``prompt``, ``instruction_id_list`` and ``kwargs``: IFEval's, IFBench's."""

    measured: ClassVar = {
        "prompt_strict": ("followed_strict", "answer"),
        "instruction_strict": ("followed_strict", "verdict"),
        "prompt_loose": ("followed_loose", "answer"),
        "instruction_loose": ("followed_loose", "verdict"),
    }
    leave_out: list[str] = setting(
        "kinds of constraint; the prompts that have one are left out", default_factory=list
    )

    def build(self, context: EvaluationContext) -> list[Task]:
        """Refuses, by name, kinds that no checker here can check."""
        if self.data is None:
            raise RunError(f"benchmark={self.name} needs benchmark.data=<file of its prompts>")
        prompts = [
            prompt
            for prompt in read_prompts(read_rows(local_file(self.data)))
            if not any(constraint.kind in self.leave_out for constraint in prompt.constraints)
        ]
        if problems := unchecked(prompts):
            lines = [f"  {kind}: {problem}" for kind, problem in problems.items()]
            kinds = ",".join(problems)
            fix = f"'benchmark.leave_out=[{kinds}]' leaves out the prompts that have them"
            raise RunError("\n".join([f"{self.data} has what cannot be checked:", *lines, fix]))
        if not prompts:
            raise RunError(f"{self.data} holds no prompts, or none that is not left out")
        tasks = []
        for index, prompt in enumerate(prompts):
            kinds = tuple(constraint.kind for constraint in prompt.constraints)
            tasks.append(Task(index, "all", prompt.text, kinds, prompt.constraints))
        return tasks

    def check(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[dict[str, Any]]:
        rows = []
        for task, answer in zip(tasks, answers, strict=True):
            strict, loose = (
                [follows(constraint, task.text, answer, loose) for constraint in task.key]
                for loose in (False, True)
            )
            rows.append({"followed_strict": strict, "followed_loose": loose})
        return rows

    def further_numbers(self, shares: Mapping[str, float]) -> dict[str, float]:
        """The one number that model cards print."""
        return {"mean_strict": (shares["prompt_strict"] + shares["instruction_strict"]) / 2}
