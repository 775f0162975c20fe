"""A process beside the first does between steps what it is told, until it is told to go on."""

from types import SimpleNamespace

from lsp.loop.follower import Follower
from lsp.model.processes import Command


def test_it_gathers_when_told_and_stops_when_told(players, monkeypatch):
    gathered = []
    monkeypatch.setattr("lsp.loop.follower.training_tensors", lambda *a: gathered.append(a))
    told = [Command.GATHER_WEIGHTS, Command.GATHER_CHECKPOINT, Command.CONTINUE, Command.STOP,
            Command.CONTINUE]  # fmt: skip
    processes = SimpleNamespace(broadcast=lambda word: told.pop(0))
    beside = SimpleNamespace(policy=players.policy, processes=processes)
    follower = Follower(beside, SimpleNamespace(named="named", optimizer="optimizer"))
    assert follower.record(1, [], None, {}, list) is False
    assert gathered == [(players.policy, "named", "optimizer")]
    assert follower.record(2, [], None, {}, list) is True
    assert follower.interrupt(2) == {} and told == []
