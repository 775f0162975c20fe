"""What the other processes record to: nothing; they do as the first one says between steps."""

import signal
from typing import Any

from lsp.algorithm import Recorder
from lsp.learner import Learner
from lsp.loop.signals import ASKING
from lsp.model.processes import Command
from lsp.players import Players


class Follower(Recorder):
    """The recorder of a process whose rank is not 0."""

    def __init__(self, players: Players, learner: Learner):
        self.players = players
        self.learner = learner

    def begin(self) -> None:
        """What asks a run to stop reaches all of its processes; the first one says when."""
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)
        self._listen()

    def record(self, *of_the_step: Any) -> bool:
        return self._listen() == Command.STOP

    def interrupt(self, step: int) -> dict[str, Any]:
        self._listen()
        return {}

    def end(self) -> dict[str, Any]:
        self._listen()
        return {}

    def _listen(self) -> Command:
        """Do as the first process says until the next step; what it said last."""
        processes = self.players.processes
        while True:
            match processes.broadcast(Command.CONTINUE):
                case Command.GATHER_WEIGHTS:
                    with self.learner.whole_policy():
                        pass
                case Command.GATHER_CHECKPOINT:
                    self.learner.training_tensors()
                case last:
                    return last
