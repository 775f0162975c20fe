"""What models are asked: ``conf/evaluate/benchmark/*.yaml`` goes in, instructions come out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.answers import local_file, read_instructions
from eval.contracts import BenchmarkSettings, EvaluateConfig, EvaluationContext
from eval.length_control import REPORT_RAW, GamedRows, length_controlled_win_rate
from eval.types import Instruction, Pair
from eval.win_rate import by_source, weighted_win_rate
from lsp.errors import RunError
from lsp.pocket.language import evaluation_queries
from lsp.settings.schema import setting, settings
from lsp.tools.rows import read_rows

DIFFICULTY = "instruction_difficulty"


@settings
class AlpacaEval(BenchmarkSettings):
    """AlpacaEval's 805 instructions, or any file of the same columns. ``gamed`` with a column
    ``index`` tells the instructions' difficulties too; without both tables length control is the
    minimal variant."""

    data: str = setting("a file of rows of instruction and dataset, here or on the Hub (hub:…)")
    difficulty: str | None = setting("a table, for length control", default=None)
    gamed: str | None = setting("a table: length control as published", default=None)

    def problems(self, config: EvaluateConfig) -> list[tuple[str, str]]:
        if config.first is None or self.difficulty is self.gamed is None:
            return []
        reason = (
            "benchmark.difficulty and benchmark.gamed are of all instructions, and first of some"
        )
        return [(reason, "leave out first, or the tables")]

    def build(self, context: EvaluationContext) -> list[Instruction]:
        """Refuses a table that cannot be used, before anything is paid for."""
        instructions = read_instructions(self.data)
        self._tables(len(instructions))
        return instructions

    def _tables(self, n: int) -> tuple[Sequence[float] | None, GamedRows | None]:
        """(difficulties of ``n`` instructions, rows of the gamed baseline)."""
        gamed = difficulties = None
        if self.gamed is not None:
            columns = read_columns(self.gamed, "preference", "std_delta_len", DIFFICULTY)
            gamed = GamedRows(Path(self.gamed).stem, *columns)
        if self.difficulty is not None:
            (difficulties,) = read_columns(self.difficulty, DIFFICULTY)
        elif self.gamed is not None:
            by_index = dict(zip(*read_columns(self.gamed, "index", DIFFICULTY), strict=True))
            difficulties = [by_index[index] for index in sorted(by_index)]
        if difficulties is not None and len(difficulties) != n:
            problem = f"has difficulties of {len(difficulties)} instructions, and there are {n}"
            file = self.difficulty or self.gamed
            raise RunError(f"{file} {problem}; it is of another benchmark")
        return difficulties, gamed

    def further_rates(
        self, pairs: Sequence[Pair], preferences: Sequence[float | None]
    ) -> dict[str, dict[str, Any]]:
        """AlpacaEval's length-controlled rates, by set from the one fit over all."""
        model_lengths = [len(pair.model_output) for pair in pairs]
        base_lengths = [len(pair.base_output) for pair in pairs]
        lengths_and_tables = model_lengths, base_lengths, *self._tables(len(pairs))
        try:
            fit = length_controlled_win_rate(preferences, *lengths_and_tables)
            if fit.weights.learned_nothing:
                problem = (
                    "the fit learned nothing: all its weights are 0, which is 50 % of anything"
                )
                raise ValueError(f"{problem}; {REPORT_RAW}")
        except (ArithmeticError, ValueError) as error:
            rate = {"variant": None, "reason": str(error), "win_rate": None}
            return {"length_controlled": rate}
        rates = by_source([pair.source for pair in pairs], fit.preferences, weighted_win_rate)
        rate = {
            "variant": fit.variant,
            "win_rate": {source: rate.win_rate for source, rate in rates.items()},
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


def read_columns(file: str, *names: str) -> list[list[float]]:
    """Columns of numbers of a file of rows. Raises RunError where one lacks, or no number is."""
    columns: list[list[float]] = [[] for _ in names]
    for row in read_rows(local_file(file)):
        for name, column in zip(names, columns, strict=True):
            if (number := row.number(name)) is None:
                raise RunError(f"{row.place} has no number in {name!r}")
            column.append(number)
    return columns
