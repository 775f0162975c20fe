"""An external reward that is a weighted sum of several: each part scores all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from lsp.contracts import BuildContext, OwnModel, Reward, RewardSettings, build_part
from lsp.settings.schema import PLUGGABLE, setting, settings

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class Part:
    """One summand."""

    weight: float = setting(
        "a negative one is a penalty; a part of weight 0 is logged alone", ge=-1e6, le=1e6
    )
    reward: Annotated[RewardSettings, PLUGGABLE] = setting("any reward")


@settings
class WeightedReward(RewardSettings):
    """R = sum over parts of weight · reward. Its range is the same sum of the parts' ranges; None
    where a part has none (one of weight 0 adds nothing to either)."""

    parts: dict[str, Part] = setting("summands, by names of the user's")

    @cached_property
    def range(self) -> tuple[float, float] | None:
        low = high = 0.0
        for part in self.parts.values():
            if not part.weight:
                continue
            if part.reward.range is None:
                return None
            ends = sorted(part.weight * bound for bound in part.reward.range)
            low, high = low + ends[0], high + ends[1]
        return low, high

    def own_models(self) -> Sequence[OwnModel]:
        return [model for part in self.parts.values() for model in part.reward.own_models()]

    def uncounted(self) -> Sequence[str]:
        return [text for part in self.parts.values() for text in part.reward.uncounted()]

    def calls(self, config: Config) -> Sequence[str]:
        return [text for part in self.parts.values() for text in part.reward.calls(config)]

    def may_change(self) -> Sequence[str]:
        parts = self.parts.items()
        return [f"parts.{n}.reward.{key}" for n, part in parts for key in part.reward.may_change()]

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        problems = []
        if not any(part.weight for part in self.parts.values()):
            reason = "no part has a weight, so all answers would have the same reward"
            problems.append((reason, "give a weight other than 0 to one of reward.parts"))
        for name, part in self.parts.items():
            problems += [(f"part {name}: {why}", fix) for why, fix in part.reward.problems(config)]
        return problems

    def check(self, context: BuildContext) -> None:
        for part in self.parts.values():
            part.reward.check(context)

    def build(self, context: BuildContext) -> WeightedSum:
        weights = {name: part.weight for name, part in self.parts.items()}
        rewards = {name: build_part(part.reward, context) for name, part in self.parts.items()}
        return WeightedSum(weights, rewards)


@dataclass
class WeightedSum(Reward):
    """The loaded parts; call it with queries and answers of equal number."""

    weights: Mapping[str, float]
    rewards: Mapping[str, Reward]
    _values: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        total = [0.0] * len(queries)
        for name, reward in self.rewards.items():
            values, weight = reward(queries, answers), self.weights[name]
            total = [so_far + weight * value for so_far, value in zip(total, values, strict=True)]
            self._values[name] = values
        return total

    def offload(self) -> None:
        for reward in self.rewards.values():
            reward.offload()

    def details(self) -> dict[str, list[float]]:
        """``part/<name>``: the part's number of each pair of the last call, before its weight; the
        part's own details lie beside it."""
        details = {f"part/{name}": values for name, values in self._values.items()}
        for name, reward in self.rewards.items():
            details |= {f"part/{name}/{key}": v for key, v in reward.details().items()}
        return details
