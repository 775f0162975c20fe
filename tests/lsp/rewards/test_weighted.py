"""Rewards that are a user's function, and sums of several rewards."""

import json
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy
import pytest
import torch
import yaml

from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.pocket.verifier import PocketVerifier
from lsp.rewards.callable import CallableScorer
from lsp.rewards.weighted import Part, WeightedReward, WeightedSum
from lsp.settings.compose import CONF, compose, compose_as
from lsp.settings.config import Config
from lsp.settings.rules import from_tree
from lsp.settings.schema import to_tree
from lsp.tracking.reader import read_metrics, read_trace

CPU = torch.device("cpu")
MODULE = """
import math, pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()
def shortness(queries, answers):
    return [1 / (1 + len(answer)) for answer in answers]
def one_short(queries, answers): return [0.0] * (len(answers) - 1)
def not_a_number(queries, answers): return [math.nan] * len(answers)
def too_large(queries, answers): return [10**400] * len(answers)
def words(queries, answers): return ["1"] * len(answers)
def nothing(queries, answers): pass
def broken(queries, answers): return [len(answers) / 0]
def missing_file(queries, answers): return open("/no/such/file")
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The user's module, importable; a file beside it says whether it was imported."""
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_rewards.ran"
    sys.modules.pop("my_rewards", None)


@pytest.fixture
def short(small, tmp_path):
    """Overrides of a run of two steps that evaluates nothing."""
    return [*small[1:3], "num_steps=2", "eval=none", "objective=null", "tracker=none",
            "checkpoint.every=1", f"run_dir={tmp_path / 'run'}"]  # fmt: skip


CALLABLE = ["reward=callable", "reward.path=my_rewards.shortness"]


def test_a_function_on_the_command_line_is_the_reward_of_a_run(module, short, tmp_path):
    start([*short, *CALLABLE])
    rows = [row for row in read_trace(tmp_path / "run") if row["answer"] is not None]
    assert rows and {row["step"] for row in rows} == {1, 2}
    for row in rows:
        assert row["reward"] == pytest.approx(1 / (1 + len(row["answer"])))


def test_a_resumed_run_needs_the_function_on_its_command_line_again(module, short, tmp_path):
    folder = tmp_path / "run"
    start([*short, *CALLABLE])
    module.unlink()
    del sys.modules["my_rewards"]
    # Alone, under another key or with another function, the saved path stays a word.
    others = (["reward=callable", "reward.path=math.dist"], ["run_name=my_rewards.shortness"])
    for given in ([], *others):
        with pytest.raises(RunError) as raised:
            start([f"resume={folder}", *given])
        text = str(raised.value)
        assert "code outside lsp and eval is not run from a config file" in text
        assert "Write reward.path=my_rewards.shortness on the command line if you trust it" in text
        assert "repeat what its command line said of it (python run.py num_queries" in text
        assert "reward=callable reward.path=my_rewards.shortness" in text
        assert not module.exists()
    start([f"resume={folder}", *CALLABLE, "num_steps=3"])
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3]


def test_a_file_cannot_name_a_function(module, tmp_path):
    """Neither a choice of reward nor an experiment, nor what another setting lends it."""
    root = tmp_path / "conf"
    shutil.copytree(CONF, root)
    (root / "reward" / "mine.yaml").write_text(
        "_target_: lsp.rewards.callable.CallableReward\npath: my_rewards.shortness\n"
    )
    (root / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /reward: callable\n"
        "reward:\n  path: my_rewards.shortness\n"
    )
    lent = ["reward=callable", "run_name=my_rewards.shortness", "reward.path=${run_name}"]
    for given in (["reward=mine"], ["experiment=mine"], lent):
        with pytest.raises(ConfigError, match="reward.path=my_rewards.shortness: code outside"):
            compose_as(Config, root, given)
    with pytest.raises(ConfigError, match="is not run from a config file"):
        from_tree({**to_tree(compose([])), "reward": yaml.safe_load(
            (root / "reward" / "mine.yaml").read_text())})  # fmt: skip
    assert not module.exists()
    assert compose_as(Config, root, ["reward=mine", CALLABLE[1]]).reward.path == CALLABLE[1][12:]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("my_rewards.gone", "cannot be imported (module 'my_rewards' has no attribute 'gone')"),
        ("no_such_module.f", "cannot be imported (No module named 'no_such_module')"),
        ("len", "cannot be imported (Empty module name)"),
        ("my_rewards.number", "cannot be called. Name a function"),
        ("3", "must be text"),
        ("null", "must be text"),
    ],
)
def test_a_path_that_names_no_function(module, path, says):
    with pytest.raises(ConfigError) as raised:
        compose(["reward=callable", f"reward.path={path}"])
    (problem,) = raised.value.problems
    assert problem.key == "reward.path" and says in str(problem)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one_short", "returned something else than .* 2 rewards were asked for, and 1 came"),
        ("not_a_number", "reward 0 is nan, and must be a finite number; correct it"),
        ("too_large", "reward 0 is 1000.*, and must be a finite number"),
        ("words", "reward 0 is '1', and must be"),
        ("nothing", "2 rewards were asked for, and a NoneType came"),
        ("broken", r"failed at .*my_rewards.py:\d+: ZeroDivisionError: .*; correct it"),
        ("missing_file", r"failed at .*my_rewards.py:\d+: FileNotFoundError: .*go on with resume"),
    ],
)
def test_a_function_that_returns_no_rewards(module, name, says):
    with pytest.raises(ValueError, match=f"the reward my_rewards.{name} .*{says}"):
        CallableScorer(f"my_rewards.{name}")(["a", "b"], ["c", "d"])


