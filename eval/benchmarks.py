"""What models are asked: ``conf/evaluate/benchmark/*.yaml`` goes in, instructions come out."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.answers import local_file, read_instructions
from eval.contracts import BenchmarkSettings, EvaluationContext
from eval.length_control import GamedRows, length_controlled_win_rate
from eval.types import Instruction, Pair
from eval.win_rate import by_source, weighted_win_rate
from lsp.errors import RunError
from lsp.files import read_csv
from lsp.pocket.language import evaluation_queries
from lsp.settings.schema import setting, settings

DIFFICULTY = "instruction_difficulty"
GAMED_COLUMNS = ("preference", "std_delta_len", DIFFICULTY)


@settings
class AlpacaEval(BenchmarkSettings):
    """AlpacaEval's 805 instructions, or any file of the same columns. ``gamed`` with a column
    ``index`` tells the instructions' difficulties too; without both tables length control is the
    minimal variant."""

    data: str = setting("rows of instruction and dataset: .json, .jsonl, hub:…")
    difficulty: str | None = setting("a CSV, for length control", default=None)
    gamed: str | None = setting("a CSV: length control as published", default=None)

    def build(self, context: EvaluationContext) -> list[Instruction]:
        """Refuses a table that cannot be used, before anything is paid for."""
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

    def further_rates(
        self, pairs: Sequence[Pair], preferences: Sequence[float | None]
    ) -> dict[str, dict[str, Any]]:
        """AlpacaEval's length-controlled rates, by set from the one fit over all."""
        difficulties, gamed = self._tables(len(pairs))
        model_lengths = [len(pair.model_output) for pair in pairs]
        base_lengths = [len(pair.base_output) for pair in pairs]
        try:
            fit = length_controlled_win_rate(
                preferences, model_lengths, base_lengths, difficulties, gamed
            )
        except ValueError as error:
            rate = {"variant": None, "reason": str(error), "win_rate": None}
        else:
            rate = {
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
        return {"length_controlled": rate}


@settings
class PocketBenchmark(BenchmarkSettings):
    """The pocket world's test queries; its eight families stand where AlpacaEval has five sets."""

    per_cell: int = setting("at most so many of each family and length", ge=1, le=100_000)

    def build(self, context: EvaluationContext) -> list[Instruction]:
        tasks = evaluation_queries("test", self.per_cell)
        return [Instruction(i, task.family, task.query) for i, task in enumerate(tasks)]


def read_columns(file: str, names: Sequence[str]) -> dict[str, list[float]]:
    """Columns of numbers of a CSV file. Raises RunError where one is missing or no number."""
    try:
        rows = read_csv(local_file(file))
        return {name: [float(row[name]) for row in rows] for name in names}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file} is no CSV file with columns of numbers {', '.join(names)}"
            f" ({type(error).__name__}: {error})"
        ) from error
