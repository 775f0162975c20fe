"""What is said of several runs: numbers worked by hand, and what cannot be compared."""

import shutil

import pytest

from lsp.report.claims import holm
from lsp.report.comparison import compare, conditions, outcome
from lsp.report.record import read_records
from lsp.run.folder import update_run
from lsp.tracking.reader import HELD_OUT, SUMMARY, read_held_out

LOW, MIDDLE = [0.4, 0.5, 0.6], [0.5, 0.7, 0.9]
"""Differences of .1, .2, .3: mean .2, and Student's interval with 2 degrees of freedom .2 ± .248
(tests/lsp/report/test_claims.py), p = .0742."""
OTHER = {"method": {"beta": 0.3}}


def compared(*folders):
    return compare(read_records(folders))


def test_a_run_keeps_what_its_numbers_are_the_weighted_means_of(small_run):
    folder, summary = small_run
    rows = read_held_out(folder)
    for part, key in (("base", "base/accuracy"), ("trained", "final/accuracy")):
        mean = sum(row.weight * getattr(row, f"{part}_score") for row in rows)
        assert mean == pytest.approx(summary[key], abs=1e-12)
    right = sum(row.trained == row.right_answer for row in rows)
    assert len(rows) == sum(summary[f"final/{word}"] for word in ("wins", "ties", "losses"))
    assert 0 < right < len(rows)


def test_two_runs_are_compared_prompt_by_prompt(scored_run):
    found = compared(scored_run("a", LOW), scored_run("b", MIDDLE, **OTHER))
    (claim,) = found.claims
    assert (claim.one.letter, claim.other.letter, claim.over) == ("B", "A", "prompts")
    assert (claim.found.mean, claim.p) == (pytest.approx(0.2), pytest.approx(0.0742, abs=1e-4))
    assert outcome(found) == (
        "No difference is shown between B and A: exact accuracy 0.700 against 0.500, difference"
        " +0.200 (95 % interval -0.048 to +0.448, over the same 3 prompts)."
    )
    (note,) = conditions(found)
    assert "of one run each: a difference between these runs, not between their methods" in note


def test_a_difference_that_is_everywhere_the_same_is_shown(scored_run):
    found = compared(scored_run("a", [0.5, 0.5]), scored_run("b", [0.25, 0.25], **OTHER))
    assert outcome(found).startswith("A ends better than B: exact accuracy 0.500 against 0.250")
    assert found.claims[0].says == "better"


def test_prompts_count_by_their_weights(scored_run):
    """1/2 of .4 and twice 1/4 of nothing: .2, and not the plain mean .133."""
    shares = [0.5, 0.25, 0.25]
    one = scored_run("a", [0.9, 0.5, 0.5], shares)
    found = compared(one, scored_run("b", [0.5, 0.5, 0.5], shares, **OTHER))
    assert found.claims[0].found.mean == pytest.approx(0.2)
    assert found.claims[0].one.trained == pytest.approx(0.7)


def test_runs_of_several_seeds_are_compared_by_seed(scored_run):
    """Of three seeds the runs differ by .1, .2 and .3 on both prompts: the same interval as above,
    now over seeds, and that is what is said first. Seed 7 is of one side alone."""
    ours = [scored_run(f"a{s}", [0.5, 0.5], seed=s) for s in (0, 1, 2, 7)]
    theirs = [
        scored_run(f"b{s}", [0.5 + d, 0.5 + d], seed=s, **OTHER)
        for s, d in ((0, 0.1), (1, 0.2), (2, 0.3))
    ]
    found = compared(*ours, *theirs)
    assert [len(side.runs) for side in found.sides] == [4, 3]
    over_prompts, over_seeds = found.claims
    assert over_seeds.over == "seeds" and over_seeds.found.units == 3
    assert over_seeds.found.mean == pytest.approx(0.2)
    assert over_seeds.p == pytest.approx(0.0742, abs=1e-4)
    assert over_prompts.p == 0  # on each prompt the mean over seeds differs by .2 without error
    assert outcome(found).startswith("No difference is shown between B and A") and (
        "-0.048 to +0.448, over the same 3 seeds" in outcome(found)
    )
    (note,) = conditions(found)
    assert note.startswith("Paired by seed (3 that both have): it speaks of these settings")


