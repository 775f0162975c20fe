"""Two evaluated runs, paired; the pocket benchmark and its control, offline."""

import json
import shutil

import pytest

from eval.__main__ import evaluate, main
from eval.compare import compare, read_evaluation
from eval.compare import main as compare_main
from eval.settings import read_settings
from eval.types import Pair
from eval.verifier import VerifierJudge
from lsp.errors import RunError


def pocket(*overrides):
    words = ["benchmark=pocket", "benchmark.per_cell=2", *overrides]
    return evaluate(read_settings(words))


@pytest.fixture(scope="module")
def evaluated(small_run, tmp_path_factory):
    """A runs_root with two evaluated runs ``one`` and ``two``, and their results."""
    root = tmp_path_factory.mktemp("evaluated")
    found = {}
    for name in ("one", "two"):
        shutil.copytree(small_run[0], root / name)
        found[name] = pocket(f"run={root / name}", f"runs_root={root}")
    return root, found


def test_the_verifier_by_hand():
    def preference(ours, theirs):
        return VerifierJudge().verdict(Pair(0, "sort", "sort ba", ours, theirs), True).preference

    assert preference("ab", "ba") == 2.0 and preference("ba", "ab") == 1.0
    assert preference("ab", "ab") == preference("x", "") == 1.5
    with pytest.raises(RunError, match="knows the pocket world's tasks only, and 'hello'"):
        VerifierJudge().verdict(Pair(0, "s", "hello", "a", "b"), True)


def test_the_pocket_benchmark_needs_no_key_and_no_server(evaluated, monkeypatch, capsys):
    root, found = evaluated
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    results = found["one"]
    assert results["judge"] == "verifier" and len(results["win_rate"]) == 9
    rows = [json.loads(line) for line in (root / "one/eval/pocket/pairs.jsonl").open()]
    assert len(rows) == results["win_rate"]["overall"]["n"]
    ties = results["win_rate"]["overall"]["discrete"]["ties"]
    assert ties == sum(row["preference"] == 1.5 for row in rows) >= results["n_identical"]
    assert "length_controlled" not in results and results["calls_ever"] == 0
    main(["benchmark=pocket", f"run={root / 'one'}", f"runs_root={root}", "dry_run=true"])
    assert "no calls, no cost" in capsys.readouterr().out


def test_the_control_is_the_base_against_a_second_sample(evaluated):
    root, _ = evaluated
    control = pocket(f"run={root / 'one'}", f"runs_root={root}", "control=true",
                     "benchmark.temperature=1.0")  # fmt: skip
    assert control["model"] == "pocket, a second sample" and control["baseline"] == "pocket"
    place = root / "one" / "eval" / "pocket" / "control" / "results.json"
    saved = json.loads(place.read_text())
    assert saved["win_rate"] == control["win_rate"]
    assert saved["order_effect"] == {"first_rate": None, "disagree_frac": None, "n": 0}
    assert 0 < control["n_identical"] < control["win_rate"]["overall"]["n"]  # two samples differ
    answers = sorted(path.name for path in (root / "answers").iterdir())
    pocket(f"run={root / 'two'}", f"runs_root={root}", "control=true", "benchmark.temperature=1.0")
    assert sorted(path.name for path in (root / "answers").iterdir()) == answers  # shared by runs
    (root / "some.json").write_text(json.dumps([]))
    with pytest.raises(RunError, match="a file of answers cannot; name"):
        pocket(f"run={root / 'one'}", f"baseline={root / 'some.json'}", "control=true")


def test_two_equal_runs_differ_by_nothing(evaluated, capsys):
    root, _ = evaluated
    compare_main(["one", "two", f"runs_root={root}", "benchmark=pocket"])
    out = capsys.readouterr().out
    assert "overall" in out and "+0.00" in out and "not corrected" in out


def test_differences_by_hand(evaluated, tmp_path):
    root, _ = evaluated
    one = read_evaluation(root / "one" / "eval" / "pocket")
    other = read_evaluation(root / "two" / "eval" / "pocket")
    for number, row in enumerate(one.rows):
        row["preference"] = 2.0 if number % 2 else None
        other.rows[number]["preference"] = 1.5
    found = compare(one, other)["overall"]
    assert (found.difference, found.low, found.high) == (50.0, 50.0, 50.0)
    assert found.n == len(one.rows) // 2 and found.n_missing == len(one.rows) - found.n
    assert found.p_value < 0.01
    other.results["judge"] = "another"
    with pytest.raises(RunError, match="judge is verifier and another"):
        compare(one, other)
    other.results.update(judge="verifier", baseline_answers="others")
    with pytest.raises(RunError, match="side by side: baseline_answers is .* and others"):
        compare(one, other)
    other.results["baseline_answers"] = one.results["baseline_answers"]
    other.rows.reverse()
    with pytest.raises(RunError, match="of different instructions"):
        compare(one, other)


def test_a_damaged_evaluation_is_one_message(evaluated, tmp_path):
    root, _ = evaluated
    shutil.copytree(root / "one" / "eval" / "pocket", tmp_path / "pocket")
    for text, says in (('{"benchmark": ', "cannot be read: "), ("{}", "model: Field required")):
        (tmp_path / "pocket" / "results.json").write_text(text)
        with pytest.raises(RunError, match=f"{says}.*evaluate again"):
            read_evaluation(tmp_path / "pocket")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"dataset": "copy", "preference": 1.5}', "instruction: Field required"),
        ('{"instruction": "copy a", "dataset": "copy", "preference": [1]}', "valid number"),
        (
            '{"instruction": "copy a", "dataset": "copy", "preference": 3}',
            "less than or equal to 2",
        ),
        ("", "holds no pair"),
    ],
)
def test_damaged_pairs_are_one_message(evaluated, tmp_path, line, says):
    root, _ = evaluated
    shutil.copytree(root / "one" / "eval" / "pocket", tmp_path / "pocket")
    (tmp_path / "pocket" / "pairs.jsonl").write_text(line + "\n" if line else "")
    with pytest.raises(RunError, match=f"pairs.jsonl.*{says}.*evaluate again"):
        read_evaluation(tmp_path / "pocket")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["one"], "name two runs, not 1"),
        (["one", "two", "judge=x"], "judge=x: no such setting. Known here: benchmark, runs_root"),
        (["gone", "one"], "there is no run 'gone'"),
        (
            ["one", "two"],
            "holds no evaluation; make one with `python -m eval run=.*one benchmark=alpaca",
        ),
    ],
)
def test_what_cannot_be_compared(evaluated, words, says):
    root, _ = evaluated
    with pytest.raises(SystemExit, match=says):
        compare_main([*words, f"runs_root={root}"])
