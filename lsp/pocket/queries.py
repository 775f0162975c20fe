"""The pocket world's data set: legal queries of its train split."""

import random

from lsp.contracts import BuildContext, QueriesSettings
from lsp.pocket.language import split_cells
from lsp.settings.schema import setting, settings


@settings
class PocketQueries(QueriesSettings):
    """Legal queries of the train split; none is in the dev or test split."""

    per_cell: int = setting("at most so many of each (family, length)", ge=1, le=100_000)
    max_length: int = setting("of the argument", ge=1, le=8)

    def build(self, context: BuildContext) -> list[str]:
        draw, queries = random.Random("pocket queries"), []
        for cell in split_cells("train"):
            texts = [task.query for task in cell if len(task.argument) <= self.max_length]
            queries += draw.sample(texts, min(self.per_cell, len(texts)))
        return queries
