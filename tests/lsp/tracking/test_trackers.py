"""The local files: complete, readable, atomic; W&B as a sink beside them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lsp.errors import RunError
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_metrics, read_trace, trace_steps
from lsp.tracking.trackers import Trackers
from lsp.tracking.wandb import WandbTracker

HOSTILE = ["a\ud800b", "\x00", "😀" * 3, "\u202e", "x" * 1_000_000, ""]


def test_hostile_text_comes_back(tmp_path):
    tracker = LocalTracker(tmp_path)
    rows = [{"query": text, "step": 1, "reward": float(i)} for i, text in enumerate(HOSTILE)]
    tracker.log(1, {"a/b": 1.0, "bad": float("nan")}, rows)
    tracker.finish({"status": "finished", "x": 1})
    found = [row["query"] for row in read_trace(tmp_path)]
    assert found == ["a\\ud800b", *HOSTILE[1:]]
    assert read_metrics(tmp_path) == [{"step": 1, "a/b": 1.0, "bad": None}]
    assert json.loads((tmp_path / "summary.json").read_text())["x"] == 1


class Recorder:
    """A tracker that remembers its calls, and fails where it is told to."""

    def __init__(self, fails_at=None):
        self.calls = []
        self.fails_at = fails_at

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name == self.fails_at:
                raise RuntimeError("no connection")

        return call


def test_flush_waits_for_every_shard(tmp_path):
    trackers = Trackers(LocalTracker(tmp_path))
    for step in range(1, 30):
        trackers.log(step, {}, lambda step=step: [{"query": "q", "step": step}] * 50)
    trackers.flush()
    assert trace_steps(tmp_path) == list(range(1, 30))
    assert not list((tmp_path / "trace").glob(".*"))
    trackers.finish({})


def test_an_error_of_the_local_files_reaches_the_loop(tmp_path):
    trackers = Trackers(LocalTracker(tmp_path))
    (tmp_path / "trace" / "step-000001.parquet").mkdir()
    trackers.log(1, {}, lambda: [{"query": "q"}])
    with pytest.raises(OSError, match="the record of the run: .*Is a directory"):
        trackers.flush()
    with pytest.raises(OSError, match="the record of the run"):
        trackers.log(2, {}, list)


def test_the_other_tracker_gets_the_same_calls(tmp_path):
    other = Recorder()
    trackers = Trackers(LocalTracker(tmp_path), other)
    trackers.log(1, {"x": 1.0}, list)
    trackers.alert(1, "look")
    trackers.checkpoint(tmp_path, 1)
    trackers.finish({"a": 1})
    assert [call[0] for call in other.calls] == ["log", "alert", "checkpoint", "finish"]
    assert json.loads((tmp_path / "alerts.jsonl").read_text()) == {"step": 1, "text": "look"}


def test_an_error_of_the_other_tracker_is_said_once_and_the_run_goes_on(tmp_path, capsys):
    broken = Recorder("log")
    trackers = Trackers(LocalTracker(tmp_path), broken)
    for step in (1, 2):
        trackers.log(step, {"x": 1.0}, list)
        time.sleep(0.05)
    trackers.finish({"a": 1})
    assert [call[0] for call in broken.calls] == ["log"]
    assert capsys.readouterr().err.count("Recorder failed and is left out") == 1
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path, capsys):
    class Hanging(Recorder):
        def log(self, *arguments):
            time.sleep(5)

    trackers = Trackers(LocalTracker(tmp_path), Hanging(), patience=0.1)
    before = time.perf_counter()
    for step in range(100):
        trackers.log(step, {}, list)
    trackers.flush()
    trackers.finish({})
    assert time.perf_counter() - before < 4
    assert len(read_metrics(tmp_path)) == 100
    assert capsys.readouterr().err.count("left out") == 1


def test_a_cut_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "x')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_mode_is_the_settings_then_the_environments_then_by_key(monkeypatch):
    def mode(setting):
        return WandbTracker("p", None, setting, "off", 1, 0, 1).resolved_mode()

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode("online") == ("online", "tracker.mode")
    assert mode("auto") == ("offline", "WANDB_MODE")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker("p", None, "auto", "off", 1, 0, 1)
    assert tracker.announcement().startswith("W&B: disabled (WANDB_MODE)")
    assert tracker.build(None, None) is None
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RunError, match="WANDB_MODE=sometimes is no mode; use one of online"):
        mode("auto")
    monkeypatch.delenv("WANDB_MODE")
    assert mode("auto") == ("online", "a key was found")


def test_the_wandb_run_holds_what_the_local_files_hold(small_run):
    """Read the offline run back with W&B's own reader."""
    folder, summary = small_run
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert offline.name.endswith(summary["run_id"])
    result = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline)],
        capture_output=True,
        text=True,
        check=True,
    )
    text = result.stdout
    for key in ("reward/solver/mean", "method.self_reward_weight", "final/accuracy", "train/step"):
        assert key in text
    assert not list(Path(folder).parent.glob("wandb"))