def test_a_function_may_return_an_array(module):
    scorer = CallableScorer("my_rewards.shortness")
    scorer.function = lambda queries, answers: numpy.array([1, 2], dtype="float32")
    assert scorer(["a", "b"], ["c", "d"]) == [1.0, 2.0]


@dataclass(frozen=True)
class Between:
    range: ClassVar = (-1.0, 3.0)


@dataclass(frozen=True)
class Unbounded:
    range: ClassVar = None


def test_the_range_of_a_sum_by_hand():
    verifier = PocketVerifier("exact")
    assert WeightedReward({"a": Part(2.0, verifier)}).range == (0.0, 2.0)
    # 0.5 · [0, 1] − 2 · [−1, 3] = [−6, 2.5]
    both = WeightedReward({"a": Part(0.5, verifier), "b": Part(-2.0, Between())})
    assert both.range == (-6.0, 2.5)
    assert WeightedReward({"a": Part(1.0, both), "b": Part(1.0, verifier)}).range == (-6.0, 3.5)
    assert WeightedReward({"a": Part(1.0, verifier), "b": Part(1.0, Unbounded())}).range is None
    assert WeightedReward({"a": Part(1.0, object())}).range is None


def test_a_sum_and_its_parts_by_hand():
    class Cutting:
        def __call__(self, queries, answers):
            return [2, 4, 9]

        def details(self):
            return {"truncated": [0, 0, 1]}

    verifier = PocketVerifier("exact").build(CPU)
    summed = WeightedSum({"right": 0.5, "judged": -2.0}, {"right": verifier, "judged": Cutting()})
    assert summed(["copy a", "copy a", "upper ab"], ["a", "b", "AB"]) == [-3.5, -8.0, -17.5]
    assert summed.details() == {
        "part/right": [1, 0, 1],
        "part/judged": [2, 4, 9],
        "part/judged/truncated": [0, 0, 1],
    }


MIXED = [
    "reward=weighted",
    "reward.parts.verifier.weight=0.5",
    "+reward@reward.parts.short.reward=callable",
    "+reward.parts.short.weight=-0.25",
    "reward.parts.short.reward.path=my_rewards.shortness",
]


def test_a_run_on_a_sum_logs_each_part(module, short, tmp_path):
    folder = tmp_path / "run"
    start([*short, *MIXED])
    verify = PocketVerifier("partial").build(CPU)
    lines, rows = read_metrics(folder), read_trace(folder)
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        played = [r for r in rows if r["step"] == line["step"] and r["answer"] is not None]
        right = verify([r["query"] for r in played], [r["answer"] for r in played])
        brief = [1 / (1 + len(r["answer"])) for r in played]
        for row, a, b in zip(played, right, brief, strict=True):
            assert row["reward"] == pytest.approx(0.5 * a - 0.25 * b)
            parts = json.loads(row["reward_details"])
            assert parts == pytest.approx({"part/verifier": a, "part/short": b})
        for name, values in (("verifier", right), ("short", brief)):
            place = f"reward/external/part/{name}"
            assert line[f"{place}/mean"] == pytest.approx(statistics.fmean(values))
            assert line[f"{place}/std"] == pytest.approx(statistics.stdev(values), abs=1e-6)
        whole = 0.5 * statistics.fmean(right) - 0.25 * statistics.fmean(brief)
        assert line["reward/external/mean"] == pytest.approx(whole)
    with pytest.raises(RunError, match="parts.short.reward.path=my_rewards.shortness: code"):
        start([f"resume={folder}"])
    with pytest.raises(RunError, match=r"parts.short.weight: the run has -0.25, the .* says -0.5"):
        start([f"resume={folder}", *(text.replace("-0.25", "-0.5") for text in MIXED)])
    start([f"resume={folder}", *MIXED, "num_steps=3"])
    assert read_metrics(folder)[-1]["step"] == 3


