"""An error for want of memory goes in; the phase it ended and the settings to lower come out."""

from collections.abc import Iterator
from contextlib import contextmanager

from lsp.settings.config import Config
from lsp.settings.phases import PHASES
from lsp.settings.schema import flat

FALLBACK = ("hardware.offload", "rollout.max_new_tokens", "rollout.max_query_tokens", "model.dtype")
"""Named in any phase, where fewer than three of the phase's own settings are left to change."""
LESS_MEMORY = {
    "model.dtype": "bfloat16",
    "reward.dtype": "bfloat16",
    "model.name": "a smaller one",
    "model.lora.rank": "16, so that adapters alone are trained",
    "optim.gradient_checkpointing": "true",
    "hardware.offload": "true",
}
"""The value that needs less memory, where the setting is no number to lower."""


class OutOfMemory(Exception):
    """Memory ended in ``phase``, one of PHASES; ``cause``: the first line of torch's or Python's
    error."""

    def __init__(self, phase: str, cause: str):
        super().__init__(f"out of memory in {PHASES[phase].words}: {cause}")
        self.phase = phase
        self.cause = cause

    def advice(self, config: Config) -> str:
        """The message, and three settings to change with their present values."""
        present = flat(config)
        lines = []
        for key in dict.fromkeys((*PHASES[self.phase].memory_settings, *FALLBACK)):
            # A reward that is a sum of several has these settings in each of its parts.
            part = key.removeprefix("reward") if key.startswith("reward.") else "-"
            for name in (k for k in present if k == key or k.endswith(f".reward{part}")):
                if self._helps(key, present[name], config):
                    lines.append(f"  {name}={present[name]}: {LESS_MEMORY.get(key, 'lower')}")
        return "\n".join([f"{self}", "what needs less memory there:", *lines[:3]])

    def _helps(self, key: str, value: object, config: Config) -> bool:
        """Whether there is anything left to gain from a setting."""
        on_gpu = config.runtime.device != "cpu" and "DefaultCPUAllocator" not in self.cause
        if key == "hardware.offload":
            return on_gpu and not value
        return not value if key == "model.lora.rank" else value not in (1, True, "bfloat16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has one of its own for a GPU alone."""
    import torch

    cpu = "DefaultCPUAllocator: can't allocate memory"
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or cpu in str(error)


@contextmanager
def memory_guard(phase: str) -> Iterator[None]:
    """Raises OutOfMemory for an error inside that says the GPU's or the CPU's memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        cause = str(error).partition("\n")[0] or "Python could not allocate any more"
        raise OutOfMemory(phase, cause) from error
