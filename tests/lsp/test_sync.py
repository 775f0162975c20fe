"""Offline runs are sent whole to W&B, and what did not arrive is found out."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from bad_answers import BadServer, answers, silence

from lsp.errors import RunError
from lsp.sync import main
from tests.ctrl_c import hear_ctrl_c

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


@pytest.mark.advice(
    "lsp/tracking/wandb.py:__init__",
    "lsp/tracking/wandb.py:_not_there",
    "lsp/tracking/wandb.py:use_lineage",
)
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
    # sends no artifact. A pipe where a shard was is not waited for.
    wandb_stub.runs.clear()
    wandb_stub.artifacts.clear()
    moved = folder.rename(tmp_path / "moved")
    damaged = moved / "trace" / "step-000002.parquet"
    damaged.unlink()
    os.mkfifo(damaged)
    result = sync(wandb_stub, moved)
    assert result.returncode == 1
    assert "step 2 has no shard that can be read: " in result.stderr
    assert "3 of 3 trace shards are not on the server, for instance step-000001" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
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
    with pytest.raises(RunError, match=says):
        main(arguments)


def test_a_run_that_was_not_tracked_has_nothing_to_send(interrupted_run):
    with pytest.raises(RunError, match="was run with tracker=none: there is nothing of W&B to s"):
        main([str(interrupted_run[0])])


KEY = "0123456789" * 4


@pytest.fixture
def bad_wandb(small_run, tmp_path, monkeypatch):
    """``folder = bad_wandb(behaviour)``: an offline run, and a W&B that answers badly."""
    servers = []

    def made(behaviour):
        servers.append(BadServer(behaviour))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{servers[0].port}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_X_GRAPHQL_RETRY_MAX", "1")
        return shutil.copytree(small_run[0], tmp_path / "run"), servers[0]

    yield made
    servers[0].close()


@pytest.mark.slow
def test_a_server_that_fails_is_one_line(bad_wandb):
    folder, _ = bad_wandb(answers("busy \x1b[2J", "500 Busy"))
    command = [sys.executable, "-m", "lsp.sync", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    said = [line for line in result.stderr.splitlines() if not line.startswith("wandb: ")]
    assert result.returncode == 1 and len(said) == 1, result.stderr
    assert said[0].startswith("error: W&B does not have ") and "HTTP 500: busy" in said[0]
    assert KEY not in result.stderr and "\x1b[2J" not in result.stderr


@pytest.mark.slow
def test_at_the_deadline_it_ends_and_says_how_to_go_on(bad_wandb, monkeypatch):
    folder, _ = bad_wandb(silence())
    monkeypatch.setattr("lsp.sync.MOMENT", 0.0)
    says = r"W&B did not take it in \d+ s; what arrived stays, and the same command goes on"
    with pytest.raises(RunError, match=says):
        main([str(folder)])


@pytest.mark.slow
@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_its_processes_end_with_it(bad_wandb, stopped_by):
    folder, server = bad_wandb(silence())
    command = [sys.executable, "-m", "lsp.sync", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    while not server.requests:
        assert process.poll() is None
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2
    process.send_signal(stopped_by)
    _, errors = process.communicate()
    assert process.returncode != 0 and "Traceback" not in errors
    assert psutil.wait_procs(started, timeout=600)[1] == []


def test_settings_that_end_before_the_tracker_are_one_line(small_run, tmp_path):
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text().split("\ntracker:")[0])
    with pytest.raises(RunError, match=r"config.yaml has no settings of a tracker"):
        main([str(folder)])
