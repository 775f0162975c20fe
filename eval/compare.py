"""``python -m eval.compare ONE OTHER``: two evaluated runs, paired over the same instructions.

    python -m eval.compare outputs/lsp-s0 outputs/grpo-s0 benchmark=alpaca_eval

Both must have been judged by the same judge, under the same template and orders, against the same
baseline. A positive difference speaks for ONE. Nothing is run or asked: it reads pairs.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers import read_rows
from eval.win_rate import Comparison, by_source, compare_paired
from lsp.errors import RunError
from lsp.run.folder import find_run
from lsp.settings.command import read_command

SAME = ("benchmark", "baseline", "judge", "template", "order", "temperature", "max_new_tokens")
"""What two evaluations that stand side by side have in common, beside the baseline's answers."""


@dataclass
class CompareSettings:
    """Where the two are looked for: ``<run>/eval/<benchmark>/``."""

    benchmark: str = "alpaca_eval"
    runs_root: str = "outputs"


@dataclass(frozen=True)
class Evaluation:
    """What ``python -m eval`` left of one run."""

    folder: Path
    results: dict[str, Any]
    rows: list[dict[str, Any]]


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(CompareSettings, arguments)
        if len(names) != 2:
            raise RunError(f"name two runs, not {len(names)}: python -m eval.compare ONE OTHER")
        one, other = (
            read_evaluation(find_run(name, settings.runs_root) / "eval" / settings.benchmark)
            for name in names
        )
        print(comparison_table(one, other, compare(one, other)))
    except RunError as error:
        sys.exit(f"error: {error}")


def read_evaluation(folder: Path) -> Evaluation:
    """Raises RunError where there is none."""
    if not (folder / "results.json").is_file():
        raise RunError(
            f"{folder} holds no evaluation; make one with `python -m eval"
            f" run={folder.parent.parent} eval={folder.name}`"
        )
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if missing := {*SAME, "baseline_answers", "model", "checkpoint"} - set(results):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except ValueError as error:
        raise RunError(
            f"{folder / 'results.json'} cannot be used: {error}; evaluate again"
        ) from error
    return Evaluation(folder, results, read_rows(folder / "pairs.jsonl"))


def compare(one: Evaluation, other: Evaluation) -> dict[str, Comparison]:
    """Per source set and overall. Raises RunError where the two cannot stand side by side."""
    differ = [key for key in SAME if one.results[key] != other.results[key]]
    if differ:
        raise RunError(
            "the two evaluations cannot be compared: "
            + "; ".join(f"{key} is {one.results[key]} and {other.results[key]}" for key in differ)
        )
    if one.results["baseline_answers"] != other.results["baseline_answers"]:
        raise RunError("the two evaluations are against other answers of the baseline")
    if [row["instruction"] for row in one.rows] != [row["instruction"] for row in other.rows]:
        raise RunError("the two evaluations are of different instructions; evaluate one again")
    both = [
        (mine["preference"], theirs["preference"])
        for mine, theirs in zip(one.rows, other.rows, strict=True)
    ]
    return by_source(
        [row["dataset"] for row in one.rows],
        both,
        lambda values: compare_paired(*zip(*values, strict=True)),
    )


def comparison_table(one: Evaluation, other: Evaluation, found: dict[str, Comparison]) -> str:
    names = [evaluation.results["model"] for evaluation in (one, other)]
    lines = [
        f"{names[0]} minus {names[1]}, win rate against {one.results['baseline']} in points, judged"
        f" by {one.results['judge']}",
        f"{'set':<16}{'difference':>11}{'95 %':>18}{'p':>8}{'n':>6}{'missing':>9}",
    ]
    for source, c in found.items():
        lines.append(
            f"{source:<16}{c.difference:>+11.2f}{f'{c.low:+.1f} to {c.high:+.1f}':>18}"
            f"{c.p_value:>8.4f}{c.n:>6}{c.n_missing:>9}"
        )
    lines.append("p: two-sided, by sign flips, each set by itself (not corrected for their number)")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
