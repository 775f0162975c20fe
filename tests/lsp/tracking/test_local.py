"""The local files: complete, readable, whole or not there."""

import json
import math

from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_metrics, read_summary, read_trace
from lsp.tracking.rows import SCHEMA

EMPTY = dict.fromkeys(SCHEMA.names)
HOSTILE = ["a\ud800b", "\x00", "😀" * 3, "\u202e", "x" * 1_000_000, ""]


def test_hostile_text_comes_back(tmp_path):
    tracker = LocalTracker(tmp_path)
    rows = [
        {**EMPTY, "query": text, "step": 1, "reward": float(i)} for i, text in enumerate(HOSTILE)
    ]
    tracker.log(1, {"a/b": 1.0}, rows)
    found = read_trace(tmp_path)
    assert [row["query"] for row in found] == ["a\\ud800b", *HOSTILE[1:]]
    assert [row["reward"] for row in found] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_numbers_that_json_lacks_are_null(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.log(0, {"a/b": 1.0, "bad": math.nan, "worse": -math.inf}, [])
    tracker.log(1, {"a/b": 2.0}, [])
    assert read_metrics(tmp_path) == [
        {"step": 0, "a/b": 1.0, "bad": None, "worse": None},
        {"step": 1, "a/b": 2.0},
    ]
    assert not list((tmp_path / "trace").iterdir())  # no rows, no shard


def test_a_summary_says_that_a_run_is_finished(tmp_path):
    interrupted = LocalTracker(tmp_path)
    interrupted.alert(3, "look")
    interrupted.alert(4, "again")
    interrupted.finish({"status": "interrupted"})
    assert not (tmp_path / "summary.json").exists()
    LocalTracker(tmp_path).finish({"status": "finished", "x": math.nan})
    assert read_summary(tmp_path) == {"status": "finished", "x": None}
    lines = (tmp_path / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "text": "look"},
        {"step": 4, "text": "again"},
    ]


def test_a_tracker_of_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    for step in (1, 2):
        tracker = LocalTracker(tmp_path)
        tracker.log(step, {}, [{**EMPTY, "step": step}])
        tracker.finish({"status": "interrupted"})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert [row["step"] for row in read_trace(tmp_path)] == [1, 2]
