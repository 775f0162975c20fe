"""The pocket world's data set: legal queries of its train split."""

import random

from lsp.contracts import BuildContext, QueriesSettings
from lsp.pocket.language import split_cells
from lsp.settings.schema import setting, settings

DRAWS = 10_000
"""More than a run of a few hundred steps asks."""


@settings
class PocketQueries(QueriesSettings):
    """Legal queries of the train split; none is in the dev or test split."""

    per_cell: int = setting("at most so many of each (family, length)", ge=1, le=100_000)
    max_length: int = setting("of the argument", ge=1, le=8)
    length_decay: float | None = setting(
        "instead, draws whose lengths thin out by it, as those queries do that the base Challenger"
        " was pretrained on (0.7); null: per_cell",
        ge=0.01,
        le=10,
        default=None,
    )

    def build(self, context: BuildContext) -> list[str]:
        draw, queries = random.Random("pocket queries"), []
        if self.length_decay is not None:
            cells = [
                cell for cell in split_cells("train") if len(cell[0].argument) <= self.max_length
            ]
            weights = [self.length_decay ** len(cell[0].argument) for cell in cells]
            return [draw.choice(cell).query for cell in draw.choices(cells, weights, k=DRAWS)]
        for cell in split_cells("train"):
            texts = [task.query for task in cell if len(task.argument) <= self.max_length]
            queries += draw.sample(texts, min(self.per_cell, len(texts)))
        return queries
