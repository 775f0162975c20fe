"""Records go in, what stands side by side in a comparison comes out, pure but for held-out scores.

A *side* is what is compared: a run or, where several runs differ in their seed alone, all of them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import NamedTuple

from lsp.contracts import HeldOut
from lsp.report.record import Record
from lsp.tracking.reader import read_held_out

OF_PLACE = ("run_dir", "runs_root", "run_name", "resume", "dry_run", "accept_gap")
"""Settings that change nothing of what is learnt or measured."""
DRAWN, CHOSEN = 3, 3
"""Held-out prompts that are shown: by chance, and of those where a side is furthest ahead."""
REWARD = ("world.", "reward.")
QUALITY = ("world.", "self_reward.", "prompts.judge", "model.", "init.")
ROLES = (*REWARD, *QUALITY, "method.self_reward")
MEASURED_BY: Mapping[str, Sequence[str]] = {
    "reward/external/mean": REWARD,
    "quality/mean": QUALITY,
    "reward/solver/mean": ROLES,
    "reward/challenger/mean": (
        *ROLES,
        *("method.challenger_reward", "method.repetition_penalty", "method.novelty_weight"),
        *("method.queries", "method.invalid_query"),
    ),
    "kl/solver/k2": ("model.", "init."),
    "kl/challenger/k2": ("model.", "init."),
}
"""Metric -> settings (or the beginnings of their names) that make it a quantity of its own."""
WEIGHT = "w as the first play told it"


@dataclass(frozen=True)
class Side:
    """``letter``: its name in tables; ``scores_of``: of each of ``runs`` what it scored on each
    held-out prompt, nothing of one that keeps no scores."""

    letter: str
    name: str
    runs: tuple[Record, ...]
    scores_of: tuple[Sequence[HeldOut], ...]

    @property
    def measured(self) -> list[tuple[Record, Sequence[HeldOut]]]:
        """Runs that have scores, with these."""
        return [(run, rows) for run, rows in zip(self.runs, self.scores_of, strict=True) if rows]

    @property
    def rows(self) -> Sequence[HeldOut]:
        """Of the first run that has them; none where no run has."""
        return next((rows for _, rows in self.measured), ())

    @property
    def prompts(self) -> list[tuple[str, float]]:
        return prompts_of(self.rows)

    @property
    def scores(self) -> list[float]:
        """Of each prompt, the mean over the runs that have scores."""
        of_runs = zip(*(rows for _, rows in self.measured), strict=True)
        return [mean(row.trained_score for row in rows) for rows in of_runs]

    @property
    def base(self) -> float:
        return sum(row.weight * row.base_score for row in self.rows)

    @property
    def trained(self) -> float:
        """The evaluation's first number, the mean over the runs."""
        return mean(self.by_seed().values())

    def by_seed(self) -> dict[int, float]:
        """Seed -> the evaluation's first number; runs of one seed have their mean."""
        found: dict[int, list[float]] = {}
        for run, rows in self.measured:
            value = sum(row.weight * row.trained_score for row in rows)
            found.setdefault(run.settings["seed"], []).append(value)
        return {seed: mean(values) for seed, values in found.items()}


def sides_of(records: Sequence[Record]) -> list[Side]:
    """Runs that differ in their seed alone are one side; where all do, each run is its own. Sides
    are named by method and init and, where that would not tell them apart, by the settings in which
    they differ."""
    alike: dict[str, list[Record]] = {}
    for record in records:
        alike.setdefault(record.group, []).append(record)
    groups = list(alike.values())
    if len(groups) == 1:
        groups = [[record] for record in records]
    sides = [
        Side(
            _letter(i),
            f"{runs[0].run['method']} from {runs[0].settings.get('init.source', 'base')}",
            tuple(runs),
            tuple(read_held_out(run.folder) if run.summary else () for run in runs),
        )
        for i, runs in enumerate(groups)
    ]
    if len({side.name for side in sides}) == len(sides):
        return sides
    told = [(key.rpartition(".")[2], values) for key, values in different_settings(sides)]
    return [
        replace(
            side, name=" ".join([side.name, *(f"{key}={values[i]}" for key, values in told[:3])])
        )
        for i, side in enumerate(sides)
    ]


def _letter(number: int) -> str:
    """A to Z, then A1 to Z1, …"""
    turn, letter = divmod(number, 26)
    return chr(ord("A") + letter) + (str(turn) if turn else "")


def prompts_of(rows: Sequence[HeldOut]) -> list[tuple[str, float]]:
    return [(row.prompt, row.weight) for row in rows]


