"""What a model is asked: ``conf/evaluate/eval/*.yaml``, each a settings class with ``build()``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers import Instruction, local_file, read_instructions
from eval.judge import Pair
from eval.length_control import GamedRows, length_controlled_win_rate
from eval.win_rate import by_source, weighted_win_rate
from lsp.errors import RunError
from lsp.pocket.language import evaluation_queries
from lsp.settings.schema import number

DIFFICULTY = "instruction_difficulty"
GAMED_COLUMNS = ("preference", "std_delta_len", DIFFICULTY)


@dataclass(frozen=True)
class AlpacaEval:
    """AlpacaEval's 805 instructions, or any file of the same columns.

    ``difficulty`` and ``gamed`` are the tables that its length-controlled rate needs beside the
    verdicts (CSV, here or ``hub:…``). ``gamed`` with a column ``index`` tells the difficulties too;
    without both the minimal variant is fitted.
    """

    name: str
    data: str
    temperature: float = number(minimum=0)
    max_new_tokens: int = number(minimum=1)
    difficulty: str | None = None
    gamed: str | None = None

    def build(self) -> list[Instruction]:
        """Raises RunError for a table that cannot be used, before anything is paid for."""
        instructions = read_instructions(self.data)
        self._tables(len(instructions))
        return instructions

    def _tables(self, n: int) -> tuple[list[float] | None, GamedRows | None]:
        gamed = None
        if self.gamed is not None:
            columns = read_columns(self.gamed, GAMED_COLUMNS)
            gamed = GamedRows(Path(self.gamed).stem, *columns.values())
        if self.difficulty is not None:
            difficulties = read_columns(self.difficulty, (DIFFICULTY,))[DIFFICULTY]
        elif self.gamed is not None:
            table = read_columns(self.gamed, ("index", DIFFICULTY))
            by_index = dict(zip(*table.values(), strict=True))
            difficulties = [by_index[index] for index in sorted(by_index)]
        else:
            return None, None
        if len(difficulties) != n:
            raise RunError(
                f"{self.difficulty or self.gamed} has difficulties of {len(difficulties)}"
                f" instructions, and there are {n}; it is of another benchmark"
            )
        return difficulties, gamed

    def length_controlled(
        self, pairs: Sequence[Pair], preferences: Sequence[float | None]
    ) -> dict[str, Any]:
        """AlpacaEval's length-controlled rates, ``by set`` from the one fit over all; a rate of
        None, with the reason, where a fit is not possible."""
        difficulties, gamed = self._tables(len(pairs))
        ours = [len(pair.model_output) for pair in pairs]
        theirs = [len(pair.base_output) for pair in pairs]
        try:
            fit = length_controlled_win_rate(preferences, ours, theirs, difficulties, gamed)
        except ValueError as error:
            return {"variant": None, "reason": str(error), "win_rate": None}
        return {
            "variant": fit.variant,
            "win_rate": by_source(
                [pair.source for pair in pairs],
                fit.preferences,
                lambda values: weighted_win_rate(values).win_rate,
            ),
            "weights": vars(fit.weights),
            "n": fit.n,
            "n_missing": fit.n_missing,
        }


@dataclass(frozen=True)
class PocketBenchmark:
    """The pocket world's test queries, at most ``per_cell`` of each family and length; the eight
    families stand where AlpacaEval has its five sets."""

    name: str
    per_cell: int = number(minimum=1)
    temperature: float = number(minimum=0)
    max_new_tokens: int = number(minimum=1)

    def build(self) -> list[Instruction]:
        tasks = evaluation_queries("test", self.per_cell)
        return [Instruction(i, task.family, task.query) for i, task in enumerate(tasks)]


def read_columns(file: str, names: Sequence[str]) -> dict[str, list[float]]:
    """Columns of numbers of a CSV file. Raises RunError where one is missing or no number."""
    try:
        with local_file(file).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {name: [float(row[name]) for row in rows] for name in names}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file} is no CSV file with columns of numbers {', '.join(names)}"
            f" ({type(error).__name__}: {error})"
        ) from error
