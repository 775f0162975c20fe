"""The real W&B client against a server on loopback: runs, artifacts, resuming, faults, sweeps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lsp.tracking.reader import read_metrics, read_trace, trace_steps

ROOT = Path(__file__).parents[3]
PATIENCE = 900
"""Seconds until a process counts as hanging."""
ONLINE = [
    "tracker.mode=online",
    "tracker.artifact_every=2",
    "optim.role_gradients_every=1",
    "tracker.finish_seconds=300",
]


def environment(stub):
    """Only what the stub needs; the interpreter's folder first, for sweeps' ``python``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, **stub.environment(), "PATH": path, "OMP_NUM_THREADS": "1"}


def run_py(stub, *overrides):
    return subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        env=environment(stub),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def run_id_of(folder):
    return json.loads((folder / "run.json").read_text())["id"]


def until_step(process, folder, step):
    """Wait until a shard is there."""
    while not (folder / "trace" / f"step-{step:06d}.parquet").exists():
        assert process.poll() is None, "it ended before its time"
        time.sleep(0.02)


def test_everything_of_a_run_arrives(small, tmp_path, wandb_stub):
    folder = tmp_path / "run"
    result = run_py(wandb_stub, *small, *ONLINE, f"run_dir={folder}", "tracker.tables=all")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: online (tracker.mode)")
    assert "WARNING" not in result.stderr
    run_id = run_id_of(folder)
    run = wandb_stub.runs[run_id]
    # Identity, names, flat config, files.
    assert run.display_name == "lsp from base beta=0.1·k2 w=0.3 seed=0"
    assert (run.group, run.job_type) == ("pocket lsp from base", "train")
    assert set(run.tags) == {"pocket", "lsp", "init-base"}
    assert run.config["method.self_reward_weight"] == 0.3 and "method" not in run.config
    assert yaml.safe_load(run.files["lsp/config.yaml"])["method"]["beta"] == 0.1
    assert "lsp/run.json" in run.files  # and code.diff: tests/test_secrets_of_a_run.py
    # Scalars over train/step, per role; histograms; tables; summary.
    steps = [row["train/step"] for row in run.history]
    assert steps == [0, 1, 2, 3]
    last = run.history[-1]
    local = read_metrics(folder)[-1]
    for key in ("reward/solver/mean", "kl/challenger/k3", "optim/grad_norm/challenger",
                "optim/role_gradient_cosine", "entropy/solver"):  # fmt: skip
        assert last[key] == pytest.approx(local[key])
    assert last["histogram/solver_advantage"]["_type"] == "histogram"
    assert last["histogram/challenger_reward"]["_type"] == "histogram"
    assert last["trace"]["nrows"] == len(read_trace(folder, [3]))
    assert run.summary["final/accuracy"] == pytest.approx(
        json.loads((folder / "summary.json").read_text())["final/accuracy"]
    )
    assert run.summary["best/step"] in (2, 3) and run.exit_code == 0
    # Every shard, byte for byte; models; lineage.
    sent = {}
    for artifact in wandb_stub.versions(f"trace-{run_id}"):
        sent |= artifact.files
    shards = {path.name: path.read_bytes() for path in (folder / "trace").glob("*.parquet")}
    assert sent == shards
    models = wandb_stub.versions(f"model-{run_id}")
    assert [model.metadata["step"] for model in models] == [2, 3]
    assert "model.safetensors" in models[-1].files and "latest" in models[-1].aliases
    assert "trainer.safetensors" not in models[-1].files
    assert [use.partition(":")[0] for use in run.uses] == ["base"]
    assert not list(tmp_path.glob("wandb")) and not (ROOT / "wandb").exists()


