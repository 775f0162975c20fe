"""Evaluations on the way and at the end: which models are measured, and under which keys."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from lsp.contracts import Evaluator, EvaluatorSettings
from lsp.loop.evaluation import Evaluation
from lsp.run.init import Init
from lsp.run.spec import RunSpec


@dataclass(frozen=True)
class Lengths(EvaluatorSettings):
    """Measures a model by how often it was asked for."""

    every: int
    name = "lengths"

    def build(self, context):
        assert context.base is not None and context.chat is context.players.chat
        return Measured()


class Measured(Evaluator):
    def __init__(self):
        self.calls = []

    def metrics(self, model, split):
        self.calls.append((model, split))
        return {"size": float(len(self.calls))}


@pytest.fixture
def evaluation_of(players):
    def made(every, init="pocket"):
        config = replace(players.config, num_steps=7, eval=every and Lengths(every - 1))
        spec = RunSpec(config, "run-1", Init(init, None, None, "x"))
        return Evaluation(spec, players, SimpleNamespace(sharded=False, whole_policy=nullcontext))

    return made


def test_it_is_due_every_so_many_steps_and_after_the_last(evaluation_of):
    assert [s for s in range(1, 8) if evaluation_of(3 + 1).is_due(s)] == [3, 6, 7]
    assert [s for s in range(1, 8) if evaluation_of(0 + 1).is_due(s)] == [7]
    none = evaluation_of(None)
    assert not any(map(none.is_due, range(1, 8))) and none.at_the_end(print) == {}


def test_on_the_way_the_policy_is_measured_on_the_dev_split(evaluation_of, players):
    evaluation = evaluation_of(1)
    assert evaluation.on_the_way(1) == {"eval/lengths/size": 1.0}
    assert evaluation.evaluator.calls == [(players.policy, "dev")]


def test_at_the_end_base_and_policy_are_measured_on_the_test_split(evaluation_of, players):
    evaluation = evaluation_of(1)
    entered = []
    assert evaluation.at_the_end(entered.append) == {"base/size": 1.0, "final/size": 2.0}
    split = "evaluating on the test split"
    assert entered == [f"{split}, 1 of 2: the base", f"{split}, 2 of 2: the trained model"]
    assert evaluation.evaluator.calls == [(players.reference, "test"), (players.policy, "test")]


def test_a_run_that_starts_elsewhere_measures_its_start_too(evaluation_of, players):
    evaluation = evaluation_of(1, init="outputs/run/checkpoints/step-000003")
    assert evaluation.base is not players.reference
    entered = []
    assert evaluation.at_the_end(entered.append) == {
        "base/size": 1.0, "init/size": 2.0, "final/size": 3.0
    }  # fmt: skip
    assert entered[1] == "evaluating on the test split, 2 of 3: the init"
    models = [model for model, _ in evaluation.evaluator.calls]
    assert models == [evaluation.base, players.reference, players.policy]
