"""A process beside the first does between steps what it is told, until it is told to go on."""

from contextlib import nullcontext
from types import SimpleNamespace

from lsp.loop.follower import Follower
from lsp.model.processes import Command


def test_it_gathers_when_told_and_stops_when_told():
    gathered = []
    told = [Command.GATHER_WEIGHTS, Command.GATHER_CHECKPOINT, Command.CONTINUE, Command.STOP,
            Command.CONTINUE]  # fmt: skip
    beside = SimpleNamespace(processes=SimpleNamespace(broadcast=lambda word: told.pop(0)))
    learner = SimpleNamespace(
        whole_policy=lambda: nullcontext(gathered.append("weights")),
        training_tensors=lambda: gathered.append("checkpoint"),
    )
    follower = Follower(beside, learner)
    assert follower.record(1, [], None, {}, list) is False
    assert gathered == ["weights", "checkpoint"]
    assert follower.record(2, [], None, {}, list) is True
    assert follower.interrupt(2) == {} and told == []
