"""The smallest real runs: what is recorded, that it repeats, that it learns."""

import json
from statistics import fmean, pstdev, stdev

import pytest

from lsp.errors import ConfigError
from lsp.loop.launch import start
from lsp.pocket.language import FAMILIES
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.settings.rules import warnings
from lsp.tracking.reader import read_metrics, read_summary, read_trace, trace_steps
from lsp.tracking.rows import SCHEMA

METHODS = ["lsp", "lsp_zero", "grpo", "untrained_challenger", "frozen_challenger"]
SHORT = ["num_steps=2", "num_queries=4", "group_size=3", "eval=none", "tracker=none"]


def test_a_run_leaves_everything_behind(small_run):
    folder, summary = small_run
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "run.json", "metrics.jsonl", "summary.json", "trace",
                     "checkpoints", "wandb", "curves.png", "report.html"}  # fmt: skip
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


def expected_of(rows, step):
    """What the metrics of an LSP step must be (w = 0.3, beta = 0.1, alpha = 0.3, N = 4, G = 3),
    worked out from its trace rows alone."""
    answers = [row for row in rows if row["answer"] is not None]
    queries = list({row["query_id"]: row for row in rows}.values())
    played = list({row["query_id"]: row for row in answers}.values())
    groups = [[r for r in answers if r["query_id"] == q["query_id"]] for q in played]

    def of(rows, column):
        return [row[column] for row in rows]

    def spread(name, values):
        return {f"{name}/mean": fmean(values), f"{name}/std": stdev(values)}

    reward, quality = of(answers, "reward"), of(answers, "quality")
    found = {
        "rollout/played_query_frac": len(played) / 4,
        "rollout/distinct_query_frac": len({row["query"] for row in queries}) / 4,
        "rollout/query_length/mean": fmean(of(queries, "query_tokens")),
        "rollout/answer_length/mean": fmean(of(answers, "answer_tokens")),
        "rollout/answer_truncated_frac": of(answers, "answer_finish_reason").count("length")
        / len(answers),
        **{
            f"rollout/query_{why}_frac": of(queries, "query_finish_reason").count(why) / 4
            for why in ("length", "empty", "malformed")
        },
        **spread("reward/external", reward),
        **spread("reward/solver", of(answers, "solver_reward")),
        **spread("reward/challenger", of(played, "challenger_reward")),
        **spread("advantage/solver", of(answers, "solver_advantage")),
        **spread("advantage/challenger", of(played, "challenger_advantage")),
        **spread("quality", quality),
        "quality/unparsed_frac": 0.0,
        "quality/weighted_std_ratio": 0.3 * stdev(quality) / stdev(reward),
        "reward/solver/zero_variance_frac": fmean(
            pstdev(of(group, "solver_reward")) < 1e-6 for group in groups
        ),
        "batch/rows": len(answers) + len(played),
        "batch/distinct_rows": len({(r["query"], r["answer"]) for r in answers})
        + len({r["query"] for r in played}),
        "optim/lr": 5e-4 * step / 5,  # five steps of warm-up
        "optim/skipped": 0.0,
        "runtime/world_size": 1,
    }
    for role, own, word, rows_planned, alpha in (
        ("solver", answers, "answer", 12, 1.0),
        ("challenger", played, "query", 4, 0.3),
    ):
        tokens, kl = of(own, f"{word}_tokens"), of(own, f"{word}_kl")
        entropy, advantage = of(own, f"{word}_entropy"), of(own, f"{role}_advantage")

        def total(values, tokens=tokens):
            return sum(value * count for value, count in zip(values, tokens, strict=True))

        found[f"kl/{role}/k2"] = total(kl) / sum(tokens)
        found[f"entropy/{role}"] = total(entropy) / sum(tokens)
        found[f"loss/policy/{role}"] = -alpha * total(advantage) / rows_planned
        found[f"loss/kl/{role}"] = alpha * 0.1 * total(kl) / rows_planned
    found["loss/total"] = sum(
        found[f"loss/{part}/{role}"]
        for part in ("policy", "kl")
        for role in ("solver", "challenger")
    )
    return found


