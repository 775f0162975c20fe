"""The threads that feed trackers: the local one must not fail, the other may."""

import json
import threading

import pytest

from lsp.contracts import BuildContext
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_metrics, trace_steps
from lsp.tracking.rows import SCHEMA
from lsp.tracking.trackers import LocalOnly, Trackers

EMPTY = dict.fromkeys(SCHEMA.names)


class Remembering:
    """A tracker that remembers its calls, and fails at one of them."""

    advice = "Send it again."

    def __init__(self, fails_at=None):
        self.calls = []
        self.fails_at = fails_at

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name == self.fails_at:
                raise RuntimeError("no connection")

        return call


def test_securing_waits_for_every_shard(tmp_path):
    trackers = Trackers(LocalTracker(tmp_path))
    for step in range(1, 30):
        trackers.log(step, {}, lambda step=step: [{**EMPTY, "step": step}] * 50)
    trackers.secure()
    assert trace_steps(tmp_path) == list(range(1, 30))
    assert not list((tmp_path / "trace").glob(".*"))
    trackers.finish({})


def test_an_error_of_the_local_files_reaches_the_loop(tmp_path):
    trackers = Trackers(LocalTracker(tmp_path))
    (tmp_path / "trace" / "step-000001.parquet").mkdir()
    trackers.log(1, {}, lambda: [EMPTY])
    with pytest.raises(OSError, match="the record of the run: .*Is a directory"):
        trackers.secure()
    with pytest.raises(OSError, match="the record of the run"):
        trackers.log(2, {}, list)


def test_the_other_tracker_gets_the_same_calls(tmp_path):
    other = Remembering()
    trackers = Trackers(LocalTracker(tmp_path), other)
    trackers.log(1, {"x": 1.0}, list)
    trackers.alert(1, "look")
    trackers.checkpoint(tmp_path, 1)
    trackers.finish({"a": 1})
    assert [call[0] for call in other.calls] == ["log", "alert", "checkpoint", "finish"]
    assert json.loads((tmp_path / "alerts.jsonl").read_text()) == {"step": 1, "text": "look"}


def test_an_error_of_the_other_tracker_is_said_once_and_the_run_goes_on(tmp_path, capsys):
    broken = Remembering("log")
    trackers = Trackers(LocalTracker(tmp_path), broken)
    for step in (1, 2):
        trackers.log(step, {"x": 1.0}, list)
        trackers._other_worker.queue.join()
    trackers.finish({"a": 1})
    assert [call[0] for call in broken.calls] == ["log"]
    assert capsys.readouterr().err.count("Remembering failed and is left out") == 1
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path, capsys):
    """It hangs until everything else is over, however long that takes."""
    over = threading.Event()

    class Hanging(Remembering):
        def log(self, *arguments):
            over.wait(600)

    trackers = Trackers(LocalTracker(tmp_path), Hanging(), patience=0.1)
    for step in range(100):  # more than its queue holds
        trackers.log(step, {}, list)
    trackers.secure()
    trackers.finish({})
    assert not over.is_set() and len(read_metrics(tmp_path)) == 100
    assert capsys.readouterr().err.count("left out") == 1
    over.set()


def test_one_that_is_slow_at_the_end_has_its_time_and_no_more(tmp_path, capsys):
    over = threading.Event()

    class Slow(Remembering):
        def finish(self, summary):
            over.wait(600)

    trackers = Trackers(LocalTracker(tmp_path), Slow(), patience=0.1)
    trackers.finish({"status": "finished"})
    assert not over.is_set() and (tmp_path / "summary.json").is_file()
    assert "TimeoutError: not done 0.1 s after the run" in capsys.readouterr().err
    over.set()


def test_no_tracker_at_all_says_where_everything_is():
    settings = LocalOnly()
    assert settings.announcement() == (
        "W&B: off (tracker=none); everything is kept in the run folder"
    )
    assert settings.build(BuildContext(None)) is None and settings.finish_seconds == 0


def test_a_finding_is_told_to_the_other_tracker_alone(tmp_path):
    """The run's own folder has it in run.json."""
    other = Remembering()
    trackers = Trackers(LocalTracker(tmp_path), other)
    trackers.tell(1, "finding: nothing was played")
    trackers.alert(2, "an alarm")
    trackers.finish({})
    assert other.calls[:2] == [
        ("alert", 1, "finding: nothing was played"),
        ("alert", 2, "an alarm"),
    ]
    assert [json.loads(line)["step"] for line in (tmp_path / "alerts.jsonl").open()] == [2]
