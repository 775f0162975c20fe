"""Rules of other methods in the smallest real runs: shape, gate, baseline, repetition, novelty."""

from dataclasses import replace
from statistics import fmean

import pytest

from lsp.loop.launch import start
from lsp.queries.diversity import cluster_shares, novelty
from lsp.run.checkpoint import checkpoint_state, newest_checkpoint
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.tracking.reader import read_trace
from lsp.types import Completion, DrawKey

SHORT = ["num_queries=4", "group_size=3", "eval=none", "tracker=none", "objective=null"]
STEP = [*SHORT[1:], "num_steps=1", "num_queries=16"]
OTHERS = ["anchored_challenger", "absolute_zero", "r_zero", "spice", "spiral", "open_sir",
          "self_questioning", "gated", "gated_penalised"]  # fmt: skip
WILD = "rollout.query_temperature=1.7"  # at which a good part of the queries is illegal


def asked_in(rows, step=1):
    """A row of each query of a step."""
    return list({row["query_id"]: row for row in rows if row["step"] == step}.values())


def split_by_play(rows, step=1):
    """(a row of each played query, one of each other) of a step."""
    queries = asked_in(rows, step)
    played = [row for row in queries if row["answer"] is not None]
    return played, [row for row in queries if row["answer"] is None]


@pytest.mark.parametrize("method", OTHERS)
def test_every_rule_of_others_trains_both_roles_and_repeats(train_in_memory, method):
    (lines, rows), (_, again) = (
        train_in_memory([*SHORT, "num_steps=2", f"method={method}"]) for _ in range(2)
    )
    assert rows == again and {row["step"] for row in rows} == {1, 2}
    for line in lines:
        assert {"loss/kl/solver", "loss/kl/challenger", "loss/policy/challenger"} <= set(line)
        assert line["optim/skipped"] == 0 and line["optim/grad_norm"] > 0


def test_an_anchored_challenger_earns_nothing_and_is_held_to_the_reference(train_in_memory):
    lines, rows = train_in_memory(
        [*SHORT, "num_steps=2", "method=anchored_challenger", "optim.warmup_steps=0"]
    )
    played, _ = split_by_play(rows, 2)
    assert {row["challenger_reward"] for row in played} == {0.0}
    assert {row["challenger_advantage"] for row in played} == {0.0}
    assert lines[1]["loss/policy/challenger"] == 0 and lines[1]["loss/kl/challenger"] > 0


class Writes:
    """An engine that writes these texts, whole but for the last."""

    TEXTS = ("sort cab", "sort", "copy abcabcabc", "", "last d", "last b", "sort")

    def generate(self, model, prompts, samples, max_new_tokens, temperature, key):
        last = len(self.TEXTS) - 1
        return [[
            Completion((5, 1), (-0.1, -0.1), text, "length" if i == last else "stop")
            for i, text in enumerate(self.TEXTS)
        ]]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "statuses"),
    [
        ("lsp_zero", ["stop", "stop", "stop", "empty", "stop", "stop", "length"]),
        ("gated", ["stop", "illegal", "illegal", "empty", "illegal", "stop", "length"]),
    ],
)
def test_the_gate_is_for_whole_queries_that_the_world_has_no_answers_to(players, method, statuses):
    config = replace(players.config, method=compose([f"method={method}"]).method)
    gated = replace(players, config=config, asking=Writes())
    queries = gated.ask(players.policy, 7, DrawKey(0, 1, "challenger", range(7)))
    assert [query.status for query in queries] == statuses
    assert [query.text for query in queries] == list(Writes.TEXTS)
    assert [query.played for query in queries] == [status == "stop" for status in statuses]
    assert all(query.completion is not None for query in queries)


EARNED = {"gated": None, "r_zero": 0.0, "absolute_zero": 0.5, "gated_penalised": 1.0}


@pytest.mark.parametrize("method", EARNED)
def test_illegal_queries_are_recorded_not_played_and_earn_what_the_rule_says(
    train_in_memory, players, method
):
    lines, rows = train_in_memory([*STEP, f"method={method}", WILD])
    played, others = split_by_play(rows)
    illegal = [row for row in others if row["query_finish_reason"] == "illegal"]
    is_legal = players.config.world.is_legal
    assert len(illegal) > 1 and not any(is_legal(row["query"]) for row in illegal)
    assert len(played) > 1 and all(is_legal(row["query"]) for row in played)
    assert lines[0]["rollout/query_illegal_frac"] == len(illegal) / 16
    assert lines[0]["rollout/played_query_frac"] == len(played) / 16
    if EARNED[method] is None:
        assert {row["challenger_reward"] for row in illegal} == {None}
        assert {row["query_kl"] for row in illegal} == {None}
        return
    (earned,) = {row["challenger_reward"] for row in illegal}
    least = min(row["challenger_reward"] for row in played)
    assert earned == pytest.approx(least - EARNED[method], abs=1e-6)
    assert all(row["query_kl"] is not None for row in illegal)


def test_without_a_gate_illegal_queries_are_played(train_in_memory, players):
    lines, rows = train_in_memory([*STEP, "method=lsp_zero", WILD])
    played, _ = split_by_play(rows)
    illegal = [row for row in played if not players.config.world.is_legal(row["query"])]
    assert len(illegal) > 1 and lines[0]["rollout/query_illegal_frac"] == 0
    assert {row["query_value"] for row in illegal} == {0.0}


