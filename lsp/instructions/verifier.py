"""The instructions world's external reward: texts go in, the share of rules that are followed comes
out, each checked by a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.instructions.checkers import PACKAGE, follows
from lsp.instructions.rules import Instruction, parse
from lsp.settings.schema import setting, settings

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class InstructionVerifier(RewardSettings):
    """R in [0, 1]; an empty answer, and one to a query that is not legal, scores 0."""

    credit: Literal["partial", "exact"] = setting(
        "partial: the share of an instruction's rules that are followed; exact: 1 for all, else 0"
    )
    range = (0.0, 1.0)

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if config.world.name != "instructions":
            return [("it reads the rules of the instructions world", "say world=instructions too")]
        return package_problems()

    def build(self, context: BuildContext) -> Verifier:
        return Verifier(self.credit)


def package_problems() -> list[tuple[str, str]]:
    """(reason, way out) where the checkers are not installed."""
    if find_spec(PACKAGE):
        return []
    fix = "install the extra: pip install '.[instructions]'"
    return [("the checkers of instructions are not installed", fix)]


def verdicts(instruction: Instruction | None, query: str, answer: str) -> list[bool | None]:
    """Of each rule whether it is followed; None where its checker failed."""
    constraints = instruction.constraints if instruction else ()
    return [follows(constraint, query, answer) for constraint in constraints]


class Verifier(Reward):
    def __init__(self, credit: str):
        self.credit = credit
        self._details: dict[str, list[float]] = {}

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        rewards = []
        self._details = {"followed_all": [], "unchecked": []}
        for query, answer in zip(queries, answers, strict=True):
            instruction = parse(query)
            found = verdicts(instruction, query, answer)
            share = sum(map(bool, found)) / len(found) if found else 0.0
            rewards.append(share if self.credit == "partial" else float(share == 1))
            self._details["followed_all"].append(float(share == 1))
            self._details["unchecked"].append(float(None in found))
        return rewards

    def details(self) -> Mapping[str, list[float]]:
        """``followed_all``: 1 where every rule is; ``unchecked``: 1 where a checker failed, whose
        rule then counts as not followed."""
        return self._details
