"""What this machine has for a run that computes on its CPU. Reads /proc and /sys; no torch."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

GPU_SIGNS = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg", "dev/kfd")
"""What a driver of NVIDIA, of Windows' WSL or of AMD shows."""


def memory_bytes(root: Path = Path("/")) -> float | None:
    """What processes here may hold in all: the machine's memory, or the least of the limits that
    are set for this process's group (cgroup, as containers and Slurm set them). None: not known."""
    limits = [*_group_limits(root), *_physical(root)]
    return min(limits, default=None)


def may_have_gpu(root: Path = Path("/")) -> bool:
    """Whether there is any sign of one; torch, which knows, is not asked."""
    return any((root / sign).exists() for sign in GPU_SIGNS)


def multiplies_bfloat16(root: Path = Path("/")) -> bool | None:
    """Whether an x86 CPU has instructions for it (AVX-512 BF16, AMX). None: not known."""
    file = root / "proc/cpuinfo"
    flags = (
        re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    )
    return None if flags is None else not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())


def _physical(root: Path) -> Iterator[float]:
    file = root / "proc/meminfo"
    if file.is_file():
        if match := re.search(r"^MemTotal:\s+(\d+) kB$", file.read_text(), re.MULTILINE):
            yield int(match[1]) * 1024
    elif "SC_PHYS_PAGES" in os.sysconf_names:  # macOS
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limits(root: Path) -> Iterator[float]:
    """Of the process's group and of all above it, in version 2 and in version 1 of cgroups."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        place, name = root / "sys/fs/cgroup", "memory.max"
        if "memory" in controllers.split(","):
            place, name = place / "memory", "memory.limit_in_bytes"
        elif controllers:
            continue
        group = place / path.strip("/")
        # In a container the path may be the host's, of which only the top is seen.
        for folder in (group, *group.parents):
            file = folder / name
            if file.is_file() and (limit := file.read_text().strip()).isdigit():
                yield int(limit)
            if folder == place:
                break
