"""The pocket world's data set: legal queries of its train split."""

import random

from lsp.contracts import BuildContext, QueriesSettings
from lsp.pocket.language import legal_queries, split
from lsp.settings.schema import setting, settings


@settings
class PocketQueries(QueriesSettings):
    """Legal queries of the train split; none is in the dev or test split."""

    per_cell: int = setting("at most so many of each (family, length)", ge=1, le=100_000)
    max_length: int = setting("of the argument", ge=1, le=8)

    def build(self, context: BuildContext) -> list[str]:
        draw = random.Random("pocket queries")
        cells: dict[tuple[str, int], list[str]] = {}
        for task in legal_queries():
            if split(task) == "train" and len(task.argument) <= self.max_length:
                cells.setdefault((task.family, len(task.argument)), []).append(task.query)
        return [
            query
            for members in cells.values()
            for query in draw.sample(members, min(self.per_cell, len(members)))
        ]