def test_metrics_are_one_object_a_step_whose_values_are_those_of_its_trace(small_run):
    folder, _ = small_run
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line in lines[1:]:
        expected = expected_of(read_trace(folder, [line["step"]]), line["step"])
        found = {key: line[key] for key in expected}
        assert found == pytest.approx(expected, abs=2e-5, rel=1e-4)
        for role in ("solver", "challenger"):  # before the first update the two are one model
            for estimator in ("k1", "k2", "k3"):
                kl = line[f"kl/{role}/{estimator}"]
                assert abs(kl) < 1e-6 if line["step"] == 1 else abs(kl) > 0
        phases = [line[f"time/{name}"] for name in ("queries", "answers", "reward", "quality",
                                                    "update")]  # fmt: skip
        assert 0 < sum(phases) < line["runtime/elapsed"]
        assert line["optim/grad_norm"] > 0 and line["runtime/peak_memory_mb"] > 50
        assert 0 <= line["rollout/logprob_mismatch"] < 1e-4
        assert 0 <= line["batch/padding_frac"] < 1


def test_evaluations_on_the_way_and_at_the_end_are_counts_of_one_another(small_run):
    folder, summary = small_run
    lines = {line["step"]: line for line in read_metrics(folder)}
    assert [s for s, line in lines.items() if "eval/pocket/win_rate" in line] == [0, 2, 3]
    start = {k.removeprefix("eval/pocket/"): v for k, v in lines[0].items() if k != "step"}
    assert (start["wins"], start["losses"], start["win_rate"]) == (0, 0, 0.5)
    dev = {key: lines[3][f"eval/pocket/{key}"] for key in start}
    test = {key: summary[f"final/{key}"] for key in start}
    assert dev["wins"] + dev["ties"] + dev["losses"] == start["ties"]
    for values in (dev, test):
        wins, ties, losses = (values[key] for key in ("wins", "ties", "losses"))
        assert values["win_rate"] == (wins + ties / 2) / (wins + ties + losses)
        lengths = [values[f"accuracy/length_{n}"] for n in range(1, 9)]
        families = [values[f"accuracy/{family}"] for family in FAMILIES]
        assert all(0 < value <= 1 for value in lengths + families)
        for parts in (lengths, families):
            assert min(parts) < values["accuracy"] < max(parts)
    assert summary["best/eval/pocket/win_rate"] == max(
        lines[step]["eval/pocket/win_rate"] for step in (2, 3)
    )
    for key, value in lines[3].items():
        if key != "step":
            assert summary[f"last/{key}"] == value


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
        quality = sum(row["quality"] for row in group) / 3
        asked = group[0]["challenger_reward"]
        assert asked == pytest.approx(-value + 0.3 * quality, abs=1e-5)
        for row in group:
            expected = row["reward"] + 0.3 * row["quality"]
            assert row["solver_reward"] == pytest.approx(expected, abs=1e-5)
    for step in (1, 2, 3):
        own = [group[0] for (s, _), group in groups.items() if s == step]
        assert sum(row["challenger_advantage"] for row in own) == pytest.approx(0, abs=1e-5)
    assert all(row["source"] == "challenger" and row["query_kl"] is not None for row in played)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_repeats_bit_for_bit(train_in_memory, method):
    (lines, rows), (_, again), (_, other) = (
        train_in_memory([*SHORT, f"method={method}", f"seed={seed}"]) for seed in (0, 0, 1)
    )
    assert rows == again and {row["step"] for row in rows} == {1, 2}
    assert [row["query"] for row in other] != [row["query"] for row in rows]
    trained = {role for role in ("solver", "challenger") if f"loss/policy/{role}" in lines[-1]}
    assert trained == ({"solver", "challenger"} if method in ("lsp", "lsp_zero") else {"solver"})
    if method == "grpo":
        assert {row["source"] for row in rows} == {"dataset"}
        assert {row["challenger_reward"] for row in rows} == {None}
        assert {row["quality_status"] for row in rows} == {"not scored"}
    elif method == "lsp_zero":
        assert all(row["solver_reward"] in (row["reward"], None) for row in rows)


