"""Shared by the tests of the evaluation."""

import csv
import gzip
import json
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path):
    """Twelve instructions of two sets, in the pocket world's language."""
    path = tmp_path / "instructions.json"
    words = [
        f"{family} {a}" for family in ("copy", "sort", "upper") for a in ("ab", "ca", "b", "cc")
    ]
    rows = [{"instruction": w, "dataset": ("koala", "vicuna")[i % 2]} for i, w in enumerate(words)]
    path.write_text(json.dumps(rows))
    return path


class PublishedFiles:
    """AlpacaEval's published files."""

    folder = Path(__file__).parents[3] / "shared" / "alpaca_eval"

    def json(self, name):
        return json.loads((self.folder / name).read_text())

    def table(self, name):
        with (self.folder / name).open() as stream:
            return list(csv.DictReader(stream))

    def rows(self, name):
        with gzip.open(self.folder / f"{name}.jsonl.gz", "rt") as stream:
            return [json.loads(line) for line in stream]

    def leaderboard(self):
        return {row[""]: row for row in self.table("leaderboard_published.csv")}

    def annotations(self, name):
        """(rows, preferences) of a judged model; old AlpacaEval code 0 is a tie."""
        rows = self.rows(f"annotations/{name}")
        return rows, [1.5 if row["preference"] == 0 else row["preference"] for row in rows]


@pytest.fixture(scope="session")
def published():
    if not PublishedFiles.folder.is_dir():
        pytest.skip("the AlpacaEval files lie in ../shared/alpaca_eval, which is absent")
    return PublishedFiles()
