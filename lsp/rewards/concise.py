"""An external reward without a model: answers go in, how concise they are comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.settings.schema import setting, settings


@settings
class ConciseReward(RewardSettings):
    """R is 1 for an answer of at most ``words`` words, words over its length for a longer one, and
    0 for an empty one. It needs nothing, and it is easily hacked, by an answer of one word: what
    stands against that is the self-reward."""

    words: int = setting("of the longest answer that gets the whole reward", ge=1, le=2**20)

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def build(self, context: BuildContext) -> Reward:
        return Concise(self.words)


class Concise(Reward):
    def __init__(self, words: int):
        self.words = words

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        lengths = [len(answer.split()) for answer in answers]
        return [min(1.0, self.words / length) if length else 0.0 for length in lengths]