def test_several_pairs_are_corrected_by_holm(scored_run):
    third = scored_run("c", [0.1, 0.2, 0.9], method={"beta": 0.7})
    found = compared(scored_run("a", LOW), scored_run("b", MIDDLE, **OTHER), third)
    assert len(found.claims) == 3
    assert [c.p for c in found.claims] == holm([c.found.p for c in found.claims])
    # A and B differ by p = .0742, the smallest: three times that.
    assert min(c.p for c in found.claims) == pytest.approx(3 * 0.0742, abs=3e-4)
    assert outcome(found) == (
        "B ends highest of 3 with exact accuracy 0.700; but that it is better than A and C is not"
        " shown, by Holm's correction for 3 pairs."
    )
    assert any(
        "an interval may leave zero out where nothing is shown" in n for n in conditions(found)
    )


def test_of_three_some_may_be_shown(scored_run):
    flat = scored_run("c", [0.25, 0.25, 0.25], method={"beta": 0.7})
    even = scored_run("a", [0.5, 0.5, 0.5])
    found = compared(even, flat, scored_run("b", [0.4, 0.9, 0.6], **OTHER))
    assert "C ends highest of 3" in outcome(found) and "C is better" not in outcome(found)
    found = compared(even, flat, scored_run("d", [0.4, 0.1, 0.6], method={"beta": 0.9}))
    says = "that it is better than B is shown, that it is better than C is not shown"
    assert says in outcome(found)


def test_runs_that_differ_in_nothing_but_the_seed_are_compared_one_by_one(scored_run):
    found = compared(scored_run("a", LOW, seed=1), scored_run("b", MIDDLE, seed=2))
    assert [side.name for side in found.sides] == [
        "lsp from base seed=1",
        "lsp from base seed=2",
    ]
    assert "Nothing but the seed differs: what is seen here is chance." in conditions(found)


def test_what_cannot_be_paired_is_said_and_not_compared(scored_run):
    ours = scored_run("a", LOW)
    other = scored_run("b", [0.5, 0.5], **OTHER)
    found = compared(ours, other)
    assert found.claims == [] and outcome(found).startswith("No outcome: no two of these runs")
    assert conditions(found) == []
    assert found.apart == [
        "A and B are not compared: they answered different held-out prompts (3 and 2, 2 of them the"
        " same)."
    ]
    shutil.copy(ours / HELD_OUT, other / HELD_OUT)
    update_run(other, evaluation={"name": "mine", "labels": {}})
    assert "their evaluations are pocket and mine" in compared(ours, other).apart[0]
    update_run(other, evaluation={"name": "pocket", "labels": {}}, status="interrupted")
    assert (
        "B has no scores of held-out prompts: Interrupted after step 3"
        in (compared(ours, other).apart[0])
    )
    update_run(other, status="finished")
    (other / HELD_OUT).unlink()
    assert "or an earlier version wrote it" in compared(ours, other).apart[0]
    one = scored_run("one", [0.5], method={"beta": 0.5})
    assert (
        "one held-out prompt gives no interval"
        in (compared(one, scored_run("two", [0.6], **OTHER)).apart[0])
    )


def test_a_pair_that_can_be_compared_is_though_a_third_run_cannot(scored_run):
    gone = scored_run("c", LOW, method={"beta": 0.7})
    (gone / HELD_OUT).unlink()
    (gone / SUMMARY).write_text("{}")
    found = compared(scored_run("a", LOW), scored_run("b", MIDDLE, **OTHER), gone)
    assert len(found.claims) == 1 and len(found.apart) == 2
    assert outcome(found).startswith("No difference is shown between B and A")