def test_an_advantage_is_the_reward_less_the_baseline_of_the_step_before(train_in_memory):
    """By hand from the trace: b is 0 at first, then .95 b + .05 of the step's mean reward."""
    _, rows = train_in_memory([*SHORT, "num_steps=4", "method=spiral"])
    baseline = 0.0
    for step in (1, 2, 3, 4):
        played, _ = split_by_play(rows, step)
        for row in played:
            expected = row["challenger_reward"] - baseline
            assert row["challenger_advantage"] == pytest.approx(expected, abs=1e-6)
        baseline = 0.95 * baseline + 0.05 * fmean(row["challenger_reward"] for row in played)
    assert abs(baseline) > 0.02


def test_the_baseline_stays_where_nothing_could_be_played(train_in_memory, monkeypatch):
    """Step 2 plays nothing: step 3 is compared with what step 1 left."""
    from lsp.players import Players

    real = Players.step_queries

    def none_in_the_second(players, step):
        queries = real(players, step)
        return [replace(q, status="length") for q in queries] if step == 2 else queries

    monkeypatch.setattr(Players, "step_queries", none_in_the_second)
    _, rows = train_in_memory([*SHORT, "num_steps=3", "method=spiral"])
    first, third = split_by_play(rows, 1)[0], split_by_play(rows, 3)[0]
    assert split_by_play(rows, 2)[0] == []
    baseline = 0.05 * fmean(row["challenger_reward"] for row in first)
    for row in third:
        expected = row["challenger_reward"] - baseline
        assert row["challenger_advantage"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("without_pictures")
def test_a_resumed_run_goes_on_with_the_baseline_that_its_checkpoint_kept(
    tmp_path, train_in_memory
):
    folder = tmp_path / "run"
    start([*SHORT, "method=spiral", "num_steps=2", f"run_dir={folder}"])
    kept = checkpoint_state(newest_checkpoint(folder))["challenger_baseline"]
    assert find_resumed(compose([f"resume={folder}"]), []).spec.challenger_baseline == kept
    means = [
        fmean(row["challenger_reward"] for row in split_by_play(read_trace(folder), step)[0])
        for step in (1, 2)
    ]
    assert kept == pytest.approx(0.95 * 0.05 * means[0] + 0.05 * means[1], abs=1e-6)
    assert abs(kept) > 1e-3
    start([f"resume={folder}", "num_steps=4"])
    _, rows = train_in_memory([*SHORT, "method=spiral", "num_steps=4"])
    resumed = read_trace(folder)
    assert [row["query"] for row in resumed] == [row["query"] for row in rows]
    for column in ("challenger_reward", "challenger_advantage", "query_kl", "answer_kl"):
        found, expected = ([row[column] for row in table] for table in (resumed, rows))
        assert found == pytest.approx(expected, rel=1e-7, abs=0), column  # a shard holds float32


def test_a_checkpoint_of_before_has_no_baseline_and_one_of_the_step_none_to_keep(small_run):
    assert checkpoint_state(newest_checkpoint(small_run[0]))["challenger_baseline"] == 0.0


def band(value):
    return 1 - 2 * abs(value - 0.5)


def of_texts(players, rows, measure):
    return measure(players.chat.encode_text([row["query"] for row in rows]))


@pytest.mark.parametrize(
    ("overrides", "term", "weight"),
    [
        (["method=r_zero"], band, 1.0),
        (["method=lsp_zero", "method.repetition_penalty=2.5"], lambda value: -value, 2.5),
    ],
)
def test_the_share_of_queries_that_resemble_one_is_taken_off(
    train_in_memory, players, overrides, term, weight
):
    lines, rows = train_in_memory([*STEP, *overrides, "rollout.query_temperature=0.6"])
    played, _ = split_by_play(rows)
    shares = of_texts(players, played, cluster_shares)
    assert len(set(shares)) > 1  # some resemble each other, some do not
    for row, share in zip(played, shares, strict=True):
        expected = term(row["query_value"]) - weight * share
        assert row["challenger_reward"] == pytest.approx(expected, abs=1e-5)
    assert lines[0]["reward/challenger/mean"] == pytest.approx(
        fmean(row["challenger_reward"] for row in played), abs=1e-5
    )


def test_the_distance_to_the_most_similar_is_added(train_in_memory, players):
    _, rows = train_in_memory(
        [*STEP, "method=lsp", "method.novelty_weight=1.5", "method.self_reward_weight=0.3"]
    )
    played, _ = split_by_play(rows)
    new = of_texts(players, played, novelty)
    assert len(set(new)) > 2
    for row, value in zip(played, new, strict=True):
        quality = fmean(r["quality"] for r in rows if r["query_id"] == row["query_id"])
        expected = -row["query_value"] + 0.3 * quality + 1.5 * value
        assert row["challenger_reward"] == pytest.approx(expected, abs=1e-5)


def test_repetition_and_novelty_touch_no_solvers_reward(train_in_memory):
    both = ["method.repetition_penalty=1", "method.novelty_weight=1"]
    plain, other = (train_in_memory([*STEP, "method=lsp_zero", *more])[1] for more in ([], both))
    for column in ("query", "answer", "reward", "solver_reward", "solver_advantage"):
        assert [row[column] for row in plain] == [row[column] for row in other]
    assert [r["challenger_reward"] for r in plain] != [r["challenger_reward"] for r in other]
