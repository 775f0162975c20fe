"""The other processes of a run: they play and learn, and the first one keeps the record."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lsp.checkpoint import load_training_state, training_tensors
from lsp.config import Config
from lsp.init import Init
from lsp.learner import Learner
from lsp.players import load_players
from lsp.sharding import whole
from lsp.types import Play, Query
from lsp.world import Word, World


class Follower:
    """What ``lsp.train`` wants of a session, in a process whose rank is not 0."""

    def __init__(
        self,
        config: Config,
        run_id: str,
        init: Init,
        resumed_from: Path | None,
        resumed_step: int,
        world: World,
    ):
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        self.run_id = run_id
        self.first_step = resumed_step + 1
        self.world = world
        source = str(resumed_from) if resumed_from else None
        self.players = load_players(config, init, source, world)
        self.learner = Learner(self.players, config)
        if resumed_from:
            optimizer = self.learner.optimizer
            load_training_state(resumed_from, self.players.policy, self.learner.named, optimizer)

    def begin(self) -> None:
        """What asks a run to stop reaches all of its processes; the first one says when."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        self._listen()

    def record(
        self,
        step: int,
        queries: list[Query],
        play: Play,
        metrics: dict[str, float],
        make_rows: Callable[[], list[dict[str, Any]]],
    ) -> bool:
        """Hear from the first process whether the run stops here."""
        return self._listen() == Word.STOP

    def interrupt(self, step: int) -> dict[str, Any]:
        self._listen()
        return {}

    def end(self) -> dict[str, Any]:
        self._listen()
        return {}

    def _listen(self) -> Word:
        """Do as the first process says until the next step; what it said last."""
        policy = self.players.policy
        while (word := self.world.share(Word.GO)) not in (Word.GO, Word.STOP):
            if word == Word.WEIGHTS:
                with whole(policy):
                    pass
            else:
                training_tensors(policy, self.learner.named, self.learner.optimizer)
        return word
