"""What stands side by side: settings, quantities, held-out answers."""

import json

from lsp.report import sides
from lsp.report.comparison import compare
from lsp.report.record import read_records
from lsp.run.folder import update_run
from lsp.tracking.reader import EXAMPLES, HELD_OUT

OTHER = {"method": {"beta": 0.3}}


def compared(*folders):
    return compare(read_records(folders)).sides


def test_settings_that_differ_and_no_other(scored_run):
    ours = [scored_run(f"a{seed}", [0.5, 0.5], seed=seed) for seed in (0, 1)]
    found = sides.different_settings(
        compared(*ours, scored_run("b", [0.5, 0.5], run_name="mine", **OTHER))
    )
    assert found == [("seed", ["0, 1", "0"]), ("method.beta", ["0.1", "0.3"])]


def test_a_reward_is_drawn_on_common_axes_where_it_is_one_quantity(scored_run):
    same = compared(scored_run("a", [0.5, 0.5]), scored_run("b", [0.5, 0.5], **OTHER))
    assert not any(sides.not_common(same, metric) for metric in sides.MEASURED_BY)
    weight = {"method": {"self_reward_weight": 0.0}}
    louder = compared(scored_run("c", [0.5, 0.5]), scored_run("d", [0.5, 0.5], **weight))
    assert sides.not_common(louder, "reward/external/mean") == []
    assert sides.not_common(louder, "reward/solver/mean") == [
        "method.self_reward_weight (A: 0.3; B: 0.0)"
    ]
    credit = {"reward": {"credit": "exact"}}
    other = compared(scored_run("e", [0.5, 0.5]), scored_run("f", [0.5, 0.5], **credit))
    assert sides.not_common(other, "reward/external/mean") == [
        "reward.credit (A: partial; B: exact)"
    ]
    assert sides.not_common(other, "quality/mean") == []
    assert sides.not_common(other, "entropy/solver") == []


def test_a_weight_that_the_first_play_told_is_a_quantity_of_its_own(scored_run):
    folders = [scored_run("a", [0.5, 0.5]), scored_run("b", [0.5, 0.5], **OTHER)]
    for folder, weight in zip(folders, (0.25, 0.5), strict=True):
        update_run(folder, self_reward_weight={"weight": weight, "step": 1})
    reasons = sides.not_common(compared(*folders), "reward/solver/mean")
    assert reasons == ["w as the first play told it (0.25, 0.5)"]


def test_held_out_answers_are_drawn_and_then_chosen_by_the_largest_lead(scored_run):
    """Ten prompts, of which 9, 2 and 4 are drawn; A leads by .4 on 0 and by .1 on 1, B on 3."""
    ours, theirs = [0.5] * 10, [0.5] * 10
    ours[0], ours[1], theirs[3] = 0.9, 0.6, 0.7
    found = compared(scored_run("a", ours), scored_run("b", theirs, **OTHER))
    answered = sides.answered(found, all_paired=True)
    assert [(one.prompt, one.why) for one in answered] == [
        *((f"p{i}", "by chance") for i in (9, 2, 4)),
        *((f"p{i}", "A is furthest ahead") for i in (0, 1)),
        ("p3", "B is furthest ahead"),
    ]
    assert answered[3].bases == ["b"] and answered[3].right_answer == "r"
    assert answered[3].answers == [("a says 0", 0.9), ("b says 0", 0.5)]


def test_without_scores_the_examples_that_all_kept_stand_side_by_side(scored_run):
    folders = [scored_run("a", [0.5, 0.5]), scored_run("b", [0.5, 0.5], **OTHER)]
    for folder, extra in zip(folders, ("x", "y"), strict=True):
        (folder / HELD_OUT).unlink()
        examples = [
            {"prompt": prompt, "right_answer": "r", "base": "b", "trained": extra}
            for prompt in ("shared", f"of {extra}")
        ]
        (folder / EXAMPLES).write_text(json.dumps(examples))
    (one,) = sides.answered(compared(*folders), all_paired=False)
    assert (one.prompt, one.bases, one.answers) == ("shared", ["b"], [("x", None), ("y", None)])


def test_numbers_of_the_evaluation_are_means_over_seeds(scored_run, edit_json):
    folders = [scored_run(f"a{seed}", [0.5, 0.5], seed=seed) for seed in (0, 1)]
    folders.append(scored_run("b", [0.5, 0.5], **OTHER))
    for folder, value in zip(folders, (0.25, 0.75, 1.0), strict=True):
        edit_json(folder / "summary.json", **{"final/accuracy": value, "base/accuracy": 0.125})
    rows = {words: (base, ended) for words, base, ended in sides.evaluated(compared(*folders))}
    assert rows["exact accuracy"] == (0.125, [0.5, 1.0])
    assert "NashConv" not in rows


def test_sides_are_named_by_what_tells_them_apart(scored_run, edit_json):
    folders = [
        scored_run("a", [0.5, 0.5]),
        scored_run("b", [0.5, 0.5], rollout={"lag": 1}, method={"beta": 0.2}),
    ]
    assert [side.name for side in compared(*folders)] == [
        "lsp from base beta=0.1 lag=0",
        "lsp from base beta=0.2 lag=1",
    ]
    edit_json(folders[1] / "run.json", method="grpo")
    assert [side.name for side in compared(*folders)] == ["lsp from base", "grpo from base"]


def test_without_scores_the_summary_tells_both_ends(scored_run, edit_json):
    folders = [scored_run("a", [0.5, 0.75]), scored_run("b", [0.5, 0.5], **OTHER)]
    (folders[1] / HELD_OUT).unlink()
    edit_json(folders[1] / "summary.json", **{"final/accuracy": 0.875, "base/accuracy": 0.125})
    one, other = compared(*folders)
    assert sides.ends(one) == (0.25, 0.625) and sides.ends(other) == (0.125, 0.875)


def test_letters_go_on_after_z():
    assert [sides._letter(i) for i in (0, 25, 26, 53)] == ["A", "Z", "A1", "B2"]
