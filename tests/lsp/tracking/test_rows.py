"""The trace's rows of a play made by hand: every column's value worked out beside it."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace
from lsp.tracking.rows import COLUMNS, SCHEMA, trace_rows
from lsp.types import Completion, Play, Query

WRITTEN = [Completion((40, 41, 1), (-0.5,) * 3, "sort ba", "stop"),
           Completion((42, 43), (-0.5,) * 2, "copy ab", "length")]  # fmt: skip
ANSWERS = [Completion((50, 51, 52, 1), (-0.25,) * 4, "ab", "stop"),
           Completion((53, 54), (-0.25,) * 2, "baa", "length")]  # fmt: skip


def play_of(query, **changes):
    """One played query with two answers: R 1 and 0.5, R_Q 6 and unread, w = 0.5."""
    values = {
        "queries": [query],
        "answers": [ANSWERS],
        "solver_prompt_ids": [(9, 8)],
        "reward_QG": torch.tensor([[1.0, 0.5]]),
        "reward_details": {"truncated": torch.tensor([[0.0, 1.0]])},
        "quality_QG": torch.tensor([[6.0, math.nan]]),
        "quality_text": [["6 (digit mass 0.9)", "no digit"]],
        "solver_reward_QG": torch.tensor([[4.0, 3.5]]),  # the unread one counts as the group's mean
        "solver_advantage_QG": torch.tensor([[0.25, -0.25]]),
        "query_value_Q": torch.tensor([0.75]),
        "challenger_reward_Q": torch.tensor([2.25]),  # -0.75 + 0.5 x 6
        "challenger_advantage_Q": torch.tensor([0.125]),
    }
    return Play(**{**values, **changes})


def challenger_rows(**changes):
    """A query that is played and one that was cut; the second answer took no part in the update."""
    queries = [
        Query("s000007-q000", "sort ba", "stop", (2, 3), WRITTEN[0]),
        Query("s000007-q001", "copy ab", "length", (2, 3), WRITTEN[1]),
    ]
    measured = {
        ("challenger", (2, 3), (40, 41, 1)): (0.0625, 1.5),
        ("solver", (9, 8), (50, 51, 52, 1)): (0.03125, 0.75),
        ("solver", (2, 3), (53, 54)): (99.0, 99.0),  # of another prompt
    }
    return trace_rows("run-1", 7, queries, play_of(queries[0], **changes), measured)


FIRST = {
    "run_id": "run-1",
    "step": 7,
    "query_id": "s000007-q000",
    "answer_id": "s000007-q000-a000",
    "source": "challenger",
    "query": "sort ba",
    "query_seed": None,
    "answer": "ab",
    "reward": 1.0,
    "reward_details": '{"truncated": 0.0}',
    "quality": 6.0,
    "quality_text": "6 (digit mass 0.9)",
    "quality_status": "read",
    "solver_reward": 4.0,
    "solver_advantage": 0.25,
    "query_value": 0.75,
    "challenger_reward": 2.25,
    "challenger_advantage": 0.125,
    "query_finish_reason": "stop",
    "answer_finish_reason": "stop",
    "query_tokens": 3,
    "answer_tokens": 4,
    "query_kl": 0.0625,
    "answer_kl": 0.03125,
    "query_entropy": 1.5,
    "answer_entropy": 0.75,
}
SECOND = FIRST | {
    "answer_id": "s000007-q000-a001",
    "answer": "baa",
    "reward": 0.5,
    "reward_details": '{"truncated": 1.0}',
    "quality": None,
    "quality_text": "no digit",
    "quality_status": "unread",
    "solver_reward": 3.5,
    "solver_advantage": -0.25,
    "answer_finish_reason": "length",
    "answer_tokens": 2,
    "answer_kl": None,
    "answer_entropy": None,
}
CUT = dict.fromkeys(FIRST) | {
    "run_id": "run-1",
    "step": 7,
    "query_id": "s000007-q001",
    "source": "challenger",
    "query": "copy ab",
    "query_seed": None,
    "query_finish_reason": "length",
    "query_tokens": 2,
}


def test_every_column_of_played_and_unplayed_queries_by_hand():
    assert challenger_rows() == [FIRST, SECOND, CUT]


def test_rows_of_a_data_set_have_nothing_of_a_challenger():
    query = Query("s000001-q003", "sort ba", "dataset")
    play = play_of(query, quality_text=[], quality_QG=torch.full((1, 2), math.nan),
                   reward_details={})  # fmt: skip
    rows = trace_rows("run-1", 1, [query], play, {})
    unscored = {"quality": None, "quality_text": None, "quality_status": "not scored"}
    nobody = dict.fromkeys(["challenger_reward", "challenger_advantage", "query_tokens",
                            "query_kl", "query_entropy", "reward_details"])  # fmt: skip
    measures = dict.fromkeys(["answer_kl", "answer_entropy"])
    ids = {"step": 1, "query_id": "s000001-q003", "source": "dataset"}
    expected = [
        row | unscored | nobody | measures | ids | {"answer_id": f"s000001-q003-a00{number}"}
        for number, row in enumerate((FIRST, SECOND))
    ]
    assert rows == expected


def test_equal_texts_stay_queries_of_their_own():
    """Groups go by a query's identity, never by its text."""
    queries = [Query(f"q{i}", "same", "stop", (2,), WRITTEN[0]) for i in range(2)]
    play = play_of(queries[1])
    rows = trace_rows("run-1", 1, queries, play, {})
    assert [(row["query_id"], row["answer"]) for row in rows] == [
        ("q0", None),
        ("q1", "ab"),
        ("q1", "baa"),
    ]


def test_a_shard_keeps_every_value_and_type(tmp_path):
    LocalTracker(tmp_path).log(7, {}, challenger_rows())
    assert read_trace(tmp_path) == [FIRST, SECOND, CUT]
    assert pq.read_schema(tmp_path / "trace" / "step-000007.parquet").equals(SCHEMA)


def test_the_columns_are_those_of_the_schema_and_of_docs_metrics():
    assert list(COLUMNS) == SCHEMA.names == list(FIRST)
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_row_that_lacks_or_misspells_a_column_is_not_written(tmp_path, name):
    tracker = LocalTracker(tmp_path)
    lacking = {key: value for key, value in FIRST.items() if key != name}
    for row in (lacking, {**lacking, f"{name}s": FIRST[name]}):
        with pytest.raises(KeyError, match=f"'{name}'"):
            tracker.log(7, {}, [row])
    assert not list((tmp_path / "trace").iterdir())
