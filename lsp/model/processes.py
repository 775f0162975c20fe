"""One process's value goes in; the values of all processes of a run come out, in each of them.

``torchrun --nproc_per_node k run.py …`` starts k processes. Each plays its part of a step's
queries; the results are gathered in all, so that advantages, denominators and alarms are those of
the whole step everywhere; each takes its part of the rows through the loss, and accelerate adds
gradients up (lsp/model/distribution.py). So a step is the same for any number of processes, but for
the order of sums.

Texts and numbers are exchanged here, by gloo; between GPUs gradients go by NCCL.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

Item = TypeVar("Item")
COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long the others wait while the first process evaluates and saves alone. A process that died
is noticed at once, by its closed connection."""

RANK_0_HEAD_START = 10.0
"""Seconds in which rank 0 reports an error that all processes meet, before the others would."""


def is_collective_failure(error: BaseException) -> bool:
    """Whether a collective failed because another process died; that one reports why."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


class Command(StrEnum):
    """What the first process tells the others to do between two steps."""

    GATHER_WEIGHTS = "gather the policy's weights with me"
    GATHER_CHECKPOINT = "gather what a checkpoint holds with me"
    CONTINUE = "go on with the next step"
    STOP = "this was the last step"


@dataclass(frozen=True)
class Processes:
    """``rank`` of this process among the run's ``size``, ``local_rank`` among its machine's."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """As torchrun and accelerate launch set it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ.get(n, d)) for n, d in zip(names, (0, 1, 0), strict=True)))

    @property
    def is_first(self) -> bool:
        """Whether this process keeps the record."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """What starts as many processes, before run.py on a command line."""
        if self.size == 1:
            return "python"
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        machines = f"--nnodes {self.size // here} " if here < self.size else ""
        return f"torchrun {machines}--nproc_per_node {here}"

    def wait_for_rank_0_error(self) -> None:
        """Called before an error that all processes meet alike: the first one reports it, and
        torchrun ends the others while they wait here. One that is not ended met it alone."""
        if not self.is_first:
            time.sleep(RANK_0_HEAD_START)

    def start(self) -> None:
        """Connect to the others, once in a process."""
        import torch
        from torch import distributed

        if self.size > 1 and not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)

    def dismiss(self) -> None:
        """Tell the others that there is nothing more to do."""
        if self.size > 1:
            self.start()
            self.broadcast(None)
            self.leave()

    def leave(self) -> None:
        """All processes have done what there was to do; each ends by itself (``end_process``). The
        group stays: a wrapped model that outlives it deadlocks in its destructor, which waits for a
        thread that waits for the interpreter."""
        from torch import distributed

        if self.size > 1:
            distributed.barrier()

    def part_of(self, count: int) -> slice:
        """This process's part of ``count`` items, in order; parts differ in size by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def all_gather_lists(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order of ranks."""
        return [item for part in self.all_gather(list(items)) for item in part]

    def all_gather(self, value: Item) -> list[Item]:
        """The value of each process, in the order of ranks."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Item) -> Item:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value if self.is_first else None]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Processes()


def end_process(code: int) -> NoReturn:
    """The end of one of several processes, without the interpreter's own: all is written by then,
    and threads of gloo that it still finds would abort it, or hold it up for good."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
