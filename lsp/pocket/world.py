"""The pocket world's queries: texts go in, legality, answers and kinds come out."""

from collections.abc import Sequence

from lsp.contracts import QueryKinds, World
from lsp.pocket.language import FAMILIES, LENGTHS, form_rubric, parse, split_cells
from lsp.settings.schema import settings


@settings
class PocketWorld(World):
    """String tasks with one right answer each (lsp/pocket/language.py)."""

    name = "pocket"
    makes_earlier_runs = True

    def is_legal(self, query: str) -> bool:
        return parse(query) is not None

    def right_answer(self, query: str) -> str | None:
        return task.right_answer if (task := parse(query)) else None

    def quality(self, query: str, answer: str) -> float:
        return float(form_rubric(query, answer))

    def known_pairs(self) -> Sequence[tuple[str, str]]:
        tasks = (task for cell in split_cells("dev") for task in cell[:1])
        return [(task.query, task.right_answer) for task in tasks][:15]

    def kinds(self, queries: Sequence[str]) -> Sequence[QueryKinds]:
        lengths = [str(length) for length in LENGTHS]
        return (
            QueryKinds("family", list(FAMILIES), lambda query: query.partition(" ")[0]),
            QueryKinds("length", lengths, lambda query: str(len(query.partition(" ")[2])), True),
        )
