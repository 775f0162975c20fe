"""Evaluation in the instructions world: a model goes in, the share of rules that its likeliest
answers follow comes out, beside the base's on the same held-out prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lsp.contracts import BuildContext, Evaluator, EvaluatorSettings, Example, HeldOut
from lsp.errors import RunError
from lsp.instructions.checkers import follows
from lsp.instructions.prompts import Prompt, read_prompts, unchecked
from lsp.instructions.rules import HELD_OUT, RULES, TRAIN, kinds, parse
from lsp.instructions.scores import ifeval_number
from lsp.instructions.tasks import prompts
from lsp.instructions.verifier import package_problems, verdicts
from lsp.instructions.world import short
from lsp.queries.diversity import repetition
from lsp.settings.schema import setting, settings
from lsp.tools.rows import read_rows, unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.settings.config import Config


@settings
class InstructionsEvaluation(EvaluatorSettings):
    """Likeliest answers to held-out prompts, of the dev topics on the way, of the test topics (and
    of kinds of rule that no run trains on) at the end."""

    every: int = setting("steps between evaluations, beside the start and the end", ge=0, le=10**7)
    challenger_samples: int = setting(
        "queries drawn to measure what the Challenger writes", ge=1, le=1_000_000
    )
    ifeval: str | None = setting(
        "a file of IFEval's prompts, whose number the summary then has too; null: none",
        default=None,
    )
    ifeval_tokens: int = setting("of an answer to one of them", ge=1, le=2**20, default=256)
    name = "instructions"
    labels: ClassVar[Mapping[str, str]] = {
        "held_out_reward": "rules followed, held-out prompts",
        "followed_all": "prompts with all rules followed",
        "held_out_kinds_reward": "rules followed, kinds never trained on",
        "ifeval": "IFEval, mean of prompt and instruction level",
        "likelihood": "log p(answer) a token, by the base",
        "repetition": "repeated word triples of an answer",
        "answer_words": "words of an answer",
        "legal_query_frac": "legal queries",
        "distinct_query_frac": "distinct queries",
        **{f"followed/{short(kind)}": f"  {short(kind)}" for kind in kinds(RULES)},
    }

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if config.world.name != "instructions":
            return [("this evaluation is of the instructions world", "choose eval=none")]
        if self.ifeval is not None and (reason := unreadable(Path(self.ifeval))):
            return [(reason, "give eval.ifeval=<a file of its prompts>, or null")]
        return package_problems()

    def build(self, context: BuildContext) -> InstructionsEvaluator:
        return InstructionsEvaluator(self, context.players, context.base)


@dataclass(frozen=True)
class Answers:
    """A model's answers to ``prompts``: which rules each follows, how likely the base finds it."""

    prompts: list[str]
    texts: list[str]
    followed: list[list[bool]]
    likelihood: list[float]

    @property
    def shares(self) -> list[float]:
        return [sum(each) / len(each) for each in self.followed]


