"""Where memory ended: the phase of the run, and the settings that its peak follows from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lsp.settings.config import Config
from lsp.settings.schema import flat

PHASES = {
    "loading": ("loading the models", ("model.dtype", "reward.dtype", "model.name")),
    "queries": (
        "generation of the queries",
        ("rollout.max_rows", "rollout.max_tokens", "rollout.max_query_tokens"),
    ),
    "answers": (
        "generation of the answers",
        ("rollout.max_rows", "rollout.max_tokens", "rollout.max_new_tokens"),
    ),
    "reward": (
        "the external reward",
        ("reward.max_tokens", "reward.max_length", "reward.dtype", "group_size", "num_queries"),
    ),
    "quality": (
        "the quality self-reward",
        ("rollout.max_rows", "rollout.max_tokens", "rollout.max_new_tokens"),
    ),
    "update": (
        "the update",
        ("optim.micro_batch_tokens", "optim.gradient_checkpointing", "model.lora.rank"),
    ),
    "evaluation": (
        "the evaluation",
        ("rollout.max_rows", "rollout.max_tokens", "rollout.max_new_tokens"),
    ),
}
"""Phase -> its name and what its peak follows from, the strongest first."""
FALLBACK = ("hardware.offload", "rollout.max_new_tokens", "rollout.max_query_tokens", "model.dtype")
"""Of any phase, where a run has fewer than three of the phase's own left to change."""
BETTER = {
    "model.dtype": "bfloat16",
    "reward.dtype": "bfloat16",
    "model.name": "a smaller one",
    "model.lora.rank": "16, so that adapters alone are trained",
    "optim.gradient_checkpointing": "true",
    "hardware.offload": "true",
}
"""What needs less memory, where the setting is no number to lower."""


class OutOfMemory(Exception):
    """Memory ended in ``phase``, one of PHASES; ``said``: what torch or Python said of it."""

    def __init__(self, phase: str, said: str):
        super().__init__(f"out of memory in {PHASES[phase][0]}: {said}")
        self.phase = phase
        self.said = said

    def advice(self, config: Config) -> str:
        """The message, and three settings to change with their present values."""
        present = flat(config)
        lines = []
        for key in dict.fromkeys((*PHASES[self.phase][1], *FALLBACK)):
            # A reward that is a sum of several has these settings in each of its parts.
            part = key.removeprefix("reward") if key.startswith("reward.") else "-"
            for name in (k for k in present if k == key or k.endswith(f".reward{part}")):
                if self._helps(key, present[name], config):
                    lines.append(f"  {name}={present[name]}: {BETTER.get(key, 'lower')}")
        return "\n".join([f"{self}", "what needs less memory there:", *lines[:3]])

    def _helps(self, key: str, value: object, config: Config) -> bool:
        """Whether there is anything left to gain from a setting."""
        on_gpu = config.runtime.device != "cpu" and "DefaultCPUAllocator" not in self.said
        if key == "hardware.offload":
            return on_gpu and not value
        if key == "model.lora.rank":
            return not value
        return value not in (1, True, "bfloat16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has one of its own for a GPU alone."""
    import torch

    cpu = "DefaultCPUAllocator: can't allocate memory"
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or cpu in str(error)


@contextmanager
def memory_guard(phase: str) -> Iterator[None]:
    """Whatever ends for want of memory inside, the GPU's or the CPU's, raises OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or "Python could not allocate any more"
        raise OutOfMemory(phase, said) from error
