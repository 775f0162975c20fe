"""Rewards that are a user's function: trusted by the command line alone, and held to numbers."""

import shutil
import statistics
import sys

import numpy
import pytest
import torch
import yaml

from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.rewards.callable import CallableScorer
from lsp.settings.compose import CONF, compose, compose_as
from lsp.settings.config import Config
from lsp.settings.rules import config_rules, from_tree
from lsp.settings.schema import to_tree
from lsp.tracking.reader import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")
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


PATH = "my_rewards.shortness"
CALLABLE = ["reward=callable", f"reward.path={PATH}"]


def test_a_function_on_the_command_line_is_the_reward_of_a_run(module, short, train_in_memory):
    _, rows = train_in_memory([*short, *CALLABLE])
    rows = [row for row in rows if row["answer"] is not None]
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
    for more in ([], *others):
        with pytest.raises(RunError) as raised:
            start([f"resume={folder}", *more])
        text = str(raised.value)
        assert "code outside lsp and eval is not run from a config file" in text
        assert "Write reward.path=my_rewards.shortness on the command line if you trust it" in text
        way_on = f"go on with: python run.py resume={folder} {' '.join(CALLABLE)}\n"
        assert f"if you trust the code that they name, {way_on}" in text
        assert f"lsp play and lsp crossplay say 'trust=[reward.path={PATH}]'; else" in text
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
    for overrides in (["reward=mine"], ["experiment=mine"], lent):
        with pytest.raises(ConfigError, match="reward.path=my_rewards.shortness: code outside"):
            compose_as(Config, root, overrides, config_rules)
    with pytest.raises(ConfigError, match="is not run from a config file"):
        from_tree({**to_tree(compose([])), "reward": yaml.safe_load(
            (root / "reward" / "mine.yaml").read_text())})  # fmt: skip
    assert not module.exists()
    assert compose_as(Config, root, ["reward=mine", CALLABLE[1]], config_rules).reward.path == PATH


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
        ("missing_file", r"failed at .*my_rewards.py:\d+: FileNotFoundError: .*; correct it"),
    ],
)
def test_a_function_that_returns_no_rewards(module, name, says):
    with pytest.raises(ValueError, match=f"the reward my_rewards.{name} .*{says}"):
        CallableScorer(f"my_rewards.{name}")(["a", "b"], ["c", "d"])


def test_a_reward_outside_the_range_ends_the_run_and_is_not_clipped(module, short, tmp_path):
    where = rf"the reward {PATH} gave [\d.e-]+ to the query '.*' and the answer '.*', outside its"
    with pytest.raises(
        RunError, match=rf"{where} range=\[0.9,1\]; correct what gives it, or start"
    ):
        start([*short, *CALLABLE, "reward.range=[0.9,1]"])
    low, high = CallableScorer(PATH, (0.25, 0.5)), CallableScorer(PATH, (0.5, 1.0))
    assert (low(["q"] * 2, ["a", "abc"]), high(["q"], [""])) == ([0.5, 0.25], [1.0])
    with pytest.raises(ValueError, match="gave 1 to the query 'q' and the answer '', outside"):
        low(["p", "q"], ["a", ""])
    with pytest.raises(ValueError, match="gave 0.25 to the query 'q' and the answer 'abc', out"):
        high(["p", "q"], ["a", "abc"])


def test_the_shaped_challenger_rewards_work_with_a_range_that_was_stated(
    module, short, train_in_memory
):
    """A query earns 1 - |2 p - 1| + w V_Q, where p is its mean R over the range, here [0, 2]."""
    band = ["method.challenger_reward=band", "method.challenger_weight=1"]
    with pytest.raises(ConfigError, match="needs a reward with a known range"):
        compose([*short, *CALLABLE, *band])
    _, rows = train_in_memory([*short, *CALLABLE, *band, "reward.range=[0,2]"])
    groups = {}
    for row in rows:
        if row["answer"] is not None:
            groups.setdefault(row["query_id"], []).append(row)
    for group in groups.values():
        share = statistics.fmean(row["reward"] for row in group) / 2
        quality = statistics.fmean(row["quality"] for row in group)
        expected = 1 - abs(2 * share - 1) + 0.3 * quality
        assert group[0]["challenger_reward"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[1,0]", r"range=\[1,0\] does not go from a lower to a higher number. Write range="),
        ("[1,1]", "does not go from a lower"),
        ("[0]", r"reward.range=\[0\]: must be a list of 2 numbers. Write reward.range=\[…\]"),
        ("[low,high]", "must be a list of 2 numbers"),
        ("1", "must be a list of 2 numbers"),
        ("[0,inf]", "must be finite"),
    ],
)
def test_a_range_that_is_none(module, value, says):
    with pytest.raises(ConfigError, match=f"1 problem .*\n.*{says}"):
        compose(["reward=callable", f"reward.path={PATH}", f"reward.range={value}"])


def test_a_function_may_return_an_array(module):
    scorer = CallableScorer("my_rewards.shortness")
    scorer.function = lambda queries, answers: numpy.array([1, 2], dtype="float32")
    assert scorer(["a", "b"], ["c", "d"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (torch.tensor([[1.0], [2.0]]), r"reward 0 is a Tensor of shape \(1,\), and must be one"),
        ([torch.tensor(1.0), torch.ones(2, 3)], r"reward 1 is a Tensor of shape \(2, 3\), and"),
        (
            torch.tensor(11.0),
            "2 rewards were asked for, and a Tensor came",
        ),
        (torch.tensor([1.0, float("nan")]), "reward 1 is nan, and must be a finite number"),
        (torch.tensor([True, False]), "reward 0 is True, and must be a finite number"),
        (numpy.array([1j, 2j]), "reward 0 is 1j, and must be a finite number"),
    ],
)
def test_a_function_may_return_a_tensor_of_one_number_a_pair(module, values, says):
    scorer = CallableScorer("my_rewards.shortness")
    scorer.function = lambda queries, answers: torch.tensor([1.5, 2.0], requires_grad=True)
    assert scorer(["a", "b"], ["c", "d"]) == [1.5, 2.0]
    scorer.function = lambda queries, answers: [
        torch.tensor(11, dtype=torch.bfloat16),
        numpy.int8(2),
    ]
    assert scorer(["a", "b"], ["c", "d"]) == [11.0, 2.0]
    scorer.function = lambda queries, answers: values
    with pytest.raises(ValueError, match=says):
        scorer(["a", "b"], ["c", "d"])
