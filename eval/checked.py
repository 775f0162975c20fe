"""Settings go in, what checks say of each answer by itself comes out: shares by level and kind.

Where there is a base (a run's, or ``baseline=``), it is checked too, and the differences are paired
prompt by prompt.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.answers import base_side, match_answers, resolve_side
from eval.contracts import CheckedSettings, EvaluationContext
from eval.plan import Answers, digest, planned_answers
from eval.results import keep_earlier
from eval.settings import EvaluateConfig
from eval.types import Task
from lsp.files import write_json, write_json_lines
from lsp.instructions.scores import Groups, difference, of_prompts, share
from lsp.judging.spending import day
from lsp.tools.text import text_table

IDENTITY = ("tasks", "answers", "baseline_answers")
"""What makes two evaluations in one folder the same."""


@dataclass(frozen=True)
class CheckedPlan:
    """``base``: None where nothing stands beside the model. ``folder``: where results go."""

    tasks: Sequence[Task]
    model: Answers
    base: Answers | None
    folder: Path

    @property
    def sides(self) -> list[Answers]:
        return [self.model] if self.base is None else [self.model, self.base]


def make_checked_plan(config: EvaluateConfig) -> CheckedPlan:
    """Raises RunError for sides, tasks and ready answers that cannot be used."""
    look_up, benchmark, root = not config.dry_run, config.benchmark, Path(config.runs_root)
    model, base = resolve_side(config.run, config.runs_root, look_up), None
    if config.baseline:
        base = resolve_side(config.baseline, config.runs_root, look_up)
    elif model.run is not None:
        base = base_side(model, look_up)
    tasks = benchmark.build(EvaluationContext(config))[: config.first]
    for side in filter(None, (model, base)):
        if side.file is not None:
            match_answers(side.file, tasks, benchmark.nearest)
    place = model.run or root / "eval" / model.name.replace("/", "--")
    folder = place / "eval" / benchmark.name
    ours = planned_answers(config, tasks, model, 0, folder)
    theirs = base and planned_answers(config, tasks, base, 0, root / "answers")
    return CheckedPlan(tasks, ours, theirs, folder)


def checked_plan_text(plan: CheckedPlan) -> str:
    """What a dry run says."""
    sides = " against ".join(answers.side.name for answers in plan.sides)
    verdicts = sum(len(task.kinds) for task in plan.tasks)
    counts = f"{len(plan.tasks)} prompts, {verdicts} verdicts on each side"
    return f"{sides}, checked\n  {counts}; no calls, no cost\n  results in {plan.folder}"


@dataclass(frozen=True)
class Checked:
    """The rows of pairs.jsonl of each side; ``base`` is None where there is none."""

    tasks: Sequence[Task]
    model: list[dict[str, Any]]
    base: list[dict[str, Any]] | None

    def groups(self, rows: list[dict[str, Any]], column: str, kind: str | None = None) -> Groups:
        """The verdicts of a column, a prompt a group; of one kind alone, if it is given."""
        groups = []
        for task, row in zip(self.tasks, rows, strict=True):
            pairs = zip(task.kinds, row[column], strict=True)
            groups.append([verdict for name, verdict in pairs if kind in (None, name)])
        return groups

    def rows(self, answers: Sequence[str], base_answers: Sequence[str] | None) -> list[dict]:
        """One row a prompt: what was asked and answered, and what was found."""
        rows = []
        for place, task in enumerate(self.tasks):
            row = {"index": task.index, "prompt": task.text, "kinds": list(task.kinds)}
            rows.append({**row, **self.model[place], "answer": answers[place]})
            if self.base is not None and base_answers is not None:
                found = {f"base_{name}": value for name, value in self.base[place].items()}
                rows[-1] |= {**found, "base_answer": base_answers[place]}
        return rows


def summarise_checked(
    config: EvaluateConfig, plan: CheckedPlan, checked: Checked, outputs: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """results.json: each number in percent under its name, the base's under ``base_<name>``."""
    benchmark, numbers = config.benchmark, {}
    errors, missing, differences = {}, {}, {}
    sides = {"": checked.model} | ({} if checked.base is None else {"base_": checked.base})
    for prefix, rows in sides.items():
        shares = {
            name: share(at_level(level, checked.groups(rows, column)))
            for name, (column, level) in benchmark.measured.items()
        }
        percents = {name: found.percent for name, found in shares.items()}
        percents |= benchmark.further_numbers(percents)
        numbers |= {f"{prefix}{name}": value for name, value in percents.items()}
        errors |= {f"{prefix}{name}": s.standard_error for name, s in shares.items()}
        missing |= {f"{prefix}{name}": s.n_missing for name, s in shares.items()}
    if checked.base is not None:
        for name, (column, level) in benchmark.measured.items():
            both = [at_level(level, checked.groups(rows, column)) for rows in sides.values()]
            differences[name] = asdict(difference(*both))
    return {
        "model": plan.model.side.name,
        "baseline": plan.base and plan.base.side.name,
        "benchmark": benchmark.name,
        "measured": {name: list(place) for name, place in benchmark.measured.items()},
        "data": benchmark.data,
        "date": day(),
        "checkpoint": plan.model.side.model,
        "tasks": digest([[task.text, list(task.kinds)] for task in plan.tasks]),
        "answers": digest(list(outputs[0])),
        "baseline_answers": digest(list(outputs[1])) if plan.base else None,
        "temperature": benchmark.temperature,
        "max_new_tokens": benchmark.max_new_tokens,
        "n_prompts": len(plan.tasks),
        "n_verdicts": sum(len(task.kinds) for task in plan.tasks),
        "n_empty": sum(not answer.strip() for answer in outputs[0]),
        **numbers,
        "standard_error": errors,
        "n_missing": missing,
        "difference": differences,
        "by_kind": by_kind(benchmark, checked),
    }