@pytest.mark.slow
def test_a_finished_run_that_grows_sends_each_step_once(small, tmp_path, wandb_stub):
    folder = tmp_path / "run"
    for words in ([*small, *ONLINE, f"run_dir={folder}"], [f"resume={folder}", "num_steps=5"]):
        result = run_py(wandb_stub, *words)
        assert result.returncode == 0, result.stderr
    (run,) = wandb_stub.runs.values()
    assert [row["train/step"] for row in run.history] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_lineage_goes_from_base_to_grpo_to_lsp(small, tmp_path, wandb_stub):
    shape = [*small[1:3], *ONLINE, f"runs_root={tmp_path}", "num_steps=1", "eval=none"]
    result = run_py(wandb_stub, *shape, "init=grpo")
    assert result.returncode == 0, result.stderr
    runs = {run.config["method.queries"]: run for run in wandb_stub.runs.values()}
    grpo, lsp = runs["dataset"], runs["challenger"]
    assert grpo.uses == ["base:v0"]
    assert lsp.uses == [f"model-{grpo.name}:v0"]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_wandb_run(small, tmp_path, wandb_stub):
    folder = tmp_path / "run"
    shape = [*small, *ONLINE, f"run_dir={folder}", "num_steps=8", "eval.every=0"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *shape], cwd=ROOT, env=environment(wandb_stub),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until_step(process, folder, 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = run_py(wandb_stub, f"resume={folder}")
    assert result.returncode == 0, result.stderr
    assert len(wandb_stub.runs) == 1
    (run,) = wandb_stub.runs.values()
    assert run.resumed >= 1 and run.name == run_id_of(folder)
    assert {row["train/step"] for row in run.history} == set(range(9))
    sent = {}
    for artifact in wandb_stub.versions(f"trace-{run.name}"):
        sent |= artifact.files
    assert set(sent) >= {f"step-{step:06d}.parquet" for step in trace_steps(folder)}


@pytest.mark.slow
def test_a_server_that_goes_away_ends_nothing(small, tmp_path, wandb_stub):
    """Down from the second step on: the run finishes, says once that W&B lacks the rest, and the
    folder is complete."""
    folder = tmp_path / "run"
    shape = [*small, *ONLINE, f"run_dir={folder}", "num_steps=6", "tracker.finish_seconds=3"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *shape], cwd=ROOT, env=environment(wandb_stub),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until_step(process, folder, 2)
    wandb_stub.down = True
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stderr.count("is left out from here on") == 1 and "lsp.sync" in stderr
    assert trace_steps(folder) == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_error_that_names_offline(small, tmp_path, wandb_stub):
    wandb_stub.down = True
    result = run_py(wandb_stub, *small, *ONLINE, f"run_dir={tmp_path / 'run'}")
    assert result.returncode == 1 and "say tracker.mode=offline" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wandb_sweep_and_agent_run_our_sweep_files_as_they_are(tmp_path, wandb_stub):
    """``sweeps/beta.yaml`` with two points and tiny runs; nothing else of it is changed."""
    tree = yaml.safe_load((ROOT / "sweeps" / "beta.yaml").read_text())
    tree["parameters"]["method"] = {"value": "lsp"}
    tree["parameters"]["method.beta"] = {"values": [0.1, 1.0]}
    tree["parameters"]["method.challenger_beta"] = {"value": 0.3}
    tree["parameters"]["seed"] = {"value": 0}
    tree["parameters"]["num_steps"] = {"value": 1}
    tree["parameters"]["eval.dev_per_cell"] = {"value": 2}
    tree["parameters"]["eval.test_per_cell"] = {"value": 2}
    tree["parameters"]["runs_root"] = {"value": str(tmp_path)}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    wandb = [sys.executable, "-m", "wandb"]
    settings = {"cwd": ROOT, "env": {**environment(wandb_stub), "WANDB_DIR": str(tmp_path)},
                "capture_output": True, "text": True, "timeout": PATIENCE}  # fmt: skip
    made = subprocess.run([*wandb, "sweep", "-p", "language-self-play", str(path)], **settings)
    sweep = re.search(r"wandb agent (\S+)", made.stdout + made.stderr)
    assert sweep, made.stderr
    agent = subprocess.run([*wandb, "agent", sweep[1]], **settings)
    assert agent.returncode == 0, agent.stderr
    assert len(wandb_stub.runs) == 2
    for name, run in wandb_stub.runs.items():
        assert run.sweep and run.exit_code == 0
        assert run.config["method.self_reward_weight"] == 0.3  # not overwritten by method: lsp
        assert "eval/pocket/win_rate" in run.history[-1]
        assert (tmp_path / name / "summary.json").is_file()
    betas = {run.config["method.beta"] for run in wandb_stub.runs.values()}
    assert betas == {0.1, 1.0}
