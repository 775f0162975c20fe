"""The processes of one run: who is in it, and what they tell each other.

``torchrun --nproc_per_node k run.py …`` starts k processes. Each plays its part of a step's
queries; all learn what came of it, so that advantages, denominators and alarms are those of the
whole step in every process; each takes its part of the rows through the loss, and gradients are
added up. So a step is the same for any number of processes, but for the order of sums.

What travels is text and numbers; between GPUs gradients go by NCCL, everything else by gloo.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from lsp.errors import RunError

if TYPE_CHECKING:
    import torch

    from lsp.settings.config import Config

Item = TypeVar("Item")
PATIENCE = timedelta(hours=2)
"""For one who is busy alone: the first process evaluates and saves. One that dies is noticed at
once, by its closed connection."""


FIRST_WORD = 10.0
"""Seconds that the first process has for an error that all processes meet."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of a conversation says that another process is gone, which has said why."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


class Command(StrEnum):
    """What the first process says to the others between two steps."""

    GATHER_WEIGHTS = "gather the policy's weights with me"
    GATHER_CHECKPOINT = "gather what a checkpoint holds with me"
    CONTINUE = "on with the next step"
    STOP = "this was the last step"


@dataclass(frozen=True)
class Processes:
    """``rank`` of this process among ``size``; alone unless torchrun said otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """As torchrun and accelerate launch say it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ.get(n, d)) for n, d in zip(names, (0, 1, 0), strict=True)))

    def check_launch(self, config: Config) -> None:
        """Raises RunError where the processes were started for something else than the config says:
        ours decides, and what a launcher was asked for is not passed over."""
        hardware, environment = config.hardware, os.environ
        if hardware.gpus not in (None, self.size):
            raise RunError(
                f"hardware.gpus={hardware.gpus}, and the processes of this run are {self.size};"
                f" start it by torchrun --nproc_per_node={hardware.gpus} (over several machines:"
                " docs/slurm_torchrun.sh), or say hardware.gpus=null"
            )
        for engine in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
            if environment.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
                raise RunError(
                    f"accelerate launch was asked for {engine.lower()}, which is not used here;"
                    " take hardware.parallel=ddp or fsdp, and leave it out of accelerate's settings"
                )
        sharded = environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if sharded and hardware.parallel != "fsdp":
            raise RunError(
                "accelerate launch was asked for FSDP; say hardware.parallel=fsdp, or leave it out"
                " of accelerate's settings"
            )
        if environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
            raise RunError(
                "accelerate launch was asked for a dynamo backend, and nothing is compiled here;"
                " leave it out of accelerate's settings"
            )
        asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("no", {"bfloat16": "bf16"}.get(config.model.dtype)):
            raise RunError(
                f"accelerate launch was asked for --mixed_precision={asked}, and this run has"
                f" model.dtype={config.model.dtype}; say model.dtype=bfloat16 (with fp32 masters)"
                " for bf16, or --mixed_precision=no"
            )

    @property
    def is_first(self) -> bool:
        """Whether this process keeps the record."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """What stands before run.py on a command line."""
        if self.size == 1:
            return "python"
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        machines = f"--nnodes {self.size // here} " if here < self.size else ""
        return f"torchrun {machines}--nproc_per_node {here}"

    def wait_for_rank_0_error(self) -> None:
        """Before an error that all processes meet alike: the first one says it, and torchrun ends
        the others while they wait here. One that is still there had an error of its own."""
        if not self.is_first:
            time.sleep(FIRST_WORD)

    def start(self) -> None:
        """Meet the others, once in a process."""
        import torch
        from torch import distributed

        if self.size == 1 or distributed.is_initialized():
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)

    def dismiss(self) -> None:
        """Tell the others that there is nothing more to do, and part from them."""
        if self.size > 1:
            self.start()
            self.broadcast(None)
            self.leave()

    def leave(self) -> None:
        """The end, in all processes together: threads of the group that outlive the interpreter
        would abort it."""
        from torch import distributed

        if self.size > 1:
            distributed.barrier()
            distributed.destroy_process_group()

    def part_of(self, count: int) -> slice:
        """This process's part of so many things, in order; parts differ in size by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def all_gather_lists(self, own: Sequence[Item]) -> list[Item]:
        """Everybody's, in the order of ranks."""
        return [item for items in self.all_gather(list(own)) for item in items]

    def all_gather(self, own: Item) -> list[Item]:
        """One thing of every process, in the order of ranks."""
        if self.size == 1:
            return [own]
        from torch import distributed

        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, own)
        return found

    def broadcast(self, value: Item) -> Item:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        from torch import distributed

        told = [value if self.is_first else None]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        if self.size == 1:
            return
        from torch import distributed

        works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in works:
            work.wait()


ALONE = Processes()