def at_level(level: str, groups: Groups) -> Groups:
    """One verdict an answer (``answer``), or all of them (``verdict``)."""
    return of_prompts(groups) if level == "answer" else groups


def by_kind(benchmark: CheckedSettings, checked: Checked) -> dict[str, dict[str, Any]]:
    """Kind -> percent of each column's verdicts, the base's too, with their number."""
    columns = list(dict.fromkeys(column for column, _ in benchmark.measured.values()))
    sides = {"": checked.model} | ({} if checked.base is None else {"base_": checked.base})
    table = {}
    for kind in sorted({kind for task in checked.tasks for kind in task.kinds}):
        found = {
            f"{prefix}{column}": share(checked.groups(rows, column, kind))
            for prefix, rows in sides.items()
            for column in columns
        }
        counts = {"n": sum(task.kinds.count(kind) for task in checked.tasks)}
        counts["n_missing"] = found[columns[0]].n_missing
        table[kind] = counts | {name: one.percent for name, one in found.items()}
    return table


def checked_table(results: dict[str, Any]) -> str:
    """The results for a reader: each number, then each kind where there are several."""
    base, differences = results["baseline"], results["difference"]
    rows = [["", "%", "± se", *(["base", "difference", "95 %"] if base else [])]]
    for name in results["measured"]:
        rows.append([name, f"{results[name]:.2f}", f"{results['standard_error'][name]:.2f}"])
        if base:
            found = differences[name]
            interval = f"{found['low']:+.1f} to {found['high']:+.1f}"
            rows[-1] += [f"{results[f'base_{name}']:.2f}", f"{found['difference']:+.2f}", interval]
    against = f" against {base}" if base else ""
    lines = [
        f"{results['model']}{against}, {results['benchmark']} on {results['date']}:"
        f" {results['n_prompts']} prompts, {results['n_verdicts']} verdicts",
        text_table(rows),
    ]
    if len(results["by_kind"]) > 1:
        lines.append(_kinds_table(results["by_kind"]))
    if results["n_empty"]:
        lines.append(f"{results['n_empty']} answers are empty")
    if any(results["n_missing"].values()):
        each = (f"{name} {count}" for name, count in results["n_missing"].items() if count)
        lines.append(f"no verdict, left out: {', '.join(each)}")
    return "\n".join(lines)


def _kinds_table(kinds: dict[str, dict[str, Any]]) -> str:
    first = next(iter(kinds.values()))
    columns = [name for name in first if name not in ("n", "n_missing")]
    rows = [["kind", "n", *columns]]
    for kind, found in kinds.items():
        rows.append([kind, str(found["n"]), *(f"{found[name]:.1f}" for name in columns)])
    return text_table(rows)


def save_checked(folder: Path, results: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write an evaluation; one of other tasks, answers or baseline is kept."""
    keep_earlier(folder, results, IDENTITY)
    write_json_lines(folder / "pairs.jsonl", rows)
    write_json(folder / "results.json", results)
