"""Sums of several rewards: range, parts and logs by hand, one message a mistake."""

import json
import re
import statistics
import sys

import pytest

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.pocket.verifier import PocketVerifier
from lsp.rewards.callable import CallableReward
from lsp.rewards.weighted import Part, WeightedReward, WeightedSum
from lsp.settings.compose import compose
from lsp.settings.schema import setting, settings
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.usefixtures("without_pictures")
VERIFIER = PocketVerifier(credit="exact")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module with a reward, importable."""
    text = "def shortness(queries, answers): return [1 / (1 + len(a)) for a in answers]"
    (tmp_path / "my_rewards.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_rewards", None)


@pytest.fixture
def short(small, tmp_path):
    """Overrides of a run of two steps that evaluates nothing."""
    return [*small[1:3], "num_steps=2", "eval=none", "objective=null", "tracker=none",
            "checkpoint.every=1", f"run_dir={tmp_path / 'run'}"]  # fmt: skip


@settings
class Between(RewardSettings):
    range = (-1.0, 3.0)

    def build(self, context):
        raise AssertionError


@settings
class Stated(Between):
    """Its range is a setting that has no default."""

    range: tuple[float, float] | None = setting("of its rewards")


@settings
class Unbounded(Between):
    range = None


def test_the_range_of_a_sum_by_hand():
    def summed(**parts):
        made = {name: Part(weight=w, reward=reward) for name, (w, reward) in parts.items()}
        return WeightedReward(parts=made)

    assert summed(a=(2.0, VERIFIER)).range == (0.0, 2.0)
    # 0.5 · [0, 1] − 2 · [−1, 3] = [−6, 2.5]
    both = summed(a=(0.5, VERIFIER), b=(-2.0, Between()))
    assert both.range == (-6.0, 2.5)
    assert summed(a=(1.0, both), b=(1.0, VERIFIER)).range == (-6.0, 3.5)
    assert summed(a=(1.0, VERIFIER), b=(1.0, Unbounded())).range is None
    assert summed(a=(1.0, VERIFIER), b=(0.0, Unbounded())).range == (0.0, 1.0)
    stated = CallableReward(path="math.dist", range=(-1.0, 3.0))
    assert summed(a=(0.5, VERIFIER), b=(-2.0, stated)).range == both.range


def test_a_range_may_be_an_attribute_of_the_class_or_a_setting():
    assert Between().range == (-1.0, 3.0) and Unbounded().range is None
    assert Stated(range=(2.0, 5.0)).range == (2.0, 5.0) and Stated(range=None).range is None

    @settings
    class Alone(RewardSettings):
        range: tuple[float, float] | None = setting("of its rewards")

        def build(self, context):
            raise AssertionError

    assert Alone(range=(2.0, 5.0)).range == (2.0, 5.0)


def test_a_part_that_leaves_the_range_that_it_stated_is_refused(module):
    """Also where the sum stays inside its own."""
    config = compose([*MIXED, "reward.parts.short.reward.range=[0,0.5]"])
    assert config.reward.range == (-0.125, 0.5)
    score = config.reward.build(BuildContext(config))
    assert score(["copy a"], ["a"]) == [0.5 - 0.25 * 0.5]
    with pytest.raises(
        ValueError, match="shortness gave 1 to the query 'copy a' and the answer ''"
    ):
        score(["copy a"], [""])


def test_a_sum_and_its_parts_by_hand():
    class Cutting(Reward):
        def __call__(self, queries, answers):
            return [2, 4, 9]

        def details(self):
            return {"truncated": [0, 0, 1]}

    summed = WeightedSum({"right": 0.5, "judged": -2.0}, {"right": VERIFIER, "judged": Cutting()})
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
    verify = PocketVerifier(credit="partial")
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
         "reward.parts.verifier.reward._target_", "is no class of settings"),
        (["+reward@reward.parts.web.reward=http", "+reward.parts.web.weight=1",
          "reward.parts.web.reward.url=ftp://x"], "reward", "part web: url is no address"),
        (["+reward@reward.parts.web.reward=http", "+reward.parts.web.weight=1",
          "reward.parts.web.reward.url=http://x", "reward.parts.web.reward.range=[2,1]"], "reward",
         r"part web: range=\[2,1\] does not go from a lower to a higher number"),
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


def test_the_shaped_challenger_rewards_work_over_a_sum(short, train_in_memory):
    """A query earns 1 - |2 p - 1| + w V_Q, where p is its mean R over the sum's range, [0, 3]."""
    lines, rows = train_in_memory([*short, "reward=weighted", "reward.parts.verifier.weight=3",
                                   "method.challenger_reward=band",
                                   "method.challenger_weight=1"])  # fmt: skip
    assert lines[-1]["reward/external/part/verifier/mean"] <= 1
    groups = {}
    for row in rows:
        if row["answer"] is not None:
            groups.setdefault(row["query_id"], []).append(row)
    for group in groups.values():
        share = statistics.fmean(row["reward"] for row in group) / 3
        quality = statistics.fmean(row["quality"] for row in group)
        expected = 1 - abs(2 * share - 1) + 0.3 * quality
        assert group[0]["challenger_reward"] == pytest.approx(expected, abs=1e-5)
