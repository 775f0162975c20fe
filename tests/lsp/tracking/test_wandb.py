"""W&B's settings, tables and offline runs. (With a server: test_wandb_server.py.)"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.tracking.wandb import WandbLogger, WandbTracker, trace_table

ROOT = Path(__file__).parents[3]


def tracker_of(mode):
    return WandbTracker(
        project="p", entity=None, mode=mode, tables="off", artifact_every=1, finish_seconds=1
    )


def test_mode_is_the_settings_then_the_environments_then_by_key(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracker_of("online").resolved_mode() == ("online", "tracker.mode")
    assert tracker_of("auto").resolved_mode() == ("offline", "WANDB_MODE")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = tracker_of("auto")
    assert tracker.announcement() == "W&B: disabled (WANDB_MODE), project p"
    assert tracker.build(BuildContext(None)) is None
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RunError, match="WANDB_MODE=sometimes is no mode; use one of online"):
        tracker_of("auto").resolved_mode()
    monkeypatch.delenv("WANDB_MODE")
    assert tracker_of("auto").resolved_mode() == ("online", "a key was found")


def test_without_a_key_anywhere_it_is_offline(tmp_path):
    """In a process of its own, where the client has read nothing yet."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    code = "from lsp.settings.compose import compose; print(compose([]).tracker.announcement())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    expected = "W&B: offline (no key was found), project language-self-play\n"
    assert result.stdout == expected


def test_the_offline_run_lies_in_the_run_and_holds_what_the_local_files_hold(small_run):
    """Read back with W&B's own reader."""
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


def test_a_checkpoints_folders_reach_wandb_under_their_own_names(tmp_path, capsys):
    """The real client's artifact, and a run that keeps what it is given."""
    import wandb

    folder = tmp_path / "step-000002"
    (folder / "additional_chat_templates").mkdir(parents=True)
    files = ["additional_chat_templates/tool.jinja", "model.safetensors", "trainer.safetensors"]
    for name in files:
        (folder / name).write_text(name)
    logger, sent = WandbLogger.__new__(WandbLogger), []
    logger.wandb, logger.identity = wandb, SimpleNamespace(run_id="abc")
    logger.run = SimpleNamespace(log_artifact=lambda artifact, aliases: sent.append(artifact))
    logger.checkpoint(folder, 2)
    assert sorted(sent[0].manifest.entries) == files[:2]  # the optimizer's state stays
    logger.checkpoint(tmp_path / "step-000001", 1)
    assert len(sent) == 1 and "W&B has no model of step 1" in capsys.readouterr().err


def test_a_table_of_some_rows_spreads_them_evenly():
    rows = [{"b": i, "a": str(i)} for i in range(7)]
    assert trace_table(rows, None).data == [[str(i), i] for i in range(7)]
    sample = trace_table(rows, 3)
    assert (sample.columns, sample.data) == (["a", "b"], [["0", 0], ["3", 3], ["6", 6]])
