"""An external reward from a Python function of the user's: texts go in, its numbers come out."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.rewards.checked import RANGE, Range, checked, range_problems, refuse_outside
from lsp.settings.reader import imported
from lsp.settings.schema import Code, setting, settings

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class CallableReward(RewardSettings):
    """R is what a function returns for lists of queries and answers of equal length: one finite
    number a pair, in their order."""

    path: Code = setting("package.module.function; from the command line alone")
    range: Range = setting(RANGE, default=None)

    def problems(self, config: Config) -> list[tuple[str, str]]:
        return range_problems(self.range)

    def uncounted(self) -> Sequence[str]:
        return (f"what {self.path} needs",)

    def build(self, context: BuildContext) -> Reward:
        return CallableScorer(self.path, self.range)


class CallableScorer(Reward):
    """Call it with queries and answers of equal number. Raises ValueError, with the place, for
    whatever goes wrong in the function, and for an answer that is not rewards or is outside of
    ``limits``."""

    def __init__(self, path: str, limits: Range = None):
        self.path, self.limits = path, limits
        self.function = imported(path)

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        try:
            values = self.function(list(queries), list(answers))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"the reward {self.path} failed at {place.filename}:{place.lineno}:"
                f" {type(error).__name__}: {error}; correct it"
            ) from error
        try:
            rewards = checked(values, len(queries))
        except ValueError as error:
            raise ValueError(
                f"the reward {self.path} returned something else than a number for each pair:"
                f" {error}; correct it"
            ) from error
        refuse_outside(self.limits, f"the reward {self.path}", queries, answers, rewards)
        return rewards
