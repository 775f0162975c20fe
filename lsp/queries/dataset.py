"""A data set goes in, a step's queries come out: what GRPO trains on."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsp.contracts import BuildContext, QueriesSettings
from lsp.errors import RunError
from lsp.settings.prompts import prompt_file
from lsp.settings.schema import setting, settings
from lsp.tools.rows import Row, is_file_of_rows, read_rows, unreadable

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class InstructionQueries(QueriesSettings):
    """Instructions in Alpaca's columns (``instruction``, ``input``). A non-empty input follows its
    instruction after a blank line."""

    path: str = setting(
        "a file of rows (.json, .jsonl, .csv, .parquet, also as .gz) or a folder of save_to_disk,"
        " from here or from conf/; else a Hub data set (pip install '.[hub]')"
    )
    split: str = setting("of a Hub data set, or of a folder with several")

    @property
    def is_local(self) -> bool:
        """Whether the path means something on this machine, be it there or not."""
        named = is_file_of_rows(self.path) or self.path.startswith((".", "/", "~"))
        return named or os.path.exists(prompt_file(self.path))

    def problems(self, config: Config) -> list[tuple[str, str]]:
        looked_at = config.method.queries == "dataset" and self.is_local
        if looked_at and (reason := unreadable(prompt_file(self.path))):
            return [(reason, "give data.path=<file, folder of save_to_disk or Hub data set>")]
        return []

    def build(self, context: BuildContext) -> list[str]:
        queries = []
        for row in self._rows():
            text = row.text("instruction")
            extra = row.text("input", may_be_empty=True) if row.get("input") is not None else ""
            queries.append(f"{text}\n\n{extra}" if extra and extra != "<noinput>" else text)
        if not queries:
            raise RunError(f"{self.path} holds no instruction")
        return queries

    def _rows(self) -> Sequence[Row]:
        if self.is_local:
            return read_rows(prompt_file(self.path), self.split)
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise RunError(
                f"{self.path} is no file here, and reading it from the Hub needs the extra:"
                " pip install '.[hub]'"
            ) from error
        try:
            rows = load_dataset(self.path, split=self.split)
            return [Row(row, f"{self.path}, row {number}") for number, row in enumerate(rows, 1)]
        except Exception as error:  # the Hub's clients have no one class of errors
            raise RunError(
                f"{self.path} is no file here, and cannot be had from the Hub with"
                f" data.split={self.split} ({type(error).__name__}: {error!s:.200}); check the"
                " name, the split, your access and the network"
            ) from error


def step_queries(queries: Sequence[str], count: int, seed: int, step: int) -> list[str]:
    """The ``count`` queries of one step: without replacement within an epoch, each epoch in an
    order of its own, all of it a function of (seed, step), so a resumed run goes on exactly."""
    size, positions = len(queries), range(step * count, (step + 1) * count)
    orders = {position // size: list(range(size)) for position in positions}
    for epoch, order in orders.items():
        random.Random(f"epoch {seed} {epoch}").shuffle(order)
    return [queries[orders[position // size][position % size]] for position in positions]
