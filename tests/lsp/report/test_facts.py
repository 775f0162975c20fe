"""What a report says in words and numbers."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.report import facts
from lsp.report.page import render
from lsp.report.record import read_record
from lsp.run.folder import update_run
from lsp.tracking.labels import LABELS


def test_win_rate_interval_by_hand():
    # 6 of 8 decided queries: 0.3491 to 0.9681 (Clopper and Pearson); 8 of 10 were decided.
    rate, low, high = facts.win_rate_interval(6, 2, 2)
    expected = (0.7, 0.5 + 0.8 * (0.3491 - 0.5), 0.5 + 0.8 * (0.9681 - 0.5))
    assert (rate, low, high) == pytest.approx(expected, abs=1e-4)
    assert facts.win_rate_interval(0, 7, 0) == (0.5, 0.5, 0.5)


@given(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 60))
def test_the_interval_holds_a_half_where_the_sign_test_does_not_reject(wins, ties, losses):
    if not wins + losses:
        return
    rate, low, high = facts.win_rate_interval(wins, ties, losses)
    assert low <= rate <= high
    count, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(count, k) for k in range(most, count + 1)) / 2**count
    assert (low <= 0.5 <= high) == (tail >= 0.025)


def test_ends_of_a_run_by_hand(run, write_metrics):
    values = [1, 3, 1, 3, 2, 5, 9, 5, 9, 7]
    write_metrics(run, facts.REWARD, values)
    number = facts.windows(read_record(run), facts.REWARD)
    # Means 2 and 7, variances 1 and 4 of five steps each: Welch's 5.88 degrees of freedom, t 2.459.
    assert (number.start, number.end) == (2, 7)
    assert number.high - number.change == pytest.approx(2.459, abs=5e-4)
    assert number.change - number.low == pytest.approx(2.459, abs=5e-4)
    write_metrics(run, facts.REWARD, values[:4])
    assert facts.windows(read_record(run), facts.REWARD).low is None
    write_metrics(run, facts.REWARD, [1.0] * 5 + [2.0] * 5)
    number = facts.windows(read_record(run), facts.REWARD)
    assert (number.low, number.change, number.high) == (1.0, 1.0, 1.0)


def test_verdicts(run, edit_json, write_metrics):
    for wins, word in ((50, "Better than"), (5, "No different from"), (0, "Worse than")):
        counts = {"final/wins": wins, "final/ties": 10, "final/losses": 8}
        edit_json(run / "summary.json", **counts)
        assert facts.verdict(read_record(run)).startswith(f"{word} its base")
    update_run(run, status="interrupted")
    assert "Too few steps" in facts.verdict(read_record(run))
    for slope, word in ((0.1, "rose"), (-0.1, "fell"), (0.0, "did not clearly change")):
        write_metrics(run, facts.REWARD, [slope * i + i % 2 for i in range(1, 41)])
        assert f"R {word}" in facts.verdict(read_record(run))


def test_what_a_verdict_holds_under(run, edit_json, write_metrics):
    write_metrics(run, facts.REWARD, [0.9, 0.8, 0.4, 0.3])
    edit_json(run / "summary.json", **{"final/wins": 5, "final/ties": 1, "final/losses": 2})
    of_the_interval, of_the_reward = facts.conditions(read_record(run))
    assert "of this one run" in of_the_interval
    assert "R fell in training (0.850 → 0.350) while the model got better" in of_the_reward
    edit_json(run / "summary.json", **{"final/losses": 9})
    assert facts.conditions(read_record(run)) == [of_the_interval]
    update_run(run, status="interrupted")  # whose summary is not its own
    assert facts.conditions(read_record(run)) == []


def test_without_wins_the_evaluations_first_number_is_the_verdict(run, edit_json):
    """As of an evaluator of the user's own, which counts no wins."""
    update_run(run, evaluation={"name": "mine", "labels": {"score": "my score", "size": "size"}})
    summary = {"base/score": 0.25, "final/score": 0.5, "final/size": 2.0, "base/other": 1.0}
    (run / "summary.json").write_text(json.dumps(summary))
    record = read_record(run)
    assert facts.verdict(record) == (
        "On the test split, from its base to the end: my score 0.250 → 0.500, higher; one number"
        " each."
    )
    assert facts.evaluated_numbers(record) == [facts.Number("my score", 0.25, 0.5)]
    edit_json(run / "summary.json", **{"final/score": 0.25})
    assert "0.250 → 0.250, the same" in facts.verdict(read_record(run))


def test_numbers_have_the_labels_of_the_evaluator(run):
    numbers = {n.label: n for n in facts.evaluated_numbers(read_record(run))}
    summary = json.loads((run / "summary.json").read_text())
    assert list(numbers)[:3] == ["exact accuracy", "greedy accuracy", "  length 1"]
    number = numbers["exact accuracy"]
    assert (number.start, number.end) == (summary["base/accuracy"], summary["final/accuracy"])
    labels = {n.label for n in facts.training_numbers(read_record(run))}
    assert {"external reward R", "KL of the Solver (k2)", "tokens of an answer"} <= labels


def test_lights(run, edit_settings, write_metrics):
    (run / "alerts.jsonl").write_text(
        '{"step": 2, "text": "rollout/distinct_query_frac fell to 0.1 (limit 0.25)"}\n'
        '{"step": 3, "text": "the Solver\'s external reward rose by 1 …: reward hacking"}\n'
    )
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert (lights["distinct queries"].state, lights["distinct queries"].step) == ("alarm", 2)
    assert lights["reward hacking"].step == 3
    assert lights["queries played"].state == "too few steps"
    assert "at step 2" in render([read_record(run)])
    write_metrics(run, "rollout/played_query_frac", [0.1] * 29)
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert (lights["queries played"].state, lights["queries played"].value) == ("ok", 0.1)
    assert lights["queries played"].limit == "at least 0.5"
    edit_settings(run, method={"queries": "dataset"})
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert lights["queries played"].state == "not measured"


def test_the_command_that_runs_it_again(run):
    update_run(run, command="python run.py method=lsp 'run_dir=a b' num_steps=2 seed=4")
    again = "python run.py method=lsp seed=4 num_steps=3"
    assert facts.command_again(read_record(run)) == again


def test_every_light_has_a_number_and_words():
    """Reward hacking alone is seen in another number, the quality."""
    assert {name for name in facts.WATCHED if name not in LABELS} == {"reward hacking"}
