"""Updates: gradients by role, and steps without a finite gradient."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from lsp.errors import RunError
from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, trace_steps
from lsp.types import TrainingRow


@pytest.fixture
def rows(players):
    """A row of each role, of real tokens."""
    ids = players.chat.encode([[("user", "sort cab")], players.prompts.challenger_messages()])
    answer, query = players.chat.encode_text(["abc", "copy ab"])
    return [
        TrainingRow("solver", tuple(ids[0]), (*answer, 1), (0.0,) * 4, 0.5, 0.1, 1),
        TrainingRow("challenger", tuple(ids[1]), (*query, 1), (0.0,) * 8, -0.25, 0.05, 1),
    ]


@pytest.fixture
def learner(players):
    """A learner on a copy of the policy, with a measurement every second step."""
    tracker = replace(players.config.tracker, role_gradients_every=2)
    config = replace(players.config, tracker=tracker)
    own = replace(players, policy=copy.deepcopy(players.policy), config=config)
    return Learner(own, config)


def flat_gradient(learner, rows):
    from lsp.batch import pad
    from lsp.learner import UpdateStats

    batch = pad(rows)
    learner._backward(batch, learner._reference(batch), UpdateStats())
    gradient = torch.cat([p.grad.flatten() for p in learner.players.policy.parameters()])
    learner.optimizer.zero_grad(set_to_none=True)
    return gradient


def test_role_gradients_are_those_of_each_role_alone(learner, rows):
    solver, challenger = flat_gradient(learner, rows[:1]), flat_gradient(learner, rows[1:])
    metrics = learner.update(rows, 2).metrics()
    assert metrics["optim/grad_norm/solver"] == pytest.approx(solver.norm().item(), rel=1e-4)
    assert metrics["optim/grad_norm/challenger"] == pytest.approx(
        challenger.norm().item(), rel=1e-4
    )
    cosine = torch.nn.functional.cosine_similarity(solver, challenger, dim=0).item()
    assert metrics["optim/role_gradient_cosine"] == pytest.approx(cosine, abs=1e-4)
    assert metrics["optim/grad_norm"] == pytest.approx(
        (solver + challenger).norm().item(), rel=1e-4
    )


def test_one_role_alone_has_a_norm_and_no_cosine(learner, rows):
    metrics = learner.update(rows[:1], 2).metrics()
    assert "optim/grad_norm/solver" in metrics
    assert (
        "optim/grad_norm/challenger" not in metrics and "optim/role_gradient_cosine" not in metrics
    )
    assert "optim/grad_norm/solver" not in learner.update(rows, 3).metrics()


def test_measuring_changes_no_bit_of_the_update(learner, rows, players):
    plain = Learner(
        replace(learner.players, policy=copy.deepcopy(learner.players.policy)),
        replace(learner.config, tracker=replace(learner.config.tracker, role_gradients_every=0)),
    )
    learner.update(rows, 2)
    plain.update(rows, 2)
    for one, two in zip(
        learner.players.policy.parameters(), plain.players.policy.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_warm_up_is_linear(learner, rows):
    for step, share in ((1, 0.2), (3, 0.6), (5, 1.0), (50, 1.0)):
        learner.update(rows, step)
        lr = learner.optimizer.param_groups[0]["lr"]
        assert lr == pytest.approx(learner.config.optim.lr * share)


def test_a_step_that_is_not_finite_is_skipped_and_counted(learner, rows):
    before = copy.deepcopy(learner.players.policy.state_dict())
    stats = learner.update([replace(rows[0], policy_weight=float("nan"))], 1)
    assert stats.skipped and stats.metrics()["optim/skipped"] == 1.0
    after = learner.players.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not learner.update(rows, 2).skipped


def test_an_update_without_rows_changes_nothing(learner):
    before = copy.deepcopy(learner.players.policy.state_dict())
    stats = learner.update([], 1)
    assert (stats.loss, stats.grad_norm, stats.skipped) == (0.0, 0.0, False)
    after = learner.players.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


REWARD = '''
import math
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class FailingReward:
    """Right until its third call, then not a number."""
    credit: str
    range: ClassVar = (0.0, 1.0)
    def build(self, device):
        calls = []
        def score(queries, answers):
            calls.append(1)
            if len(calls) > 2:
                return [math.nan] * len(queries)
            return [float(len(a) > 2) for a in answers]
        return score
'''


def test_too_many_skipped_steps_end_the_run_and_keep_the_checkpoint(tmp_path, monkeypatch, small):
    """A reward from the user's own module, trusted because the command line names it."""
    (tmp_path / "failing_reward.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="3 steps in a row had no finite loss.*init=checkpoint"):
        start(
            [
                *small,
                "reward._target_=failing_reward.FailingReward",
                f"run_dir={folder}",
                "tracker=none",
                "optim.max_skipped_steps=3",
                "num_steps=9",
                "eval.every=0",
            ]
        )
    lines = read_metrics(folder)
    assert [line["optim/skipped"] for line in lines[1:]] == [0, 0, 1, 1, 1]
    assert trace_steps(folder) == [1, 2, 3, 4, 5]
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert (folder / "checkpoints" / "step-000004" / "checkpoint.json").is_file()
    # Going on with it runs the user's code again, so the command line has to name it again.
    with pytest.raises(RunError, match="(?s)is not run from a config file.*on the command line"):
        start([f"resume={folder}"])
    overrides = [f"resume={folder}", "reward._target_=failing_reward.FailingReward"]
    assert find_resumed(compose(overrides), overrides).step == 4
