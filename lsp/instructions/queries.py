"""GRPO's data in the instructions world: human instructions go in, each with a rule, they come
out."""

from __future__ import annotations

import random

from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.instructions.rules import TRAIN, parse, seeds
from lsp.instructions.tasks import DEV, TEST
from lsp.queries.dataset import InstructionQueries
from lsp.settings.schema import setting, settings


@settings
class RuledInstructions(InstructionQueries):
    """Instructions of a file or a Hub data set, in Alpaca's columns, with rules of the train kinds
    as the Challenger's have them. Left out: longer ones, those with an input, and whatever names a
    topic of an evaluation."""

    max_words: int = setting("of an instruction", ge=1, le=1000)
    per_rule: int = setting("sentences of each rule that are drawn from", ge=1, le=100)

    def build(self, context: BuildContext) -> list[str]:
        draw, rules = random.Random("rules"), seeds(TRAIN, self.per_rule)
        tasks = [text for text in super().build(context) if self.fits(text)]
        if not tasks:
            raise RunError(
                f"{self.path} holds no instruction of one line and at most {self.max_words} words;"
                " raise data.max_words, or give another data.path"
            )
        return [f"{task} {draw.choice(rules)}" for task in tasks]

    def fits(self, text: str) -> bool:
        """Whether an instruction is short, in one line, has no rule, and is of no evaluation."""
        alone = "\n" not in text and len(text.split()) <= self.max_words
        evaluated = any(topic in text.lower() for topic in (*DEV, *TEST))
        return alone and not evaluated and parse(text) is None
