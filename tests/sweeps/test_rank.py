"""Where a method stands: its file, and the table by hand."""

from dataclasses import fields

import pytest

from lsp.errors import RunError
from sweeps import rank
from sweeps.rank import main, method_overrides, rank_text
from sweeps.rows import PocketRow


def rows_of(**accuracies):
    others = dict.fromkeys([field.name for field in fields(PocketRow)], 0.5)
    return [
        PocketRow(**{**others, "variant": name, "base": base, "seed": 0, "accuracy": value})
        for name, values in accuracies.items()
        for base, value in enumerate(values)
    ]


def test_the_best_comes_first_and_learners_are_held_against_the_frozen_one():
    rows = rows_of(frozen=[0.6, 0.7, 0.8], lsp=[0.5, 0.6, 0.7], mine=[0.7, 0.81, 0.9])
    lines = rank_text(rows, ["lsp", "mine"], ["mine"]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["mine", "frozen", "lsp"]
    # Differences .1, .11, .1: mean .103, Student's 4.303 x .00333; t = 31, twice p = .001.
    assert "+0.103 (+0.089 to +0.118) | 3 of 3 | better |" in lines[2]
    assert lines[3].endswith("|  |  |  |")
    assert lines[-1] == "mine stands at 1 of 3; against a frozen Challenger it is better."


def test_what_is_not_shown_is_called_so():
    rows = rows_of(frozen=[0.6, 0.7, 0.8], mine=[0.5, 0.8, 0.8])
    text = rank_text(rows, ["mine"], ["mine"])
    assert "mine stands at 1 of 2; against a frozen Challenger a difference is not shown." in text


def test_a_method_file_becomes_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [lsp_zero]\nchallenger_beta: 0.3\nchallenger_reward: band\n")
    assert method_overrides(path) == [
        "method=lsp_zero",
        "method.challenger_beta=0.3",
        "method.challenger_reward=band",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("challenger_beta: 0.3", "is no method: write 'defaults: \\[<one of absolute_zero, "),
        ("defaults: [lsp, grpo]", "is no method"),
        ("- 1", "is no method"),
        ("a: [", "mine.yaml: "),
        ("defaults: [lsp]\nspeed: 3", "speed"),
        ("defaults: [nobody]", "nobody"),
        ("defaults: [lsp]\nbeta: -1", "method.beta"),
    ],
)
def test_a_file_that_is_no_method(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=says):
        method_overrides(path)


def test_a_name_that_is_a_rule_already(tmp_path):
    path = tmp_path / "spice.yaml"
    path.write_text("defaults: [lsp]\n")
    with pytest.raises(SystemExit, match=r"spice is a rule of rules.yaml already; name the file"):
        main([str(path)])


def test_a_file_that_is_not_there():
    with pytest.raises(SystemExit, match="nowhere.yaml"):
        main(["nowhere.yaml"])


def test_the_control_is_one_of_the_rules():
    rules = rank.read_contrasts(rank.RULES)
    learners = [one for pairs in rules.families.values() for one, _ in pairs]
    assert {other for pairs in rules.families.values() for _, other in pairs} == {rank.CONTROL}
    assert rank.CONTROL not in learners and len(learners) == len(set(learners))
