"""What a report says in words and numbers."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.report import facts
from lsp.report.record import read_record
from lsp.run.folder import update_run


def test_win_rate_interval_by_hand():
    # 6 wins, 2 ties, 2 losses, and half a prompt more of each of four kinds: (6 - 2) / 12 = 1/3,
    # variance ((8 + 1) / 12 - 1/9) / 12 = 0.05324, so 1/3 ± 1.96 * 0.23074; a rate is half of it.
    rate, low, high = facts.win_rate_interval(6, 2, 2)
    assert rate == 0.7
    assert (low, high) == pytest.approx((0.5 + (1 / 3 - 0.45225) / 2, 0.5 + (1 / 3 + 0.45225) / 2))
    # Seven ties are no proof that the two are alike, and one win none that one is better.
    assert facts.win_rate_interval(0, 7, 0) == pytest.approx((0.5, 0.3911, 0.6089), abs=1e-4)
    assert facts.win_rate_interval(1, 0, 0)[1] < 0.5


@pytest.mark.parametrize("win, loss", [(0.3, 0.3), (0.4, 0.05), (0.6, 0.2), (0.05, 0.05)])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(win, loss):
    """Over all outcomes of 40 prompts, ties among them by chance."""
    covered, tie, count = 0.0, 1 - win - loss, 40
    for wins in range(count + 1):
        for losses in range(count + 1 - wins):
            ties = count - wins - losses
            ways = math.comb(count, wins) * math.comb(count - wins, losses)
            _, low, high = facts.win_rate_interval(wins, ties, losses)
            if low <= 0.5 + (win - loss) / 2 <= high:
                covered += ways * win**wins * loss**losses * tie**ties
    assert 0.94 < covered < 0.99


@given(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 60))
def test_an_interval_is_of_rates_around_the_rate(wins, ties, losses):
    if not wins + ties + losses:
        return
    rate, low, high = facts.win_rate_interval(wins, ties, losses)
    assert 0 <= low <= rate <= high <= 1


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
    said = facts.verdict(read_record(run))
    assert "greedy win rate 27.8% over 18 held-out prompts, a tie as half" in said
    update_run(run, status="interrupted")
    assert "On the dev split, from step 0 to step 3: exact acc" in facts.verdict(read_record(run))
    write_metrics(run, facts.REWARD, [0.5])
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
    """As of an evaluator of the user's own, which counts no wins and keeps no scores."""
    (run / "held_out.jsonl").unlink()
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


def test_kept_scores_give_the_first_number_an_interval_over_prompts(run, edit_json):
    edit_json(run / "summary.json", **{"base/accuracy": 0.5, "final/accuracy": 0.75})
    kept = dict(right_answer=None, weight=0.25, base_score=0.5, base="a", trained="b")
    scores = [0.5, 0.75, 1.0, 0.75]
    lines = [
        json.dumps(kept | {"prompt": f"p{i}", "trained_score": s}) for i, s in enumerate(scores)
    ]
    (run / "held_out.jsonl").write_text("".join(f"{line}\n" for line in lines))
    first, second, *_ = facts.evaluated_numbers(read_record(run))
    # Gains 0, 1/4, 1/2, 1/4: standard error 0.2041 / 2, Student's t of three degrees 3.1824.
    assert (first.low, first.high) == pytest.approx((0.25 - 0.3248, 0.25 + 0.3248), abs=1e-4)
    assert second.low is None
    without_wins = {"base/accuracy": 0.5, "final/accuracy": 0.75}
    (run / "summary.json").write_text(json.dumps(without_wins))
    assert "interval of the change over prompts: -0.075 to +0.575" in facts.verdict(
        read_record(run)
    )


def test_large_numbers_have_no_digits_behind_the_point():
    number = facts.Number("effective support", 806.149, 10164.282)
    assert (number.shown(number.start), number.shown(number.end)) == ("806", "10,164")
    assert number.shown(number.change, "+") == "+9,358"
    assert facts.Number("R", 0.5, 0.25).shown(-0.25, "+") == "-0.250"


def test_defaults_are_known_where_a_world_cannot_run(monkeypatch, tmp_path):
    """Of a world whose model is a folder that is not here."""
    monkeypatch.chdir(tmp_path)
    facts.defaults_of.cache_clear()
    assert facts.defaults_of("instructions")["world._target_"].endswith("InstructionsWorld")
    assert facts.defaults_of("nowhere") == {}


def test_numbers_have_the_labels_of_the_evaluator(run):
    numbers = {n.label: n for n in facts.evaluated_numbers(read_record(run))}
    summary = json.loads((run / "summary.json").read_text())
    assert list(numbers)[:3] == ["exact accuracy", "greedy accuracy", "  length 1"]
    number = numbers["exact accuracy"]
    assert (number.start, number.end) == (summary["base/accuracy"], summary["final/accuracy"])
    labels = {n.label for n in facts.training_numbers(read_record(run))}
    assert {"external reward R", "KL of the Solver (k2)", "tokens of an answer"} <= labels


def test_the_command_that_runs_it_again(run):
    update_run(run, command="python run.py method=lsp 'run_dir=a b' num_steps=2 seed=4")
    again = "python run.py method=lsp seed=4 num_steps=3"
    assert facts.command_again(read_record(run)) == again
