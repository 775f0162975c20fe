"""An external reward that is a weighted sum of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lsp.schema import number


@dataclass(frozen=True)
class Part:
    """One summand. A negative ``weight`` is a penalty; a part of weight 0 is logged alone."""

    weight: float = number()
    reward: Any = field(metadata={"component": True})


@dataclass(frozen=True)
class WeightedReward:
    """R = sum over parts of weight · reward. Its range is the same sum of the parts' ranges; None
    where a part has none."""

    parts: dict[str, Part]

    @property
    def range(self) -> tuple[float, float] | None:
        low = high = 0.0
        for part in self.parts.values():
            bounds = getattr(part.reward, "range", None)
            if bounds is None:
                return None
            ends = sorted(part.weight * bound for bound in bounds)
            low, high = low + ends[0], high + ends[1]
        return low, high

    def problems(self, config) -> list[tuple[str, str]]:
        found = []
        if not any(part.weight for part in self.parts.values()):
            reason = "no part has a weight, so all answers would have the same reward"
            found.append((reason, "give a weight other than 0 to one of reward.parts"))
        for name, part in self.parts.items():
            told = getattr(part.reward, "problems", lambda c: [])(config)
            found += [(f"part {name}: {reason}", fix) for reason, fix in told]
        return found

    def build(self, device) -> WeightedSum:
        weights = {name: part.weight for name, part in self.parts.items()}
        rewards = {name: part.reward.build(device) for name, part in self.parts.items()}
        return WeightedSum(weights, rewards)


class WeightedSum:
    """The loaded parts; call it with queries and answers of equal number."""

    def __init__(self, weights: Mapping[str, float], rewards: Mapping[str, Any]):
        self.weights = weights
        self.rewards = rewards
        self._values: dict[str, list[float]] = {}

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        total = [0.0] * len(queries)
        for name, reward in self.rewards.items():
            values = self._values[name] = reward(queries, answers)
            weight = self.weights[name]
            total = [so_far + weight * value for so_far, value in zip(total, values, strict=True)]
        return total

    def offload(self) -> None:
        """From now on the parts' models are on the device only while they score."""
        for reward in self.rewards.values():
            if hasattr(reward, "offload"):
                reward.offload()

    def details(self) -> dict[str, list[float]]:
        """``part/<name>``: the part's number of each pair of the last call, before its weight; what
        the part itself tells lies beside it."""
        told = {f"part/{name}": values for name, values in self._values.items()}
        for name, reward in self.rewards.items():
            own = getattr(reward, "details", dict)()
            told |= {f"part/{name}/{key}": values for key, values in own.items()}
        return told
