"""The plan's memory against measured peaks, on models of a CPU's size.

    python -m tests.bench.memory [--json]

GRPO and LSP steps of ``tests.bench.step``'s models, in full and by LoRA, with and without gradient
checkpointing, each in a process of its own on one thread. The plan was shaped on tiny and small;
grouped (grouped heads, a Challenger and a judge, bfloat16) was measured once it stood. Measured:
the process's peak less what it held after its imports. glibc keeps freed memory of less than 32 MB;
so that the allocated is measured and not what the allocator holds, freed blocks of 128 kB and more
go back at once (MALLOC_MMAP_THRESHOLD_). The last column is the peak without that setting, as a run
has it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.bench import step


class Case(NamedTuple):
    """A model of ``tests.bench.step`` and how it is trained."""

    size: str
    lora: bool = False
    checkpointing: bool = False
    lsp: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        words = {"LoRA": self.lora, "checkpointing": self.checkpointing, "LSP": self.lsp,
                 self.dtype: self.dtype != "float32"}  # fmt: skip
        return ", ".join([self.size, *(word for word, is_so in words.items() if is_so)])


CASES = [
    Case("tiny"),
    Case("tiny", checkpointing=True),
    Case("small"),
    Case("small", checkpointing=True),
    Case("small", lora=True),
    Case("grouped", lsp=True),
    Case("grouped", checkpointing=True, dtype="bfloat16"),
    Case("grouped", lora=True, checkpointing=True, lsp=True),
]


def planned(folder: str, case: Case):
    """The plan's ``Memory`` of a step, prompts as long as they are."""
    from lsp.plan.memory import plan_memory
    from lsp.plan.step_size import Lengths, step_size_of

    config = step.our_config(folder, case.size, case.lora, case.lsp, case.checkpointing, case.dtype)
    prompt = step.SIZES[case.size]["prompt"]
    lengths = Lengths(prompt, prompt, prompt)
    if case.lsp:
        lengths = Lengths(*prompt_lengths(folder, config))
    return plan_memory(step_size_of(config, lengths))


def prompt_lengths(folder: str, config) -> tuple[int, int, int]:
    """Of the Challenger's, the Solver's and the judge's longest prompt in tokens."""
    from transformers import AutoTokenizer

    from lsp.model.chat import ChatFormat
    from lsp.model.context import answer_tokens

    chat = ChatFormat(AutoTokenizer.from_pretrained(folder), None)
    (challenger,) = chat.encode([config.prompts.challenger_messages()])
    needed = answer_tokens(chat, config, config.rollout.max_query_tokens)
    return (
        len(challenger), needed["the Solver"] - config.rollout.max_new_tokens, needed["the judge"],
    )  # fmt: skip


def worker(folder: str, case: Case) -> None:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lsp.learner
    import lsp.play  # noqa: F401

    if case.lora:
        import peft  # noqa: F401
    torch.set_num_threads(1)
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    imports = resident * resource.getpagesize()
    step.SIZES[case.size]["steps"] = 1
    step.ours(folder, case.size, case.lora, case.lsp, case.checkpointing, case.dtype)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak - imports}))


def measure(folder: str, case: Case, exact: bool = True) -> float:
    """Bytes that a process peaked at beyond its imports; ``exact``: freed memory goes back."""
    command = [sys.executable, "-m", "tests.bench.memory", "--worker", folder, json.dumps(case)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "131072"} if exact else {}
    done = subprocess.run(
        command, cwd=step.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, case = options.worker
        worker(folder, Case(*json.loads(case)))
        return
    mb, results = 2**20, []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            step.build_model(Path(folder), case.size, case.lsp)
            memory = planned(folder, case)
            exact = measure(folder, case)
            kept = measure(folder, case, exact=False)
        parts = {k: round(v / mb) for k, v in memory.phases[memory.fullest].items()}
        result = {
            "case": str(case), "phase": memory.fullest,
            "parts": parts, "planned_mb": memory.peak / mb, "measured_mb": exact / mb,
            "ratio": memory.peak / exact, "kept_by_malloc_mb": kept / mb,
        }  # fmt: skip
        results.append(result)
        if options.json:
            continue
        print(
            f"{case!s:<34} planned {result['planned_mb']:5.0f} MB in {memory.fullest}, measured"
            f" {result['measured_mb']:5.0f} ({result['ratio']:.2f}), without the setting"
            f" {result['kept_by_malloc_mb']:5.0f}; {parts}",
            flush=True,
        )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
