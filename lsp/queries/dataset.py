"""Queries from a data set: what GRPO trains on. The place in the data follows from the step."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lsp.pocket.language import legal_queries, split
from lsp.schema import number


@dataclass(frozen=True)
class PocketQueries:
    """Legal queries of the pocket world's train split, at most ``per_cell`` of each (family,
    length) up to ``max_length``; none is in the dev or test split."""

    per_cell: int = number(minimum=1)
    max_length: int = number(minimum=1)

    def build(self) -> list[str]:
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


@dataclass(frozen=True)
class InstructionQueries:
    """Instructions in Alpaca's columns (``instruction``, ``input``) from a local .json or .jsonl
    file, or from a Hub data set (``pip install '.[hub]'``). A non-empty input follows its
    instruction after a blank line."""

    path: str
    split: str

    def problems(self, config) -> list[tuple[str, str]]:
        local = self.path.endswith((".json", ".jsonl"))
        if config.method.queries == "dataset" and local and not Path(self.path).is_file():
            return [(f"there is no file {self.path}", "give data.path=<file or Hub data set>")]
        return []

    def build(self) -> list[str]:
        rows = self._rows()
        queries = []
        for number_, row in enumerate(rows):
            if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
                raise ValueError(
                    f"{self.path}: row {number_} has no text column 'instruction'; it has"
                    f" {sorted(row) if isinstance(row, dict) else type(row).__name__}"
                )
            extra = row.get("input") or ""
            more = "" if extra in ("", "<noinput>") else f"\n\n{extra}"
            queries.append(row["instruction"] + more)
        if not queries:
            raise ValueError(f"{self.path} holds no instruction")
        return queries

    def _rows(self) -> Sequence[dict]:
        if self.path.endswith((".json", ".jsonl")):
            text = Path(self.path).read_text(encoding="utf-8")
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
    first = step * count
    chosen = []
    order: list[int] = []
    epoch = None
    for position in range(first, first + count):
        if position // len(queries) != epoch:
            epoch = position // len(queries)
            order = list(range(len(queries)))
            random.Random(f"epoch {seed} {epoch}").shuffle(order)
        chosen.append(queries[order[position % len(queries)]])
    return chosen
