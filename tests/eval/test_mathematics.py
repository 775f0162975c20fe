"""``eval=gsm8k`` and ``eval=math`` on problems of this test's own."""

import json

import pytest

pytest.importorskip("math_verify")

from eval.__main__ import evaluate
from eval.settings import read_settings
from lsp.errors import ConfigError, RunError

GSM8K = [
    # problem, published solution, an answer, whether it is right
    ("Two and 3 apples?", "2 + 3 = <<2+3=5>>5\n#### 5", "There are \\boxed{5} apples.", True),
    ("Ten boxes of 102?", "#### 1,020", "So the total is $1,020.", True),
    ("What do 4 cost?", "#### 18", "They cost **\\$18** together.", True),
    ("Half of 9?", "#### 4.5", "It is \\boxed{\\frac{9}{2}}.", True),
    ("One and 1?", "#### 2", "One and 1 are 3.", False),
    ("Three?", "#### 3", "", False),
]
MATH = [
    ("Solve $x^2=4$, $x>0$.", "Algebra", "2", "The answer is $\\boxed{2}$.", True),
    ("Polar of $(0,3)$?", "Geometry", "(3, \\frac{\\pi}{2})", "\\boxed{(3, \\pi/2)}", True),
    ("Expand.", "Algebra", "x^2 + 2x", "\\boxed{x(x+1)}", False),
]


def run(tmp_path, name, problems, answers, *words):
    for kind, rows in (("problems", problems), ("answers", answers)):
        (tmp_path / f"{kind}.json").write_text(json.dumps(rows))
    sides = [f"run={tmp_path / 'answers.json'}", f"eval={name}", f"runs_root={tmp_path / 'runs'}"]
    data = f"eval.data={tmp_path / 'problems.json'}"
    results = evaluate(read_settings([*sides, data, "eval.asked='{task}'", *words]))
    (folder,) = (tmp_path / "runs" / "eval").glob(f"*/eval/{name}")
    return results, [json.loads(line) for line in (folder / "pairs.jsonl").open()]


def test_gsm8k_by_hand(tmp_path):
    problems = [{"question": q, "answer": solution} for q, solution, *_ in GSM8K]
    answers = [{"prompt": q, "response": answer} for q, _, answer, _ in GSM8K]
    results, rows = run(tmp_path, "gsm8k", problems, answers)
    assert [row["right"] for row in rows] == [[right] for *_, right in GSM8K]
    assert rows[-1]["read"] is None
    assert results["accuracy"] == pytest.approx(100 * 4 / 6)
    assert results["n_empty"] == 1


def test_math_by_hand_and_by_subject(tmp_path):
    problems = [{"problem": q, "subject": kind, "answer": a} for q, kind, a, *_ in MATH]
    answers = [{"prompt": q, "response": answer} for q, _, _, answer, _ in MATH]
    results, rows = run(tmp_path, "math", problems, answers)
    assert [row["right"] for row in rows] == [[right] for *_, right in MATH]
    assert {kind: found["right"] for kind, found in results["by_kind"].items()} == {
        "Algebra": 50.0,
        "Geometry": 100.0,
    }


def test_a_solution_does_as_a_published_answer(tmp_path):
    problems = [{"problem": "p", "type": "t", "solution": "As $3$ is odd, $x=\\boxed{\\frac12}$."}]
    answers = [{"prompt": "p", "response": "\\boxed{0.5}"}]
    words = ["eval.answer_column=solution", "eval.kind_column=type"]
    assert run(tmp_path, "math", problems, answers, *words)[0]["accuracy"] == 100


def test_what_is_asked_holds_the_problem(tmp_path):
    problems = [{"question": "p", "answer": "#### 1"}]
    answers = [{"prompt": "Say: p", "response": "1"}]
    results, rows = run(tmp_path, "gsm8k", problems, answers, "eval.asked='Say: {task}'")
    assert rows[0]["prompt"] == "Say: p" and results["accuracy"] == 100
    with pytest.raises(
        ConfigError, match=r"benchmark.asked holds \{task\} 0 times. Write \{task\}"
    ):
        read_settings(["run=x.json", "eval=gsm8k", "eval.asked=p"])


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        ([], "holds no tasks"),
        ([{"question": "p", "answer": "1"}] * 2, "some tasks stand twice"),
        ([{"question": "p", "answer": "#### "}], "row 1: no answer can be read from 'answer'"),
        ([{"question": "p"}], "row 1 has no column 'answer'"),
    ],
)
def test_problems_that_cannot_be_used_are_refused(tmp_path, problems, says):
    with pytest.raises(RunError, match=says):
        run(tmp_path, "gsm8k", problems, [{"prompt": "p", "response": "1"}])


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    with pytest.raises(RunError, match=r"pip install '\.\[math\]'"):
        run(tmp_path, "gsm8k", [{"question": "p", "answer": "1"}], [])