class InstructionsEvaluator(Evaluator):
    """Measures models against the base, whose answers are written once for each set of prompts."""

    def __init__(self, settings: InstructionsEvaluation, players: Players, base: PreTrainedModel):
        self.settings, self.players, self.base = settings, players, base
        self._base_answers = cache(lambda split: self.answers(base, split))
        self._base_ifeval = cache(lambda: self.ifeval(base))
        self._last: Answers | None = None
        self._ifeval: list[Prompt] = []
        if settings.ifeval is not None:
            self._ifeval = read_prompts(read_rows(Path(settings.ifeval)))
            if problems := unchecked(self._ifeval):
                raise RunError(f"{settings.ifeval}: {next(iter(problems.values()))}")

    def metrics(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        from lsp.model.language_model import same_weights

        known = same_weights(model, self.base)
        base = self._base_answers(split)
        own = base if known else self.answers(model, split)
        wins, losses = better(own, base), better(base, own)
        ties = len(own.prompts) - wins - losses
        values = {
            "held_out_reward": mean(own.shares),
            "followed_all": mean([share == 1 for share in own.shares]),
            "wins": wins,
            "ties": ties,
            "losses": losses,
            "win_rate": (wins + ties / 2) / len(own.prompts),
            "likelihood": mean(own.likelihood),
            "repetition": mean([repetition(text) for text in own.texts]),
            "answer_words": mean([len(text.split()) for text in own.texts]),
            **by_kind(own, kinds(TRAIN)),
            **self.challenger(model),
        }
        if split == "test":
            self._last = own
            new = "held_out_kinds"
            other = self._base_answers(new) if known else self.answers(model, new)
            values["held_out_kinds_reward"] = mean(other.shares)
            values |= by_kind(other, kinds(HELD_OUT))
            if self._ifeval:
                values["ifeval"] = self._base_ifeval() if known else self.ifeval(model)
        return values

    def examples(self) -> list[Example]:
        if self._last is None:
            return []
        base, last = self._base_answers("test").texts, self._last.texts
        chosen = random.Random("examples").sample(list(enumerate(self._last.prompts)), 3)
        return [Example(prompt, None, base[i], last[i]) for i, prompt in chosen]

    def held_out(self) -> list[HeldOut]:
        """The share of the rules that each answer follows."""
        if self._last is None:
            return []
        base, last = self._base_answers("test"), self._last
        weight = 1 / len(last.prompts)
        columns = (last.prompts, base.shares, last.shares, base.texts, last.texts)
        return [
            HeldOut(prompt, None, weight, *rest) for prompt, *rest in zip(*columns, strict=True)
        ]

    def answers(self, model: PreTrainedModel, split: str) -> Answers:
        """To the prompts of ``dev``, ``test`` or ``held_out_kinds``, by the likeliest tokens."""
        from lsp.model.offload import on_device
        from lsp.model.probability import completion_logprobs

        texts = prompts(split)
        players, config = self.players, self.players.config
        encoded = players.chat.encode([players.prompts.solver_messages(text) for text in texts])
        written = players.greedy(model, encoded, config.rollout.max_new_tokens)
        said = [players.chat.answer_of(completion.text) for completion in written]
        followed = [
            [bool(v) for v in verdicts(parse(text), text, answer)]
            for text, answer in zip(texts, said, strict=True)
        ]
        ids, most = [completion.ids for completion in written], config.optim.micro_batch_tokens
        with on_device(self.base, players.device):
            totals = completion_logprobs(self.base, encoded, ids, most)
        likelihood = [total / len(row) for total, row in zip(totals, ids, strict=True)]
        return Answers(texts, said, followed, likelihood)

    def ifeval(self, model: PreTrainedModel) -> float:
        """IFEval's number, in percent, by the likeliest answers."""
        players, limit = self.players, self.settings.ifeval_tokens
        texts = [prompt.text for prompt in self._ifeval]
        encoded = players.chat.encode([players.prompts.solver_messages(text) for text in texts])
        written = players.greedy(model, encoded, limit)
        said = [players.chat.answer_of(completion.text) for completion in written]
        return ifeval_number(
            [
                [follows(constraint, prompt.text, answer) for constraint in prompt.constraints]
                for prompt, answer in zip(self._ifeval, said, strict=True)
            ]
        )

    def challenger(self, model: PreTrainedModel) -> dict[str, float]:
        """What the model asks when it plays Challenger: shares of ``challenger_samples``."""
        from lsp.types import DrawKey  # loads torch, which no reader of settings needs

        key = DrawKey(self.players.config.seed, 0, "eval")
        queries = self.players.ask(model, self.settings.challenger_samples, key)
        legal = [query.played and parse(query.text) is not None for query in queries]
        return {
            "legal_query_frac": mean(legal),
            "distinct_query_frac": len({query.text for query in queries}) / len(queries),
        }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def better(one: Answers, other: Answers) -> int:
    """Prompts of which ``one`` follows more rules."""
    return sum(a > b for a, b in zip(one.shares, other.shares, strict=True))


def by_kind(answers: Answers, names: Sequence[str]) -> dict[str, float]:
    """``followed/<kind>`` over all rules of that kind."""
    found: dict[str, list[bool]] = {name: [] for name in names}
    for prompt, followed in zip(answers.prompts, answers.followed, strict=True):
        for constraint, yes in zip(parse(prompt).constraints, followed, strict=True):
            if constraint.kind in found:
                found[constraint.kind].append(yes)
    return {f"followed/{short(name)}": mean(values) for name, values in found.items() if values}
