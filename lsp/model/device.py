"""A setting and a process's number on its machine go in, the device comes out."""

import ctypes
import resource
import sys

import torch

from lsp.tools.machine import memory_bytes

SHARDED_ON = ("cuda",)
"""Devices that weights can be sharded over."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, each of a machine's processes its own. Raises ValueError
    for a cuda that is not there, or is another process's."""
    if name.startswith("cuda:") and local_rank:
        raise ValueError(
            f"runtime.device={name} is one GPU, and each of the run's processes needs its own;"
            " choose runtime.device=cuda"
        )
    if name in ("auto", "cuda") and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise ValueError(
                f"process {local_rank} of this machine has no GPU of its own: there are {count};"
                " start as many processes as there are GPUs"
            )
        return torch.device("cuda", local_rank)
    if name == "auto":
        return torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"runtime.device={name}: torch sees no CUDA device; choose cpu or auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        last = f"choose cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}, or auto"
        raise ValueError(f"runtime.device={name}: this machine has {count} of them; {last}")
    return device


def device_name(device: torch.device) -> str:
    """``cpu``, or what the GPU calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: of the GPU's memory on one, else its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def give_back_freed_memory() -> None:
    """glibc keeps what was freed in pieces for itself, gigabytes between the phases of a step; back
    to the system it goes (docs/performance.md). Other C libraries do so by themselves."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def memory_of(device: torch.device) -> float | None:
    """Bytes of a GPU's memory, or of this machine's; None where that is not known."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return memory_bytes()


def check_offload(device: torch.device) -> None:
    """Raises ValueError where there is no GPU to leave."""
    if device.type == "cpu":
        raise ValueError(
            "hardware.offload=true moves reference and reward model off the GPU between phases, and"
            " this run is on the CPU; choose hardware.offload=false"
        )


def check_sharding(device: torch.device) -> None:
    """Raises ValueError where accelerate would not shard weights."""
    if device.type not in SHARDED_ON:
        raise ValueError(
            "hardware.parallel=fsdp: accelerate shards weights over GPUs alone, and this run is on"
            f" the {device.type.upper()}; choose hardware.parallel=ddp"
        )
