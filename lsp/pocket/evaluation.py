"""Evaluation in the pocket world: a model goes in, its exact accuracy and more come out.

*Accuracy* is the model's probability of the right answer, end token included, by teacher
forcing at temperature 1: no sampling noise. It is the value V(q) under exact match, known for
every query. Averages weigh each (family, length) cell alike, so that the many long arguments
do not drown the few short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lsp.contracts import BuildContext, Evaluator, EvaluatorSettings
from lsp.pocket.language import FAMILIES, MAX_LENGTH, Task, evaluation_queries, parse
from lsp.settings.schema import setting, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.settings.config import Config


@settings
class PocketEvaluation(EvaluatorSettings):
    """Exact accuracy on the dev split on the way, on the test split at the end."""

    every: int = setting(
        "steps between evaluations, beside the start and the end", ge=0, le=10_000_000
    )
    dev_per_cell: int = setting("dev queries of one (family, length) at most", ge=1, le=100_000)
    test_per_cell: int = setting("test queries of one (family, length) at most", ge=1, le=100_000)
    challenger_samples: int = setting(
        "queries drawn to measure what the Challenger writes", ge=1, le=1_000_000
    )
    name = "pocket"
    labels = MappingProxyType(
        {
            "accuracy": "exact accuracy",
            "greedy_accuracy": "greedy accuracy",
            **{f"accuracy/length_{n}": f"  length {n}" for n in range(1, MAX_LENGTH + 1)},
            **{f"accuracy/{family}": f"  {family}" for family in FAMILIES},
            "valid_query_frac": "legal queries",
            "distinct_query_frac": "distinct queries",
            "argument_length": "argument length",
        }
    )

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if config.world.name != "pocket":
            return [("the pocket evaluation is of the pocket world", "choose eval=none")]
        return ()

    def build(self, context: BuildContext) -> PocketEvaluator:
        return PocketEvaluator(self, context.players, context.base)


@dataclass(frozen=True)
class Skill:
    """What a model can do on one split. Row i belongs to ``tasks[i]``."""

    tasks: list[Task]
    probability: list[float]
    greedy_right: list[bool]

    def accuracy(self, **cell: Any) -> float:
        """Mean exact accuracy over cells; ``family=`` and ``length=`` narrow it."""
        return _cell_mean(self.tasks, self.probability, **cell)

    def greedy_accuracy(self, **cell: Any) -> float:
        return _cell_mean(self.tasks, [float(right) for right in self.greedy_right], **cell)

    def lengths(self) -> list[int]:
        return sorted({len(task.argument) for task in self.tasks})

    def families(self) -> list[str]:
        return list(dict.fromkeys(task.family for task in self.tasks))


def _cell_mean(
    tasks: Sequence[Task],
    values: Sequence[float],
    family: str | None = None,
    length: int | None = None,
    min_length: int = 1,
) -> float:
    cells: dict[tuple[str, int], list[float]] = {}
    for task, value in zip(tasks, values, strict=True):
        size = len(task.argument)
        if family in (None, task.family) and length in (None, size) and size >= min_length:
            cells.setdefault((task.family, size), []).append(value)
    means = [sum(cell) / len(cell) for cell in cells.values()]
    return sum(means) / len(means)


class PocketEvaluator(Evaluator):
    """Measures models against the base, whose skill is computed once for each split."""

    def __init__(self, settings: PocketEvaluation, players: Players, base: PreTrainedModel):
        self.settings = settings
        self.players = players
        self.base = base
        self._tasks = {
            "dev": evaluation_queries("dev", settings.dev_per_cell),
            "test": evaluation_queries("test", settings.test_per_cell),
        }
        self._base_skill: dict[str, Skill] = {}

    def skill(self, model: PreTrainedModel, split: str) -> Skill:
        return measure_skill(model, self.players, self._tasks[split])

    def base_skill(self, split: str) -> Skill:
        if split not in self._base_skill:
            self._base_skill[split] = self.skill(self.base, split)
        return self._base_skill[split]

    def metrics(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """``accuracy`` and the rest, without a prefix; see docs/metrics.md."""
        base = self.base_skill(split)
        skill = base if model is self.base else self.skill(model, split)
        wins, losses = win_loss(skill, base)
        n = len(skill.tasks)
        return {
            "accuracy": skill.accuracy(),
            "greedy_accuracy": skill.greedy_accuracy(),
            "wins": wins,
            "ties": n - wins - losses,
            "losses": losses,
            "win_rate": (wins + (n - wins - losses) / 2) / n,
            **{f"accuracy/length_{k}": skill.accuracy(length=k) for k in skill.lengths()},
            **{f"accuracy/{f}": skill.accuracy(family=f) for f in skill.families()},
            **self.challenger(model),
        }

    def challenger(self, model: PreTrainedModel) -> dict[str, float]:
        """What the model asks when it plays Challenger: shares of ``challenger_samples``."""
        from lsp.types import DrawKey  # loads torch, which no reader of settings needs

        key = DrawKey(self.players.config.seed, 0, "eval")
        queries = self.players.ask(model, self.settings.challenger_samples, key)
        tasks = [parse(query.text) if query.played else None for query in queries]
        legal = [task for task in tasks if task is not None]
        return {
            "valid_query_frac": len(legal) / len(queries),
            "distinct_query_frac": len({query.text for query in queries}) / len(queries),
            "argument_length": sum(len(t.argument) for t in legal) / max(1, len(legal)),
        }


def measure_skill(model: PreTrainedModel, players: Players, tasks: Sequence[Task]) -> Skill:
    """Exact and greedy accuracy on any tasks, e.g. all legal queries."""
    from lsp.model.probability import completion_probability

    prompts = players.chat.encode([players.prompts.solver_messages(t.query) for t in tasks])
    probability = completion_probability(
        model,
        players.chat,
        prompts,
        [task.right_answer for task in tasks],
        players.config.optim.micro_batch_tokens,
    )
    limit = players.config.rollout.max_new_tokens
    written = players.greedy(model, prompts, limit)
    right = [text == task.right_answer for text, task in zip(written, tasks, strict=True)]
    return Skill(list(tasks), probability, right)


def win_loss(skill: Skill, base: Skill) -> tuple[int, int]:
    """Queries that only the model, and that only the base, answers right (greedy)."""
    pairs = list(zip(skill.greedy_right, base.greedy_right, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))
