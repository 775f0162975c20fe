"""The instructions world's queries: texts go in, legality and kinds come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsp.contracts import QueryKinds, World
from lsp.instructions.rules import MOST, RULES, kinds, parse
from lsp.instructions.verifier import package_problems, verdicts
from lsp.paper.known_pairs import KNOWN_PAIRS
from lsp.paper.world import frequent_openings
from lsp.settings.schema import settings

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class InstructionsWorld(World):
    """Natural instructions with one to three rules that a program checks (rules.py)."""

    name = "instructions"

    def is_legal(self, query: str) -> bool:
        return parse(query) is not None

    def checks(self, query: str, answer: str) -> Sequence[tuple[str, bool | None]]:
        """Each rule; none where the checkers are not installed."""
        if (instruction := parse(query)) is None or package_problems():
            return ()
        names = [short(constraint.kind) for constraint in instruction.constraints]
        return list(zip(names, verdicts(instruction, query, answer), strict=True))

    def known_pairs(self) -> Sequence[tuple[str, str]]:
        return KNOWN_PAIRS

    def kinds(self, queries: Sequence[str]) -> Sequence[QueryKinds]:
        numbers = [str(number) for number in range(1, MOST + 1)]

        def first_rule(query: str) -> str:
            return short(parse(query).constraints[0].kind)

        def rules(query: str) -> str:
            return str(len(parse(query).constraints))

        return (
            QueryKinds("first rule", list(map(short, kinds(RULES))), first_rule),
            QueryKinds("number of rules", numbers, rules, ordered=True),
            frequent_openings(queries),
        )

    def problems(self, config: Config) -> Sequence[tuple[str, str, str]]:
        if config.model.name != "pocket":
            return ()
        reason = "the pocket model was pretrained on the pocket world's prompts alone"
        return (("model.name", reason, "choose another model, or world=pocket"),)


def short(kind: str) -> str:
    """``no comma`` of ``punctuation:no_comma``."""
    return kind.partition(":")[2].replace("_", " ")