def different_settings(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each side) of those that differ; several values of a side are listed,
    and "—" stands for none."""
    keys = dict.fromkeys(key for side in sides for run in side.runs for key in run.settings)
    found = []
    for key in keys:
        values = [", ".join(dict.fromkeys(_value(run, key) for run in side.runs)) for side in sides]
        if key not in OF_PLACE and len(set(values)) > 1:
            found.append((key, values))
    return found


def _value(run: Record, key: str) -> str:
    value = run.settings.get(key, "—")
    return "null" if value is None else str(value)


def not_common(sides: Sequence[Side], metric: str) -> list[str]:
    """Settings by which a metric is another quantity in one side than in another, with the values;
    none where it may be drawn on common axes."""
    beginnings = tuple(MEASURED_BY.get(metric, ()))
    reasons = [
        f"{key} ({'; '.join(f'{s.letter}: {v}' for s, v in zip(sides, values, strict=True))})"
        for key, values in different_settings(sides)
        if beginnings and key.startswith(beginnings)
    ]
    if "method.self_reward" in beginnings:
        weights = [side.runs[0].run.get("self_reward_weight", {}).get("weight") for side in sides]
        if len(set(weights)) > 1:
            reasons.append(f"{WEIGHT} ({', '.join(f'{w:.3g}' if w else '—' for w in weights)})")
    return reasons


class Answered(NamedTuple):
    """One held-out prompt; ``bases``: different answers of the bases; ``answers``: (answer, score)
    of each side. ``why``: how it came to be shown."""

    prompt: str
    right_answer: str | None
    why: str
    bases: Sequence[str]
    answers: Sequence[tuple[str, float | None]]


def answered(sides: Sequence[Side], all_paired: bool) -> list[Answered]:
    """Held-out prompts with what each side answers, first run of each: some by chance, then those
    where one side is furthest ahead of all others. Where a side has no scores, those examples that
    all kept."""
    if not all_paired:
        return _examples(sides)
    count = len(sides[0].rows)
    drawn = random.Random("examples").sample(range(count), min(DRAWN, count))
    why = dict.fromkeys(drawn, "by chance")
    for side in sides:
        lead = [
            side.rows[i].trained_score
            - max(other.rows[i].trained_score for other in sides if other is not side)
            for i in range(count)
        ]
        ranked = sorted((i for i in range(count) if i not in why), key=lambda i: -lead[i])
        why |= {i: f"{side.letter} is furthest ahead" for i in ranked[:CHOSEN] if lead[i] > 0}
    found = []
    for i, reason in why.items():
        rows = [side.rows[i] for side in sides]
        answers = [(row.trained, row.trained_score) for row in rows]
        bases = list(dict.fromkeys(row.base for row in rows))
        found.append(Answered(rows[0].prompt, rows[0].right_answer, reason, bases, answers))
    return found


def _examples(sides: Sequence[Side]) -> list[Answered]:
    kept = [{example.prompt: example for example in side.runs[0].examples} for side in sides]
    return [
        Answered(
            prompt, one.right_answer, "by chance",
            list(dict.fromkeys(each[prompt].base for each in kept)),
            [(each[prompt].trained, None) for each in kept],
        )
        for prompt, one in kept[0].items()
        if all(prompt in each for each in kept)
    ]  # fmt: skip


def evaluated(sides: Sequence[Side]) -> list[tuple[str, float | None, list[float | None]]]:
    """(words, the base's number, each side's mean over its finished runs) by the labels of the
    evaluation; None where a number was not measured."""
    labels = sides[0].runs[0].labels
    rows = []
    for key, words in labels.items():
        ended = [_mean_of(side, f"final/{key}") for side in sides]
        if any(value is not None for value in ended):
            rows.append((words, _mean_of(sides[0], f"base/{key}"), ended))
    return rows


def ends(side: Side) -> tuple[float | None, float | None]:
    """The evaluation's first number of base and trained model: of its scores or, where it keeps
    none, of its summary."""
    if side.measured:
        return side.base, side.trained
    first = next(iter(side.runs[0].labels), "")
    return _mean_of(side, f"base/{first}"), _mean_of(side, f"final/{first}")


def _mean_of(side: Side, key: str) -> float | None:
    values = [run.summary[key] for run in side.runs if run.summary.get(key) is not None]
    return mean(values) if values else None


def benchmarks(records: Sequence[Record]) -> list[str]:
    """On which ``lsp eval`` has evaluated every one of them (``<run>/eval/<benchmark>``)."""
    found = [
        {path.parent.name for path in record.folder.glob("eval/*/results.json")}
        for record in records
    ]
    return sorted(set.intersection(*found))
