"""A data set goes in, a step's queries come out: what GRPO trains on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsp.contracts import BuildContext, QueriesSettings
from lsp.settings.prompts import prompt_file
from lsp.settings.schema import setting, settings

if TYPE_CHECKING:
    from lsp.settings.config import Config


@settings
class InstructionQueries(QueriesSettings):
    """Instructions in Alpaca's columns (``instruction``, ``input``). A non-empty input follows its
    instruction after a blank line."""

    path: str = setting(
        "a .json or .jsonl file, from here or from conf/, or a Hub data set (pip install '.[hub]')"
    )
    split: str = setting("of a Hub data set")

    def problems(self, config: Config) -> list[tuple[str, str]]:
        local = self.path.endswith((".json", ".jsonl"))
        if config.method.queries == "dataset" and local and not prompt_file(self.path).is_file():
            return [(f"there is no file {self.path}", "give data.path=<file or Hub data set>")]
        return []

    def build(self, context: BuildContext) -> list[str]:
        queries = []
        for number, row in enumerate(self._rows()):
            if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
                raise ValueError(
                    f"{self.path}: row {number} has no text column 'instruction'; it has"
                    f" {sorted(row) if isinstance(row, dict) else type(row).__name__}"
                )
            extra = row.get("input")
            more = f"\n\n{extra}" if extra and extra != "<noinput>" else ""
            queries.append(row["instruction"] + more)
        if not queries:
            raise ValueError(f"{self.path} holds no instruction")
        return queries

    def _rows(self) -> Sequence[dict]:
        if self.path.endswith((".json", ".jsonl")):
            text = prompt_file(self.path).read_text(encoding="utf-8")
            try:
                if self.path.endswith(".json"):
                    return json.loads(text)
                return [json.loads(line) for line in text.splitlines() if line.strip()]
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.path} is not valid JSON: {error}") from error
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ValueError(
                f"reading {self.path!r} from the Hub needs the extra: pip install '.[hub]'"
            ) from error
        return load_dataset(self.path, split=self.split)


def step_queries(queries: Sequence[str], count: int, seed: int, step: int) -> list[str]:
    """The ``count`` queries of one step: without replacement within an epoch, each epoch in an
    order of its own, all of it a function of (seed, step), so a resumed run goes on exactly."""
    size, positions = len(queries), range(step * count, (step + 1) * count)
    orders = {position // size: list(range(size)) for position in positions}
    for epoch, order in orders.items():
        random.Random(f"epoch {seed} {epoch}").shuffle(order)
    return [queries[orders[position // size][position % size]] for position in positions]
