"""What a sweep came to: by hand, with failed, unfinished and missing runs among it."""

import shutil

import pytest

from lsp.run.folder import update_run
from sweeps.outcome import Ended, against, best, cells, conditions, ended, sentence
from sweeps.space import Parameter, Sweep

SWEPT = [Parameter(name, "categorical", {}) for name in ("b", "seed")]
SWEEP = Sweep("s", "m", "maximize", "grid", SWEPT)


def runs(tmp_path, *rows):
    """Of (b, seed, value)."""
    return [
        Ended({"b": b, "seed": seed}, tmp_path / f"{b}-{seed}", value, "finished", "")
        for b, seed, value in rows
    ]


def test_a_combination_has_the_mean_of_its_seeds_and_students_interval(tmp_path):
    # .1, .2, .3: mean .2, and .2 ± .248 with 2 degrees of freedom.
    rows = [(1, 0, 0.1), (1, 1, 0.2), (1, 2, 0.3), (2.0, 0, 0.05), (2.0, 1, None)]
    one, two = cells(SWEEP, runs(tmp_path, *rows))
    assert (one.values, one.mean) == (("1",), pytest.approx(0.2))
    assert one.over_seeds.low == pytest.approx(-0.0484, abs=1e-4)
    assert (two.values, two.mean, two.over_seeds) == (("2",), 0.05, None)
    assert sentence(SWEEP, [one, two]) == (
        "m is highest with b=1: 0.2000 (95 % interval -0.0484 to 0.4484, over 3 seeds)."
    )
    smaller = Sweep("s", "m", "minimize", "grid", SWEPT)
    assert best(smaller, [one, two]) is two
    assert sentence(smaller, [one, two]) == "m is lowest with b=2: 0.0500, by 1 of its 2 runs."


def test_others_are_compared_with_the_best_seed_by_seed(tmp_path):
    """Seeds differ a lot, and the difference of 1 and 2 is .1 in each: shown. That of 1 and 3 is
    .1 and .3: not shown. 4 shares one seed with it: not compared."""
    rows = [(1, 0, 0.5), (1, 1, 0.9), (2, 0, 0.4), (2, 1, 0.8), (3, 0, 0.4), (3, 1, 0.6),
            (4, 0, 0.1), (4, 5, 0.1)]  # fmt: skip
    found = cells(SWEEP, runs(tmp_path, *rows))
    said = against(best(SWEEP, found), found)
    assert said == {("2",): "better", ("3",): "not shown"}
    (note,) = conditions(SWEEP, found)
    assert note.startswith("That it is higher is shown against 1 of 2 others (paired by seed")
    assert "picked as the best of these same runs, which flatters it" in note


def test_without_seeds_to_pair_by_it_may_be_chance(tmp_path):
    found = cells(SWEEP, runs(tmp_path, (1, 0, 0.5), (2, 0, 0.4)))
    (note,) = conditions(SWEEP, found)
    assert note.startswith("No other point has two seeds in common with it")
    none = cells(SWEEP, runs(tmp_path, (1, 0, None)))
    assert sentence(SWEEP, none) == "No outcome: no run has m." and conditions(SWEEP, none) == []


def test_how_a_run_ended_is_read_from_its_folder(small_run, tmp_path):
    sweep = Sweep("s", "eval/pocket/accuracy", "maximize", "grid", SWEPT)
    folder, summary = small_run
    point = {"b": 1, "seed": 0}
    value = summary["last/eval/pocket/accuracy"]
    assert ended(sweep, point, folder) == Ended(point, folder, value, "finished", "")
    refused = ended(sweep, point, folder, failure="error: started with other settings\x1b")
    assert refused[2:] == (None, "failed", "error: started with other settings␛")
    nothing = ended(sweep, point, tmp_path / "gone")
    assert nothing[2:] == (None, "not started", "")
    other = Sweep("s", "eval/pocket/nothing", "maximize", "grid", SWEPT)
    assert ended(other, point, folder)[2:] == (None, "finished", "no eval/pocket/nothing")
    stopped = shutil.copytree(folder, tmp_path / "stopped")
    update_run(stopped, status="interrupted", reason="SIGTERM")
    assert ended(sweep, point, stopped)[2:] == (None, "interrupted", "SIGTERM")
    update_run(stopped, status="running")
    assert ended(sweep, point, stopped)[2:] == (None, "killed", "its process is gone")
