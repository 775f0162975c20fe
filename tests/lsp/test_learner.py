"""Updates: gradients by role, and steps without a finite gradient."""

import copy
from dataclasses import replace

import pytest
import torch

from lsp.learner import Learner
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
    optim = replace(players.config.optim, role_gradients_every=2)
    config = replace(players.config, optim=optim)
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
        replace(learner.config, optim=replace(learner.config.optim, role_gradients_every=0)),
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


@pytest.mark.parametrize(("smallest", "times"), [(1, 2), (10**9, 0)])
def test_a_large_model_gives_memory_back_around_its_update(
    players, rows, monkeypatch, smallest, times
):
    given = []
    monkeypatch.setattr("lsp.learner.LARGE_MODEL", smallest)
    monkeypatch.setattr("lsp.learner.give_back_freed_memory", lambda: given.append(1))
    own = replace(players, policy=copy.deepcopy(players.policy))
    Learner(own, own.config).update(rows, step=1)
    assert len(given) == times


def test_an_update_without_rows_changes_nothing(learner):
    before = copy.deepcopy(learner.players.policy.state_dict())
    stats = learner.update([], 1)
    assert (stats.loss, stats.grad_norm, stats.skipped) == (0.0, 0.0, False)
    after = learner.players.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