@pytest.mark.parametrize("estimator", ["k1", "k3", "exact"])
def test_every_kl_estimator_trains_and_k1_warns(train_in_memory, estimator):
    overrides = [*SHORT, f"method.kl_estimator={estimator}"]
    texts = warnings(compose(overrides))
    assert any("expected gradient is zero" in text for text in texts) == (estimator == "k1")
    lines, _ = train_in_memory(overrides)
    last = lines[-1]
    assert ("kl/solver/exact" in last) == (estimator == "exact")
    rows_planned, mean = 12, last["rollout/answer_length/mean"]
    tokens = mean * (last["batch/rows"] - 4 * last["rollout/played_query_frac"])
    expected = 0.1 * last[f"kl/solver/{estimator}"] * tokens / rows_planned
    assert last["loss/kl/solver"] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_judge_that_writes_text_and_is_often_unread(train_in_memory):
    _, rows = train_in_memory([*SHORT, "self_reward.mode=generate", "prompts.judge_tag=total"])
    played = [row for row in rows if row["answer"] is not None]
    assert {row["quality_status"] for row in played} == {"unread"}
    assert {row["quality"] for row in played} == {None}
    assert all(row["quality_text"] is not None for row in played)
    assert all(row["solver_reward"] == row["reward"] for row in played)


def test_queries_cut_at_the_limit_are_recorded_and_not_played(train_in_memory):
    lines, rows = train_in_memory([*SHORT, "rollout.max_query_tokens=3"])
    assert len(rows) == 2 * 4
    assert {row["query_finish_reason"] for row in rows} == {"length"}
    assert {row["answer"] for row in rows} == {None}
    assert lines[-1]["rollout/played_query_frac"] == 0
    assert lines[-1]["rollout/query_length_frac"] == 1 and lines[-1]["loss/total"] == 0


@pytest.mark.slow
def test_grpo_learns_on_the_pocket_world(tmp_path):
    summary = start(["method=grpo", "tracker=none", f"run_dir={tmp_path / 'run'}", "num_steps=60"])
    assert summary["final/accuracy"] > summary["base/accuracy"] + 0.1


INVALID = {"unplayed": None, "lowest": 0.0, "penalty": 1.5}


@pytest.mark.parametrize("rule", INVALID)
def test_what_a_query_earns_that_cannot_be_played(train_in_memory, rule):
    """At eight tokens at most, many queries are cut; those that bear loss earn the same each."""
    lines, rows = train_in_memory(
        [*SHORT[2:], "num_steps=1", "num_queries=16", "rollout.max_query_tokens=8",
         f"method.invalid_query={rule}", "method.invalid_query_penalty=1.5"]
    )  # fmt: skip
    cut = [row for row in rows if row["query_finish_reason"] == "length"]
    played = {row["query_id"]: row for row in rows if row["answer"] is not None}
    assert len(cut) > 1 and len(played) > 1
    if INVALID[rule] is None:
        assert {row["challenger_reward"] for row in cut} == {None}
        assert "reward/challenger/invalid" not in lines[0]
        assert all(row["query_kl"] is None for row in cut)
        return
    least = min(row["challenger_reward"] for row in played.values())
    (same,) = {row["challenger_reward"] for row in cut}
    assert same == pytest.approx(least - INVALID[rule])
    earned = [row["challenger_reward"] for row in [*played.values(), *cut]]
    assert cut[0]["challenger_advantage"] == pytest.approx(
        cut[0]["challenger_reward"] - fmean(earned), abs=1e-5
    )
    assert all(row["query_kl"] is not None for row in cut)
    assert lines[0]["reward/challenger/invalid"] == pytest.approx(least - INVALID[rule])


