"""The smallest real runs: what is recorded, that it repeats, that it learns."""

import json

import pytest

from lsp.errors import Interrupted, RunError
from lsp.loop.launch import start
from lsp.tracking.reader import read_metrics, read_summary, read_trace, trace_steps
from lsp.tracking.rows import SCHEMA

METHODS = ["lsp", "lsp_zero", "grpo", "untrained_challenger", "frozen_challenger"]


def test_a_run_leaves_everything_behind(small_run):
    folder, summary = small_run
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "run.json", "metrics.jsonl", "summary.json", "trace",
                     "checkpoints", "wandb", "curves.png"}  # fmt: skip
    assert trace_steps(folder) == [1, 2, 3]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000003",
    ]
    assert read_summary(folder) == json.loads(json.dumps(summary))
    for key in ("base/accuracy", "final/accuracy", "base/greedy_accuracy", "final/greedy_accuracy",
                "final/valid_query_frac", "final/distinct_query_frac", "seconds"):  # fmt: skip
        assert isinstance(summary[key], float)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_are_one_object_a_step_with_path_keys(small_run):
    lines = read_metrics(small_run[0])
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    evaluated = [line["step"] for line in lines if "eval/pocket/win_rate" in line]
    assert evaluated == [0, 2, 3]
    expected = {"loss/total", "optim/grad_norm", "runtime/world_size", "reward/solver/mean",
                "runtime/peak_memory_mb",
                "advantage/challenger/std", "loss/kl/challenger", "kl/challenger/k1",
                "kl/solver/k3", "entropy/solver", "rollout/answer_length/mean",
                "rollout/distinct_query_frac", "quality/mean", "quality/unparsed_frac",
                "quality/weighted_std_ratio", "time/update", "optim/lr"}  # fmt: skip
    for line in lines[1:]:
        assert expected <= set(line) and line["runtime/world_size"] == 1


def test_the_trace_has_a_row_for_every_pair(small_run):
    rows = read_trace(small_run[0])
    assert set(rows[0]) == set(SCHEMA.names)
    played = [row for row in rows if row["answer"] is not None]
    unplayed = [row for row in rows if row["answer"] is None]
    assert len({row["answer_id"] for row in played}) == len(played)
    groups = {}
    for row in played:
        groups.setdefault((row["step"], row["query_id"]), []).append(row)
    assert all(len(group) == 3 for group in groups.values())
    assert len(groups) + len(unplayed) == 3 * 4
    for group in groups.values():
        value = sum(row["reward"] for row in group) / 3
        assert group[0]["query_value"] == pytest.approx(value, abs=1e-6)
        assert sum(row["solver_advantage"] for row in group) == pytest.approx(0, abs=1e-5)
        for row in group:
            expected = row["reward"] + 0.3 * row["quality"]
            assert row["solver_reward"] == pytest.approx(expected, abs=1e-5)
    for step in (1, 2, 3):
        own = [group[0] for (s, _), group in groups.items() if s == step]
        assert sum(row["challenger_advantage"] for row in own) == pytest.approx(0, abs=1e-5)
    assert all(row["source"] == "challenger" and row["query_kl"] is not None for row in played)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_repeats_bit_for_bit(small, tmp_path, method):
    shape = [*small, "tracker=none", f"method={method}", "eval.every=0"]
    traces = []
    for name in ("one", "two"):
        start([*shape, f"run_dir={tmp_path / name}"])
        traces.append([{**row, "run_id": ""} for row in read_trace(tmp_path / name)])
    assert traces[0] == traces[1]
    rows = traces[0]
    if method == "grpo":
        assert {row["source"] for row in rows} == {"dataset"}
        assert {row["challenger_reward"] for row in rows} == {None}
        assert {row["quality_status"] for row in rows} == {"not scored"}
    other = tmp_path / "other"
    start([*shape, f"run_dir={other}", "seed=1"])
    assert [row["query"] for row in read_trace(other)] != [row["query"] for row in rows]


@pytest.mark.parametrize("estimator", ["k1", "k3", "exact"])
def test_every_kl_estimator_runs_and_k1_warns(small, tmp_path, capfd, estimator):
    start([*small, "tracker=none", f"run_dir={tmp_path / 'run'}", "eval.every=0",
           f"method.kl_estimator={estimator}"])  # fmt: skip
    warned = "expected gradient is zero" in capfd.readouterr().err
    assert warned == (estimator == "k1")
    last = read_metrics(tmp_path / "run")[-1]
    assert ("kl/solver/exact" in last) == (estimator == "exact")


def test_a_judge_that_writes_text_and_is_often_unread(small, tmp_path):
    start([*small, "tracker=none", f"run_dir={tmp_path / 'run'}", "eval.every=0",
           "self_reward.mode=generate", "prompts.judge_tag=total"])  # fmt: skip
    rows = read_trace(tmp_path / "run")
    played = [row for row in rows if row["answer"] is not None]
    assert {row["quality_status"] for row in played} == {"unread"}
    assert {row["quality"] for row in played} == {None}
    assert all(row["quality_text"] is not None for row in played)
    assert all(row["solver_reward"] == row["reward"] for row in played)


def test_queries_cut_at_the_limit_are_recorded_and_not_played(tmp_path):
    start(["num_steps=3", "num_queries=4", "rollout.max_query_tokens=3", "tracker=none",
           "eval=none", f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    rows = read_trace(tmp_path / "run")
    assert len(rows) == 3 * 4
    assert {row["query_finish_reason"] for row in rows} == {"length"}
    assert {row["answer"] for row in rows} == {None}
    line = read_metrics(tmp_path / "run")[-1]
    assert line["rollout/played_query_frac"] == 0 and line["rollout/query_length_frac"] == 1
    assert line["loss/total"] == 0


@pytest.mark.slow
def test_grpo_learns_on_the_pocket_world(tmp_path):
    summary = start(["method=grpo", "tracker=none", f"run_dir={tmp_path / 'run'}", "num_steps=60"])
    assert summary["final/accuracy"] > summary["base/accuracy"] + 0.1


def test_alarms_fire_on_lsp_zero_and_are_silent_on_lsp(tmp_path):
    """Real runs of the pocket world; LSP-Zero's Challenger leaves the language within 45 steps.
    ``on_collapse=stop`` ends the run with everything saved."""
    shape = ["num_steps=45", "eval=none", "tracker=none"]
    start([*shape, "method=lsp", f"run_dir={tmp_path / 'lsp'}"])
    assert not (tmp_path / "lsp" / "alerts.jsonl").exists()
    with pytest.raises(Interrupted, match=r"stopped after step \d+ \(on_collapse=stop: "):
        start([*shape, "method=lsp_zero", f"run_dir={tmp_path / 'zero'}", "on_collapse=stop"])
    (alert,) = map(json.loads, (tmp_path / "zero" / "alerts.jsonl").read_text().splitlines())
    assert "the Challenger's external reward rose" in alert["text"]
    assert trace_steps(tmp_path / "zero")[-1] == alert["step"] < 45


def test_the_objective_is_a_metric_and_has_a_goal(small, tmp_path):
    shape = [*small, "tracker=none", "num_steps=2"]
    with pytest.raises(RunError, match="objective=loss/totl is no metric.*near it are loss/"):
        start([*shape, f"run_dir={tmp_path / 'a'}", "objective=loss/totl"])
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "failed"
    key = "rollout/answer_length/mean"
    folder = tmp_path / "b"
    summary = start([*shape, f"run_dir={folder}", f"objective={key}", "objective_goal=min"])
    values = [line[key] for line in read_metrics(folder) if key in line]
    assert summary[f"best/{key}"] == min(values)
