"""The plan's memory against measured peaks, on models of a CPU's size.

    python -m tests.bench.memory [--json]

GRPO steps of ``tests.bench.step``'s models, full and LoRA, with and without gradient checkpointing,
each in a process of its own on one thread. Measured: the process's peak less what it held after its
imports. glibc keeps freed memory of less than 32 MB; so that the allocated is measured and not what
the allocator holds, freed blocks of 128 kB and more go back at once (MALLOC_MMAP_THRESHOLD_). The
last column is the peak without that setting, as a run has it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import step

CASES = [
    ("tiny", False, False),
    ("tiny", False, True),
    ("small", False, False),
    ("small", False, True),
    ("small", True, False),
]
"""Size, LoRA, gradient checkpointing."""


def planned(folder: str, size: str, lora: bool, checkpointing: bool):
    """The plan's ``Memory`` of a step, prompts as long as the bench's are."""
    from lsp.job import Lengths, job_of
    from lsp.memory import memory_of

    prompt = step.SIZES[size]["prompt"]
    config = step.our_config(folder, size, lora, False, checkpointing)
    return memory_of(job_of(config, Lengths(prompt, prompt, prompt)))


def worker(folder: str, size: str, lora: bool, checkpointing: bool) -> None:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lsp.learner
    import lsp.play  # noqa: F401

    if lora:
        import peft  # noqa: F401
    torch.set_num_threads(1)
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    imports = resident * resource.getpagesize()
    step.SIZES[size]["steps"] = 1
    step.ours(folder, size, lora, False, checkpointing)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak - imports}))


def measure(folder: str, size: str, lora: bool, checkpointing: bool, exact: bool = True) -> float:
    """Bytes that a process peaked at beyond its imports; ``exact``: freed memory goes back."""
    command = [sys.executable, "-m", "tests.bench.memory", "--worker", folder, size,
               str(int(lora)), str(int(checkpointing))]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "131072"} if exact else {}
    done = subprocess.run(
        command, cwd=step.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, size, lora, checkpointing = options.worker
        worker(folder, size, lora == "1", checkpointing == "1")
        return
    mb, results = 2**20, []
    for size, lora, checkpointing in CASES:
        with tempfile.TemporaryDirectory() as folder:
            step.build_model(Path(folder), size, False)
            memory = planned(folder, size, lora, checkpointing)
            exact = measure(folder, size, lora, checkpointing)
            kept = measure(folder, size, lora, checkpointing, exact=False)
        parts = {k: round(v / mb) for k, v in memory.phases[memory.fullest].items()}
        result = {
            "size": size, "lora": lora, "checkpointing": checkpointing, "phase": memory.fullest,
            "parts": parts, "planned_mb": memory.peak / mb, "measured_mb": exact / mb,
            "ratio": memory.peak / exact, "kept_by_malloc_mb": kept / mb,
        }  # fmt: skip
        results.append(result)
        if options.json:
            continue
        name = size + (", LoRA" if lora else "") + (", checkpointing" if checkpointing else "")
        print(
            f"{name:<22} planned {result['planned_mb']:5.0f} MB in {memory.fullest}, measured"
            f" {result['measured_mb']:5.0f} ({result['ratio']:.2f}), without the setting"
            f" {result['kept_by_malloc_mb']:5.0f}; {parts}",
            flush=True,
        )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