def test_the_weight_that_the_first_play_tells_stays_also_when_a_run_goes_on(tmp_path):
    """w std(R_Q) / std(R) is the ratio asked for at step 1, and w the same number ever after."""
    run = [*SHORT[1:], "method.self_reward_weight=auto", "method.self_reward_ratio=0.5",
           f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    start([*run, "num_steps=2"])
    told = json.loads((tmp_path / "run" / "run.json").read_text())["self_reward_weight"]["weight"]
    start([f"resume={tmp_path / 'run'}", "num_steps=3"])
    lines = read_metrics(tmp_path / "run")
    assert lines[0]["quality/weighted_std_ratio"] == pytest.approx(0.5, rel=1e-4)
    assert [line["quality/weight"] for line in lines] == [pytest.approx(told)] * 3
    assert compose(run).method.label == "lsp"
    row = next(row for row in read_trace(tmp_path / "run", [3]) if row["quality"] is not None)
    assert row["solver_reward"] == pytest.approx(row["reward"] + told * row["quality"], rel=1e-4)


@pytest.mark.parametrize("weight", ["-1", "2000000", "loud"])
def test_a_weight_is_a_number_or_auto(weight):
    with pytest.raises(ConfigError, match="method.self_reward_weight"):
        compose([f"method.self_reward_weight={weight}"])


def test_a_weight_told_after_the_last_checkpoint_is_told_again(tmp_path, monkeypatch):
    """What was stopped before its first checkpoint plays step 1 as it did: without a weight."""
    from lsp import game

    run = [*SHORT[1:], "method.self_reward_weight=auto", "num_steps=2", "checkpoint.every=0"]
    tells = iter([None, 0.25])
    monkeypatch.setattr(game, "auto_weight", lambda *play: next(tells))
    start([*run, f"run_dir={tmp_path / 'whole'}"])
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["self_reward_weight"] == {"weight": 0.25, "step": 2}
    assert find_resumed_weight(tmp_path / "whole", 0) is None
    assert find_resumed_weight(tmp_path / "whole", 2) == 0.25


def find_resumed_weight(folder, step):
    """Of the run's spec, were its newest checkpoint that of ``step``."""
    for path in (folder / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            path.rename(folder / f"away-{path.name}")
    config = compose([f"resume={folder}"])
    weight = find_resumed(config, []).spec.self_reward_weight
    for path in folder.glob("away-*"):
        path.rename(folder / "checkpoints" / path.name.removeprefix("away-"))
    return weight


def test_each_role_has_its_own_kl_coefficient(train_in_memory):
    """The KL part of a role's loss, by hand from its mean KL a token: its coefficient, its weight,
    its tokens over its rows as planned. (alpha = 0.3, N = 4, G = 3.)"""
    lines, rows = train_in_memory(
        [
            *SHORT,
            "optim.warmup_steps=0",
            "optim.lr=0.005",
            "method.beta=0.05",
            "method.challenger_beta=0.5",
        ]
    )
    last = [row for row in rows if row["step"] == 2 and row["answer"] is not None]
    asked = {row["query_id"]: row["query_tokens"] for row in last}.values()
    answered = [row["answer_tokens"] for row in last]
    kl = {role: lines[1][f"kl/{role}/k2"] for role in ("challenger", "solver")}
    assert min(kl.values()) > 1e-4
    expected = 0.3 * 0.5 * kl["challenger"] * sum(asked) / 4
    assert lines[1]["loss/kl/challenger"] == pytest.approx(expected, rel=1e-3)
    expected = 0.05 * kl["solver"] * sum(answered) / 12
    assert lines[1]["loss/kl/solver"] == pytest.approx(expected, rel=1e-3)


def test_a_challenger_that_is_not_trained_has_no_kl_coefficient():
    method = compose(["method.challenger_beta=0.5"]).method
    assert (method.beta_of("challenger"), method.beta_of("solver")) == (0.5, 0.1)
    assert compose([]).method.beta_of("challenger") == 0.1
    with pytest.raises(
        ConfigError, match="method.challenger_beta=0.5: is the Challenger's, and no"
    ):
        compose(["method=grpo", "method.challenger_beta=0.5"])