def test_parts_as_one_value_of_the_command_line(module):
    part = "{weight: 2, reward: {_target_: lsp.rewards.callable.CallableReward, path: my_rewards."
    config = compose(["reward=weighted", f"+reward.parts.mine={part}shortness}}}}"])
    assert config.reward.parts["mine"].reward.path == "my_rewards.shortness"


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["reward.parts.verifier.weight=0"], "reward", "no part has a weight.*Give a weight other"),
        (["reward.parts.verifier.weight=inf"], "reward.parts.verifier.weight", "must be finite"),
        (["reward.parts.verifier.weigth=1"], "reward.parts.verifier.weigth", "Did you mean"),
        (["reward.parts.verifier.reward.credit=half"], "reward.parts.verifier.reward.credit",
         "Choose one of partial, exact"),
        (["+reward.parts.new.weight=1"], "reward.parts.new.reward", "is missing"),
        (["+reward.parts.new={weight: 1, reward: 5}"], "reward.parts.new.reward",
         r"is no component. Choose a file of conf/reward: \+reward@reward.parts.new.reward=<name>"),
        (["+reward@reward.parts.new.reward=pocket"], "reward.parts.new.weight", "is missing"),
        (["+reward@reward.parts.new.reward=poket", "+reward.parts.new.weight=1"], "reward",
         "Did you mean reward=pocket"),
        (["+reward.parts.new=5"], "reward.parts.new", "is one value"),
        (["+reward.parts.3={weight: 1, reward: ${reward.parts.verifier.reward}}"],
         "reward.parts.3", "3 cannot be a name here. Take letters"),
        (["reward.parts=null"], "reward.parts", "is no group. Give each a name"),
        (["reward.parts.verifier.reward._target_=os.system"],
         "reward.parts.verifier.reward._target_", "is no dataclass with build"),
        (["+reward@reward.parts.web.reward=http", "+reward.parts.web.weight=1",
          "reward.parts.web.reward.url=ftp://x"], "reward", "part web: url=ftp://x is no address"),
        (["+reward@reward.parts.web.reward=http", "+reward.parts.web.weight=1",
          "reward.parts.web.reward.url=http://x", "method.challenger_reward=band"],
         "method.challenger_reward", "needs a reward with a known range"),
    ],
)  # fmt: skip
def test_one_mistake_in_the_parts_one_message(overrides, key, says):
    with pytest.raises(ConfigError) as raised:
        compose(["reward=weighted", *overrides])
    found = {problem.key: str(problem) for problem in raised.value.problems}
    assert key in found and re.search(says, found[key], re.DOTALL), found
    assert len(found) == 1 or "poket" in str(overrides)


def test_all_mistakes_in_the_parts_come_together():
    with pytest.raises(ConfigError) as raised:
        compose(
            [
                "reward=weighted",
                "reward.parts.verifier.weight=x",
                "reward.parts.verifier.reward.credit=half",
                "+reward@reward.parts.mine.reward=callable",
                "seed=-1",
            ]
        )
    assert {problem.key for problem in raised.value.problems} == {
        "reward.parts.verifier.weight",
        "reward.parts.verifier.reward.credit",
        "reward.parts.mine.weight",
        "reward.parts.mine.reward.path",
        "seed",
    }


def test_the_shaped_challenger_rewards_work_over_a_sum(short, tmp_path):
    start([*short, "reward=weighted", "reward.parts.verifier.weight=3",
           "method.challenger_reward=band"])  # fmt: skip
    assert read_metrics(tmp_path / "run")[-1]["reward/external/part/verifier/mean"] <= 1
