"""From a command line to a run: what is said first, what is refused, how one is interrupted."""

import json
import shutil
from dataclasses import replace

import pytest

from lsp.errors import RunError
from lsp.loop.launch import objective_of, start
from lsp.loop.signals import StopRequests
from lsp.plan.text import plan
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace, trace_steps

pytestmark = pytest.mark.usefixtures("without_pictures")
SHORT = ["num_steps=1", "num_queries=2", "group_size=2", "eval=none", "tracker=none"]


def test_a_dry_run_says_what_a_config_comes_to_and_starts_nothing(tmp_path, capsys):
    root = f"runs_root={tmp_path / 'runs'}"
    assert start(["num_steps=10", root, "dry_run=true"]) is None
    text = capsys.readouterr().out
    # 24 x 8 answers of at most 12 tokens and 24 queries of at most 24: 2,880 a step.
    assert "24 queries × 8 answers; 216 rows in the loss, 192 judged" in text
    assert "at most 2,880 sampled tokens" in text and "1,920 answers" in text
    assert "pocket (llama, 0.5 MB of weights)" in text
    assert not (tmp_path / "runs").exists()
    assert "a run of method=grpo, made first" in plan(compose(["init=grpo", root]))
    paper = plan(compose(["init=grpo", "world=paper", root]))
    assert "missing: init=grpo: there is no finished run of method=grpo" in paper


def test_the_first_lines_say_where_a_run_is_tracked_lies_and_starts(tmp_path, capsys):
    folder = tmp_path / "run"
    start([*SHORT, f"run_dir={folder}", "method.kl_estimator=k1"])
    said = capsys.readouterr()
    assert said.out.splitlines()[:3] == [
        "W&B: off (tracker=none); everything is kept in the run folder",
        f"run: {folder}",
        "init: base model pocket",
    ]
    assert "warning: method.kl_estimator=k1: its expected gradient is zero" in said.err


def test_a_sweeper_gets_the_last_value_of_the_objective(tmp_path):
    key = "rollout/distinct_query_frac"
    value, seconds = objective_of(
        [*SHORT, f"objective={key}", f"run_dir={tmp_path / 'run'}"], StopRequests()
    )
    assert value == read_metrics(tmp_path / "run")[-1][key]
    assert seconds > 0
    assert objective_of(["dry_run=true"], StopRequests()) == (None, 0.0)


def test_an_unknown_mode_of_wandb_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RunError, match="WANDB_MODE=sometimes is no mode; use one of online, offl"):
        start([f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_query_and_its_answer_that_may_exceed_the_context_are_refused_at_the_start(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="the Solver may need .*; lower rollout.max_query_tokens"):
        start(["rollout.max_query_tokens=110", "rollout.max_new_tokens=90", "tracker=none",
               f"run_dir={folder}"])  # fmt: skip
    assert not folder.exists()  # its name stays free


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(interrupted_run):
    folder, said = interrupted_run
    assert said.startswith(f"stopped after step 2 (SIGTERM); everything is in {folder}\n")
    assert said.endswith(f"\ngo on with: python run.py resume={folder}")
    assert trace_steps(folder) == [1, 2] and not (folder / "summary.json").exists()
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], run["step"]) == ("interrupted", 2)


def test_an_interrupted_run_goes_on_bit_for_bit(interrupted_run, tmp_path, train_in_memory):
    """Its rows, and those of a run that was never stopped."""
    folder = shutil.copytree(interrupted_run[0], tmp_path / "run")
    found = find_resumed(compose([f"resume={folder}"]), [])
    assert (found.spec.step, found.finished, found.changed) == (2, False, False)
    assert start([f"resume={folder}"])["steps"] == 5
    config = replace(found.spec.config, run_dir=None)
    shape = [f"num_queries={config.num_queries}", f"group_size={config.group_size}", "num_steps=5"]
    lines, rows = train_in_memory([*shape, "eval=none", "tracker=none"])
    resumed = [{**row, "run_id": "in memory"} for row in read_trace(folder)]
    assert [row["step"] for row in resumed] == [row["step"] for row in rows]
    for ours, theirs in zip(resumed, rows, strict=True):
        assert {k: v for k, v in ours.items() if not isinstance(v, float)} == {
            k: v for k, v in theirs.items() if not isinstance(v, float)
        }
        for key, value in ours.items():
            if isinstance(value, float):  # a shard holds float32
                assert value == pytest.approx(theirs[key], rel=1e-7), key
    for ours, theirs in zip(read_metrics(folder), lines, strict=True):
        assert {key: ours[key] for key in theirs if not key.startswith("time/")} == {
            key: value for key, value in theirs.items() if not key.startswith("time/")
        }
