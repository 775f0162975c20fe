"""A user's benchmark and a user's judge, each one file and one yaml: dry run, results, table."""

import importlib
import json
import shutil
import sys

import pytest

from eval.__main__ import main
from eval.settings import EVALUATE, read_settings
from lsp.errors import ConfigError

BENCHMARK = '''
from pydantic import Field

from eval.contracts import BenchmarkSettings, EvaluationContext
from eval.types import Instruction
from lsp.settings.schema import settings


@settings
class Letters(BenchmarkSettings):
    """One task a letter, in two sets."""

    letters: str = Field(description="what is to be copied")

    def build(self, context: EvaluationContext) -> list[Instruction]:
        sets = ("odd", "even")
        return [Instruction(i, sets[i % 2], f"copy {x}") for i, x in enumerate(self.letters)]

    def further_rates(self, pairs, preferences):
        won = 100 * sum(value == 2.0 for value in preferences) / len(pairs)
        none = {"variant": None, "win_rate": None, "reason": "too few letters"}
        return {"clear_wins": {"variant": "of all", "win_rate": {"overall": won}}, "colours": none}
'''
JUDGE = '''
from pydantic import Field

from eval.contracts import EvaluationContext, Judge, JudgeSettings
from eval.types import Verdict
from lsp.settings.schema import settings


@settings
class LikesLength(JudgeSettings):
    """Prefers the longer answer."""

    model = "likes-length"
    order = "both"
    variable: str = Field(description="that holds its key")

    @property
    def key_variable(self) -> str:
        return self.variable

    def build(self, context: EvaluationContext) -> "Ruler":
        return Ruler(context.api_key)


class Ruler(Judge):
    def __init__(self, key: str):
        self.key, self.usd = key, 0.25

    async def judge_all(self, questions, on_verdict):
        verdicts = []
        for pair, model_first in questions:
            longer = len(pair.model_output) > len(pair.base_output)
            preference = 2.0 if longer else 1.0
            verdict = Verdict(pair.index, pair.source, model_first, preference, self.key)
            on_verdict(verdict)
            verdicts.append(verdict)
        return verdicts
'''

