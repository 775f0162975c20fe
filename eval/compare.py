"""``python -m eval.compare ONE OTHER``: two evaluated runs go in, paired differences come out.

    python -m eval.compare outputs/lsp-s0 outputs/grpo-s0 benchmark=alpaca_eval

Both must have been judged by the same judge, under the same template and orders, against the same
baseline, or checked on the same tasks (``benchmark=ifeval``). A positive difference speaks for ONE.
Nothing is run or asked: it reads pairs.jsonl.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from eval.checked import at_level
from eval.win_rate import Comparison, by_source, compare_paired
from lsp.cli.main import start_module
from lsp.errors import RunError
from lsp.instructions.scores import difference
from lsp.run.commands import path_word
from lsp.run.folder import find_run
from lsp.settings.command import read_command
from lsp.settings.schema import setting, settings
from lsp.tools.text import text_table
from lsp.tracking.reader import DamagedFile, read_json, read_json_lines

SAME = ("benchmark", "baseline", "judge", "template", "order", "temperature", "max_new_tokens",
        "baseline_answers")  # fmt: skip
"""What evaluations that stand side by side have in common."""


SAME_CHECKED = ("benchmark", "tasks", "temperature", "max_new_tokens")


@settings
class CompareSettings:
    """Which evaluations are compared: those in ``<run>/eval/<benchmark>/``."""

    benchmark: str = setting("what both were evaluated on", default="alpaca_eval")
    runs_root: str = setting("where run ids are looked up", default="outputs")


class _Results(TypedDict):
    """What is read of results.json; ``SAME`` among it."""

    __pydantic_config__ = ConfigDict(extra="allow")

    model: str
    checkpoint: str
    benchmark: str
    baseline: str
    judge: str
    template: str | None
    order: str | None
    temperature: float | None
    max_new_tokens: int | None
    baseline_answers: str | None


class _PairRow(TypedDict):
    """What is read of a line of pairs.jsonl."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)

    instruction: str
    dataset: str
    preference: Annotated[float, Field(ge=1, le=2)] | None


class _Checked(TypedDict):
    """Of one where each answer was checked by itself: number -> (column of its verdicts, level)."""

    __pydantic_config__ = ConfigDict(extra="allow")

    model: str
    benchmark: str
    tasks: str
    temperature: float
    max_new_tokens: int
    measured: dict[str, tuple[str, str]]


RESULTS: TypeAdapter[Any] = TypeAdapter(_Checked | _Results)
PAIRS = TypeAdapter(_PairRow)


def _checked_row(measured: Mapping[str, tuple[str, str]]) -> TypeAdapter[Any]:
    """What is read of a line of pairs.jsonl where answers were checked by themselves: the verdicts
    in each column, one or more, None where none could be had."""
    columns = {column: list[bool | None] for column, _ in measured.values()}
    row = TypedDict("row", columns)
    row.__pydantic_config__ = ConfigDict(extra="allow", strict=True)
    return TypeAdapter(row)


@dataclass(frozen=True)
class Evaluation:
    """What ``python -m eval`` left of one run."""

    folder: Path
    results: dict[str, Any]
    rows: list[dict[str, Any]]

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    @property
    def is_checked(self) -> bool:
        """Whether answers were checked by themselves; a judge compared them otherwise."""
        return "measured" in self.results


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(CompareSettings, arguments)
        if len(names) != 2:
            raise RunError(f"name two runs, not {len(names)}: python -m eval.compare ONE OTHER")
        runs = [find_run(name, settings.runs_root) for name in names]
        one, other = (read_evaluation(run / "eval" / settings.benchmark) for run in runs)
        if one.is_checked and other.is_checked:
            print(checked_table(one, other))
        else:
            print(comparison_table(one, other, compare(one, other)))
    except RunError as error:
        sys.exit(f"error: {error}")


def read_evaluation(folder: Path) -> Evaluation:
    """Raises RunError where there is none."""
    path = folder / "results.json"
    if not path.is_file():
        run = shlex.quote(path_word("run", folder.parent.parent))
        make = f"python -m eval {run} benchmark={folder.name}"
        raise RunError(f"{folder} holds no evaluation; make one with `{make}`")
    try:
        results = read_json(path, RESULTS)
        kind = _checked_row(results["measured"]) if "measured" in results else PAIRS
        rows = read_json_lines(folder / "pairs.jsonl", kind)
    except DamagedFile as error:
        raise RunError(f"{error}; evaluate again") from error
    if not rows:
        raise RunError(f"{folder / 'pairs.jsonl'} holds no pair; evaluate again")
    return Evaluation(folder, results, rows)


def check_alike(evaluations: Sequence[Evaluation], same: Sequence[str] = SAME) -> None:
    """Raises RunError where what is to be the ``same`` differs: judge, baseline, instructions."""
    first, *others = evaluations
    for other in others:
        both = f"{first.folder} and {other.folder}"
        values = ((key, first.results.get(key), other.results.get(key)) for key in same)
        if differ := [f"{key} is {a} and {b}" for key, a, b in values if a != b]:
            raise RunError(f"{both} cannot stand side by side: {'; '.join(differ)}")
        if same is SAME and first.column("instruction") != other.column("instruction"):
            raise RunError(f"{both} are of different instructions; evaluate one again")


def compare(one: Evaluation, other: Evaluation) -> dict[str, Comparison]:
    """Per source set and overall. Raises RunError where the two cannot stand side by side."""
    check_alike([one, other])
    return by_source(
        one.column("dataset"),
        list(zip(one.column("preference"), other.column("preference"), strict=True)),
        lambda pairs: compare_paired(*zip(*pairs, strict=True)),
    )


def comparison_table(one: Evaluation, other: Evaluation, by_set: dict[str, Comparison]) -> str:
    rows = [["set", "difference", "95 %", "p", "n", "missing"]]
    for source, c in by_set.items():
        interval = f"{c.low:+.1f} to {c.high:+.1f}"
        numbers = [f"{c.p_value:.4f}", str(c.n), str(c.n_missing)]
        rows.append([source, f"{c.difference:+.2f}", interval, *numbers])
    return (
        f"{one.results['model']} minus {other.results['model']}, win rate against"
        f" {one.results['baseline']} in points, judged by {one.results['judge']}\n"
        f"{text_table(rows)}\n"
        "p: two-sided, by sign flips, each set by itself (not corrected for their number)"
    )


def checked_table(one: Evaluation, other: Evaluation) -> str:
    """Each number's paired difference. Raises RunError where the two are of different tasks."""
    check_alike([one, other], SAME_CHECKED)
    rows = [["", "difference", "95 %", "n"]]
    for name, (column, level) in one.results["measured"].items():
        found = difference(*(at_level(level, side.column(column)) for side in (one, other)))
        interval = f"{found.low:+.1f} to {found.high:+.1f}"
        rows.append([name, f"{found.difference:+.2f}", interval, str(found.n)])
    sides = f"{one.results['model']} minus {other.results['model']}"
    return f"{sides}, {one.results['benchmark']}, in points\n{text_table(rows)}"


if __name__ == "__main__":
    start_module("eval.compare", __doc__)
