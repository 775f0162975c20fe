"""Evaluation in the pocket world: a model goes in, its exact accuracy and more come out.

*Accuracy* is the model's probability of the right answer, end token included, by teacher
forcing at temperature 1: no sampling noise. It is the value V(q) under exact match, known for
every query. Averages weigh each (family, length) cell alike, so that the many long arguments
do not drown the few short ones.
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from lsp.contracts import BuildContext, Evaluator, EvaluatorSettings, Example, HeldOut
from lsp.pocket.language import FAMILIES, LENGTHS, Task, evaluation_queries, parse
from lsp.settings.schema import setting, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.pocket.exact import ExactPlay
    from lsp.settings.config import Config


ENDS = ("", "_low", "_high")
OF_SKILL = (
    *("accuracy", "greedy_accuracy", "wins", "ties", "losses", "win_rate"),
    *(f"accuracy/length_{length}" for length in LENGTHS),
    *(f"accuracy/{family}" for family in FAMILIES),
)
OF_DRAWS = ("valid_query_frac", "distinct_query_frac", "argument_length")
OF_GAME = (
    *(f"{gap}{end}" for gap in ("challenger_gap", "solver_gap", "nash_conv") for end in ENDS),
    *("challenger_kl", "solver_kl", "challenger_kl_unseen", "query_entropy"),
    *("effective_support", "coverage"),
)
PREDICTED = ("accuracy", "valid_query_frac", "legal_gibbs", "coverage", "challenger_kl")
"""What is expected of a run's end, beside what is measured. Above: keys of what is."""


@settings
class PocketEvaluation(EvaluatorSettings):
    """Exact accuracy on the dev split on the way, on the test split at the end."""

    every: int = setting("steps between evaluations, beside the start and the end", ge=0, le=10**7)
    dev_per_cell: int = setting("dev queries of one (family, length) at most", ge=1, le=100_000)
    test_per_cell: int = setting("test queries of one (family, length) at most", ge=1, le=100_000)
    challenger_samples: int = setting(
        "queries drawn to measure what the Challenger writes", ge=1, le=1_000_000
    )
    exact: bool = setting(
        "solve the game: gaps, NashConv and what the Challenger writes, without sampling"
        " (docs/game.md); where a run's game cannot be solved, that is said and draws measure it",
        default=False,
    )
    name = "pocket"
    labels: ClassVar[Mapping[str, str]] = {
        "accuracy": "exact accuracy",
        "greedy_accuracy": "greedy accuracy",
        **{f"accuracy/length_{n}": f"  length {n}" for n in LENGTHS},
        **{f"accuracy/{family}": f"  {family}" for family in FAMILIES},
        "valid_query_frac": "legal queries",
        "distinct_query_frac": "distinct queries",
        "argument_length": "argument length",
        "effective_support": "effective support",
        "coverage": "coverage of the test's cells",
        "challenger_gap": "Challenger's gap",
        "solver_gap": "Solver's gap",
        "nash_conv": "NashConv",
    }

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if config.world.name != "pocket":
            return [("the pocket evaluation is of the pocket world", "choose eval=none")]
        objective, group = config.objective or "", f"eval/{self.name}/"
        measured = [f"{group}{key}" for key in self.measured]
        if not objective.startswith(group) or objective in measured:
            return ()
        near = difflib.get_close_matches(objective, measured, n=3, cutoff=0.0)
        return [(f"objective={objective} is none of its numbers", f"near it are {', '.join(near)}")]

    @property
    def measured(self) -> tuple[str, ...]:
        """Keys of ``PocketEvaluator.metrics`` on the way."""
        more = (*OF_GAME, *(f"predicted/{key}" for key in PREDICTED)) if self.exact else ()
        return (*OF_SKILL, *OF_DRAWS, *more)

    def build(self, context: BuildContext) -> PocketEvaluator:
        return PocketEvaluator(self, context.players, context.base)


@dataclass(frozen=True)
class Skill:
    """What a model can do on one split. Row i belongs to ``tasks[i]``. Accuracies are means over
    cells, which ``family=`` and ``length=`` narrow."""

    tasks: list[Task]
    probability: list[float]
    greedy_right: list[bool]
    greedy: list[str]

    def accuracy(self, family: str | None = None, length: int | None = None) -> float:
        return self._cell_mean(self.probability, family, length)

    def greedy_accuracy(self, family: str | None = None, length: int | None = None) -> float:
        return self._cell_mean(self.greedy_right, family, length)

    @property
    def weights(self) -> list[float]:
        """Of each task in ``accuracy()``."""
        cells = [(task.family, len(task.argument)) for task in self.tasks]
        sizes = Counter(cells)
        return [1 / (len(sizes) * sizes[cell]) for cell in cells]

    def _cell_mean(self, values: Sequence[float], family: str | None, length: int | None) -> float:
        cells: dict[tuple[str, int], list[float]] = {}
        for task, value in zip(self.tasks, values, strict=True):
            size = len(task.argument)
            if family in (None, task.family) and length in (None, size):
                cells.setdefault((task.family, size), []).append(value)
        means = [sum(cell) / len(cell) for cell in cells.values()]
        return sum(means) / len(means)


