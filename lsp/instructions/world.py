"""The instructions world's queries: texts go in, legality and kinds come out."""

from __future__ import annotations

from collections.abc import Sequence

from lsp.contracts import QueryKinds
from lsp.instructions.rules import MOST, RULES, kinds, parse
from lsp.instructions.verifier import package_problems, verdicts
from lsp.paper.world import PaperWorld, frequent_openings
from lsp.settings.schema import settings


@settings
class InstructionsWorld(PaperWorld):
    """Free text with one to three rules at its end that a program checks (rules.py)."""

    name = "instructions"

    def is_legal(self, query: str) -> bool:
        return parse(query) is not None

    def checks(self, query: str, answer: str) -> Sequence[tuple[str, bool | None]]:
        """Each rule; none where the checkers are not installed."""
        if (instruction := parse(query)) is None or package_problems():
            return ()
        names = [short(constraint.kind) for constraint in instruction.constraints]
        return list(zip(names, verdicts(instruction, query, answer), strict=True))

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


def short(kind: str) -> str:
    """``no comma`` of ``punctuation:no_comma``."""
    return kind.partition(":")[2].replace("_", " ")