CHECKED = '''
from typing import ClassVar

from eval.contracts import CheckedSettings, EvaluationContext
from eval.types import Task
from lsp.settings.schema import settings


@settings
class Echo(CheckedSettings):
    """Each letter is to be said again."""

    measured: ClassVar = {"echoed": ("same", "verdict")}

    def build(self, context: EvaluationContext) -> list[Task]:
        return [Task(i, "all", f"copy {x}", ("letter",), x) for i, x in enumerate("abc")]

    def check(self, tasks, answers):
        return [{"same": [task.key == text]} for task, text in zip(tasks, answers, strict=True)]

    def further_numbers(self, shares):
        return {"lost": 100 - shares["echoed"]}
'''


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """Overrides of two files of answers to three letters, with eval/letters.py, eval/ruler.py and
    their yamls in place."""
    conf = shutil.copytree(EVALUATE, tmp_path / "evaluate")
    monkeypatch.setattr("eval.settings.EVALUATE", conf)
    (conf / "benchmark" / "letters.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /judge: verifier\nbenchmark:\n"
        "  _target_: eval.letters.Letters\n  name: letters\n  temperature: 0.0\n"
        "  max_new_tokens: 4\n  letters: abc\n"
    )
    (conf / "judge" / "ruler.yaml").write_text(
        "_target_: eval.ruler.LikesLength\nvariable: RULER\n"
    )
    (conf / "benchmark" / "echo.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /judge: verifier\nbenchmark:\n"
        "  _target_: eval.echo.Echo\n  name: echo\n  data: null\n  temperature: 0.0\n"
        "  max_new_tokens: 4\n"
    )
    room = tmp_path / "room"
    room.mkdir()
    for name, source in (("letters", BENCHMARK), ("ruler", JUDGE), ("echo", CHECKED)):
        (room / f"{name}.py").write_text(source)
    package = importlib.import_module("eval")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(room)])
    monkeypatch.syspath_prepend(str(room))
    for name, answers in (("ours", ["a", "b", "long"]), ("theirs", ["x", "b", "y"])):
        rows = [
            {"instruction": f"copy {letter}", "output": answer}
            for letter, answer in zip("abc", answers, strict=True)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    yield [
        f"run={tmp_path / 'ours.json'}",
        f"baseline={tmp_path / 'theirs.json'}",
        f"runs_root={tmp_path / 'runs'}",
    ]
    for name in ("letters", "ruler", "eval.letters", "eval.ruler", "eval.echo"):
        sys.modules.pop(name, None)


def results_of(tmp_path, name="letters"):
    (place,) = (tmp_path / "runs" / "eval").glob(f"*/eval/{name}/results.json")
    return json.loads(place.read_text())


def test_a_benchmark_of_a_users_is_planned_judged_and_shown(sides, tmp_path, capsys):
    main(["benchmark=letters", *sides, "dry_run=true"])
    out = capsys.readouterr().out
    assert "3 instructions\n  no calls, no cost\n" in out and "/eval/letters" in out
    main(["benchmark=letters", *sides])
    out = capsys.readouterr().out
    results = results_of(tmp_path)
    # Won, the same answer, two wrong ones: a win and two ties.
    assert results["win_rate"]["overall"]["win_rate"] == pytest.approx(100 * (1 + 0.5 + 0.5) / 3)
    assert (results["win_rate"]["odd"]["n"], results["win_rate"]["even"]["n"]) == (2, 1)
    assert (results["benchmark"], results["judge"], results["n_identical"]) == (
        "letters", "verifier", 1,
    )  # fmt: skip
    assert results["clear_wins"]["win_rate"] == {"overall": pytest.approx(100 / 3)}
    assert results["further_rates"] == ["clear_wins", "colours"]
    assert "clear-wins: 33.33 (of all)\ncolours: none (too few letters)" in out


def test_a_benchmark_of_a_users_that_checks_answers_needs_no_judge(sides, tmp_path, capsys):
    main(["benchmark=echo", *sides])
    results = results_of(tmp_path, "echo")
    # Ours: a, b and a long one; theirs: b alone.
    assert results["echoed"] == pytest.approx(200 / 3)
    assert results["base_echoed"] == pytest.approx(100 / 3)
    assert (results["lost"], results["base_lost"]) == (
        pytest.approx(100 / 3),
        pytest.approx(200 / 3),
    )
    assert results["difference"]["echoed"]["difference"] == pytest.approx(100 / 3)
    assert "echoed  66.67" in capsys.readouterr().out


def test_code_outside_the_project_is_named_on_the_command_line(sides, tmp_path):
    words = ["benchmark=letters", *sides]
    config = read_settings([*words, "benchmark._target_=letters.Letters"]).benchmark
    assert (type(config).__module__, config.letters) == ("letters", "abc")
    yaml = tmp_path / "evaluate" / "benchmark" / "letters.yaml"
    yaml.write_text(yaml.read_text().replace("eval.letters", "letters"))
    with pytest.raises(
        ConfigError, match="code outside lsp and eval is not run from a config file"
    ):
        read_settings(words)


def test_a_judge_of_a_users_gets_its_key_and_both_orders(sides, tmp_path, monkeypatch):
    words = ["benchmark=letters", "judge=ruler", *sides]
    monkeypatch.delenv("RULER", raising=False)
    with pytest.raises(SystemExit, match=r"not in the environment \(RULER\). Set RULER"):
        main(words)
    monkeypatch.setenv("RULER", "cm")
    main(words)
    results = results_of(tmp_path)
    # "a" is no longer than "x", "b" is "b", "long" is longer than "y".
    assert results["win_rate"]["overall"]["win_rate"] == pytest.approx(100 * (0 + 0.5 + 1) / 3)
    assert (results["judge"], results["order"], results["usd_now"]) == (
        "likes-length",
        "both",
        0.25,
    )
    (place,) = (tmp_path / "runs" / "eval").glob("*/eval/letters/verdicts.jsonl")
    verdicts = [json.loads(line) for line in place.open()]
    assert [(v["index"], v["text"]) for v in verdicts] == [(0, "cm")] * 2 + [(2, "cm")] * 2
    assert sorted(v["model_first"] for v in verdicts) == [False, False, True, True]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "max_new_tokens: 4",
            "max_new_tokens: 0",
            "benchmark.max_new_tokens=0: must be at least 1",
        ),
        ("  temperature: 0.0\n", "", "benchmark.temperature: is missing. Give benchmark.temp"),
        (
            "eval.letters.Letters",
            "eval.verifier.VerifierJudge",
            "does not inherit eval.contracts.MeasurementSettings. Mend the class; eval/contracts",
        ),
        ("eval.letters.Letters", "eval.contracts.BenchmarkSettings", "lacks build"),
    ],
)
def test_a_benchmark_that_cannot_work_is_refused_when_settings_are_read(
    sides, tmp_path, old, new, says
):
    yaml = tmp_path / "evaluate" / "benchmark" / "letters.yaml"
    yaml.write_text(yaml.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=says):
        read_settings(["benchmark=letters", *sides])
