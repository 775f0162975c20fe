"""Under what a run computes: two processes with equal conditions give equal bits.

All randomness is a function of (seed, step), so a run that is stopped and goes on has the rows of
one that was not; to the last bit where machine, threads, versions and processes are the same, since
sums are else rounded in another order.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsp.run.provenance import package_version

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy")
CPU_INFO = Path("/proc/cpuinfo")


def conditions(device: str, processes: int) -> dict[str, Any]:
    """``device``: its name (lsp/model/device.py). Imports torch."""
    import torch

    return {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
    }


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name -> [before, now] of what is another by now; nothing of a run that did not record any."""
    return {
        name: [before[name], now[name]] for name in now if before.get(name, now[name]) != now[name]
    }


def _cpu() -> str:
    """The processor's name; empty where the machine does not tell."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
