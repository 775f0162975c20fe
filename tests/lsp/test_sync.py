"""Offline runs are sent whole to W&B, and what did not arrive is found out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsp.sync import main

ROOT = Path(__file__).parents[2]


def play(*arguments):
    """A run in a process of its own, as a user's is: W&B's client keeps state for its process."""
    result = subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr


@pytest.fixture
def offline_run(small, tmp_path):
    """A run that W&B's client took whole, offline."""
    folder = tmp_path / "run"
    play(*small, f"run_dir={folder}", "tracker.mode=offline")
    return folder


def sync(stub, folder):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "lsp.sync", str(folder)],
        cwd=ROOT, env={**kept, **stub.environment()}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.advice("lsp/tracking/wandb.py:__init__", "lsp/tracking/wandb.py:use_lineage")
def test_an_offline_run_is_sent_whole_and_checked_and_lost_files_are_found_out(
    offline_run, tmp_path, wandb_stub
):
    folder = offline_run
    assert not wandb_stub.runs
    result = sync(wandb_stub, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 steps, 3 shards, model of step 3: all there" in result.stdout
    run = wandb_stub.runs[json.loads((folder / "run.json").read_text())["id"]]
    assert [use.partition(":")[0] for use in run.uses] == ["base"]
    assert run.summary["status"] == "finished"
    # On an empty server, from a folder that was moved: ``wandb sync`` says that it is done, and
    # sends no artifact.
    wandb_stub.runs.clear()
    wandb_stub.artifacts.clear()
    result = sync(wandb_stub, folder.rename(tmp_path / "moved"))
    assert result.returncode == 1
    assert "3 of 3 trace shards are not on the server, for instance step-000001" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_offline_run_of_several_parts_is_sent_as_one(offline_run, tmp_path, wandb_stub):
    folder = offline_run
    play(f"resume={folder}", "num_steps=5")
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
    result = sync(wandb_stub, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 steps, 5 shards, model of step 5: all there" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "say which run"), (["nowhere"], "there is no run 'nowhere'")],
)
def test_sync_needs_a_run(arguments, says):
    with pytest.raises(SystemExit, match=says):
        main(arguments)


def test_a_run_that_was_not_tracked_has_nothing_to_send(interrupted_run):
    with pytest.raises(SystemExit, match="was run with tracker=none: there is nothing of W&B to s"):
        main([str(interrupted_run[0])])
