"""What the first process records and when it ends a run: the best step, alarms, failures."""

import json

import pytest

from lsp.errors import Interrupted, RunError
from lsp.loop.launch import start
from lsp.run.checkpoint import checkpoint_folders
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, trace_steps

pytestmark = pytest.mark.usefixtures("without_pictures")
SHORT = ["num_queries=4", "group_size=3", "eval=none", "tracker=none"]


def test_the_best_checkpoint_by_objective_is_kept_wherever_it_falls(tmp_path):
    """The objective is any metric, and its goal may be the lowest value; ``checkpoint.keep=1``
    keeps the last one and the best."""
    key, folder = "rollout/answer_length/mean", tmp_path / "run"
    summary = start([*SHORT, "num_steps=6", "checkpoint.every=5", "checkpoint.keep=1",
                     "optim.lr=0.05", f"objective={key}", "objective_goal=min",
                     f"run_dir={folder}"])  # fmt: skip
    values = {line["step"]: line[key] for line in read_metrics(folder) if key in line}
    assert summary[f"best/{key}"] == min(values.values()) == values[summary["best/step"]]
    kept = {int(path.name[5:]) for path in checkpoint_folders(folder)}
    assert kept == {summary["best/step"], 6}


def test_an_objective_that_the_reward_does_not_tell_ends_the_run_at_its_first_step(tmp_path):
    """What a reward tells beside R is not known before it is asked."""
    folder, key = tmp_path / "run", "reward/external/retries/mean"
    with pytest.raises(
        RunError, match=f"objective={key} is no metric.*near it are reward/external/"
    ):
        start([*SHORT, "num_steps=2", f"run_dir={folder}", f"objective={key}"])
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_alarms_fire_on_lsp_zero_and_are_silent_on_lsp(tmp_path):
    """Real runs of the pocket world; LSP-Zero's Challenger leaves the language within 45 steps.
    ``on_collapse=stop`` ends the run with everything saved."""
    shape = ["num_steps=45", "eval=none", "tracker=none"]
    start([*shape, "method=lsp", f"run_dir={tmp_path / 'lsp'}"])
    assert not (tmp_path / "lsp" / "alerts.jsonl").exists()
    with pytest.raises(Interrupted, match=r"stopped after step \d+ \(on_collapse=stop: "):
        start([*shape, "method=lsp_zero", f"run_dir={tmp_path / 'zero'}", "on_collapse=stop"])
    (alert,) = map(json.loads, (tmp_path / "zero" / "alerts.jsonl").read_text().splitlines())
    assert "the Challenger's external reward rose" in alert["text"]
    assert trace_steps(tmp_path / "zero")[-1] == alert["step"] < 45


REWARD = '''
import math
from pydantic import Field
from lsp.contracts import Reward, RewardSettings
from lsp.settings.schema import settings

@settings
class FailingReward(RewardSettings):
    """Right until its third call, then not a number."""
    credit: str = Field(description="as the other reward's")
    range = (0.0, 1.0)

    def build(self, context):
        return Failing()

class Failing(Reward):
    calls = 0

    def __call__(self, queries, answers):
        self.calls += 1
        if self.calls > 2:
            return [math.nan] * len(queries)
        return [float(len(answer) > 2) for answer in answers]
'''


def test_too_many_skipped_steps_end_the_run_and_keep_the_checkpoint(tmp_path, monkeypatch):
    """A reward from the user's own module, trusted because the command line names it."""
    (tmp_path / "failing_reward.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    mine = "reward._target_=failing_reward.FailingReward"
    with pytest.raises(RunError, match="3 steps in a row had no finite loss.*init=checkpoint"):
        start([*SHORT, mine, f"run_dir={folder}", "optim.max_skipped_steps=3", "num_steps=9",
               "checkpoint.every=2"])  # fmt: skip
    assert [line["optim/skipped"] for line in read_metrics(folder)] == [0, 0, 1, 1, 1]
    assert trace_steps(folder) == [1, 2, 3, 4, 5]
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert (folder / "checkpoints" / "step-000004" / "checkpoint.json").is_file()
    # Going on with it runs the user's code again, so the command line has to name it again.
    with pytest.raises(RunError, match="(?s)is not run from a config file.*on the command line"):
        start([f"resume={folder}"])
    overrides = [f"resume={folder}", mine]
    assert find_resumed(compose(overrides), overrides).spec.step == 4
