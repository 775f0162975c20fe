"""The one reader of run folders."""

import pytest

from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_metrics, read_trace, trace_steps
from lsp.tracking.rows import SCHEMA

EMPTY = dict.fromkeys(SCHEMA.names)


@pytest.fixture
def folder(tmp_path):
    tracker = LocalTracker(tmp_path)
    for step in (2, 1, 10):
        rows = [{**EMPTY, "step": step, "query": f"q{step}{i}"} for i in range(2)]
        tracker.log(step, {}, rows)
    return tmp_path


def test_steps_ascend_and_other_files_are_passed_over(folder):
    (folder / "trace" / "step-bad.parquet").write_bytes(b"x")
    (folder / "trace" / ".step-000011.parquet.tmp").write_bytes(b"x")
    assert trace_steps(folder) == [1, 2, 10]
    assert trace_steps(folder / "nowhere") == []


def test_rows_come_in_the_order_of_steps_all_or_chosen(folder):
    assert [row["query"] for row in read_trace(folder)] == [
        "q10", "q11", "q20", "q21", "q100", "q101",
    ]  # fmt: skip
    assert read_trace(folder, [10], ["query"]) == [{"query": "q100"}, {"query": "q101"}]


def test_a_cut_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "x')
    assert read_metrics(tmp_path) == [{"step": 1}]