class PocketEvaluator(Evaluator):
    """Measures models against the base, whose skill is computed once for each split."""

    def __init__(self, settings: PocketEvaluation, players: Players, base: PreTrainedModel):
        self.settings, self.players, self.base = settings, players, base
        per_cell = {"dev": settings.dev_per_cell, "test": settings.test_per_cell}
        self._tasks = {split: evaluation_queries(split, n) for split, n in per_cell.items()}
        self._base_skill: dict[str, Skill] = {}
        self._last: Skill | None = None
        self._exact = self._exact_play() if settings.exact else None

    def _exact_play(self) -> ExactPlay | None:
        from lsp.pocket.exact import ExactPlay, obstacle

        reason = obstacle(self.players.config)
        if reason is None:
            try:
                return ExactPlay(self.players)
            except ValueError as error:
                reason = str(error)
        print(f"the exact game is left out: {reason}", flush=True)
        return None

    def metrics(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """``accuracy`` and the rest, without a prefix; see docs/metrics.md."""
        from lsp.model.language_model import same_weights

        tasks = self._tasks[split]
        if split not in self._base_skill:
            self._base_skill[split] = measure_skill(self.base, self.players, tasks)
        base = self._base_skill[split]
        known = same_weights(model, self.base)  # as a run's first policy has
        skill = base if known else measure_skill(model, self.players, tasks)
        if split == "test":
            self._last = skill
        wins, losses = win_loss(skill, base)
        ties = len(tasks) - wins - losses
        return {
            "accuracy": skill.accuracy(),
            "greedy_accuracy": skill.greedy_accuracy(),
            "wins": wins,
            "ties": ties,
            "losses": losses,
            "win_rate": (wins + ties / 2) / len(tasks),
            **{f"accuracy/length_{n}": skill.accuracy(length=n) for n in LENGTHS},
            **{f"accuracy/{family}": skill.accuracy(family=family) for family in FAMILIES},
            **(self._exact.metrics(model) if self._exact else self.challenger(model)),
            **(self._predicted if self._exact and split == "dev" else {}),
        }

    @cached_property
    def _predicted(self) -> dict[str, float]:
        """Of both players at their best, by the reference's tables alone; nothing where the run
        plays by another rule."""
        from lsp.pocket.exact import other_rule

        if reason := other_rule(self.players.config):
            print(f"what this run comes to is not predicted: {reason}", flush=True)
            return {}
        predicted = self._exact.game.predicted()
        return {f"predicted/{key}": predicted[key] for key in PREDICTED}

    def examples(self) -> list[Example]:
        if self._last is None:
            return []
        base, last = self._base_skill["test"].greedy, self._last.greedy
        return [
            Example(task.query, task.right_answer, base[i], last[i])
            for i, task in random.Random("examples").sample(list(enumerate(self._last.tasks)), 3)
        ]

    def held_out(self) -> list[HeldOut]:
        """The probability of each right answer."""
        if self._last is None:
            return []
        base, last = self._base_skill["test"], self._last
        return [
            HeldOut(task.query, task.right_answer, *rest)
            for task, *rest in zip(
                last.tasks, last.weights, base.probability, last.probability, base.greedy,
                last.greedy, strict=True,
            )
        ]  # fmt: skip

    def challenger(self, model: PreTrainedModel) -> dict[str, float]:
        """What the model asks when it plays Challenger: shares of ``challenger_samples``."""
        from lsp.types import DrawKey  # loads torch, which no reader of settings needs

        key = DrawKey(self.players.config.seed, 0, "eval")
        queries = self.players.ask(model, self.settings.challenger_samples, key)
        legal = [task for query in queries if query.played and (task := parse(query.text))]
        return {
            "valid_query_frac": len(legal) / len(queries),
            "distinct_query_frac": len({query.text for query in queries}) / len(queries),
            "argument_length": sum(len(t.argument) for t in legal) / max(1, len(legal)),
        }


def measure_skill(model: PreTrainedModel, players: Players, tasks: Sequence[Task]) -> Skill:
    """Exact and greedy accuracy on any tasks, e.g. all legal queries."""
    from lsp.model.probability import completion_probability

    chat, config = players.chat, players.config
    prompts = chat.encode([players.prompts.solver_messages(task.query) for task in tasks])
    answers = [task.right_answer for task in tasks]
    micro_batch_tokens = config.optim.micro_batch_tokens
    probability = completion_probability(model, chat, prompts, answers, micro_batch_tokens)
    written = players.greedy(model, prompts, config.rollout.max_new_tokens)
    right = [
        completion.text == answer and completion.finish_reason == "stop"
        for completion, answer in zip(written, answers, strict=True)
    ]
    said = [completion.marked for completion in written]
    return Skill(list(tasks), probability, right, said)


def win_loss(skill: Skill, base: Skill) -> tuple[int, int]:
    """Queries that only the model, and that only the base, answers right (greedy)."""
    pairs = list(zip(skill.greedy_right, base.greedy_right, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))
