"""What recording costs: ``python -m tests.bench.tracking``.

Two measures. (1) The loop's own time in ``Trackers.log`` for a step of 256 rows with long texts
(32 queries x 8 answers, 1.5 kB each), median and 99th percentile over 100 steps a tenth of a second
apart, in which the loop computes, as it would in training. (2) CPU-seconds of whole pocket runs
with tracker=none and with W&B offline, alternating, as a ratio.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from lsp.learner import UpdateStats
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace
from lsp.tracking.rows import trace_rows
from lsp.tracking.trackers import Trackers
from lsp.types import Completion, Play, Query

ROOT = Path(__file__).parents[2]
STEPS = 100


def large_step() -> tuple[list[Query], Play]:
    """A step of 32 queries and 256 answers with texts of natural length."""
    source = torch.Generator().manual_seed(0)

    def completion(words: int) -> Completion:
        ids = tuple(torch.randint(0, 32_000, (words,), generator=source).tolist())
        return Completion(ids, (-0.1,) * words, " ".join(map(str, ids)), "stop")

    queries = [
        Query(f"q{i}", completion(40).text, "stop", (1, 2, 3), completion(40)) for i in range(32)
    ]
    answers = [[completion(280) for _ in range(8)] for _ in range(32)]
    values = torch.rand(32, 8, generator=source)
    of_query = values[:, 0]
    texts = [["6 (digit mass 0.91)"] * 8 for _ in range(32)]
    prompts = [(1, 2)] * 32
    return queries, Play(
        queries, answers, prompts, values, {}, values, texts, values, values, of_query, of_query,
        of_query,
    )  # fmt: skip


def loop_cost() -> tuple[float, float]:
    """(median, 99th percentile) milliseconds of a ``log`` call."""
    queries, play = large_step()
    seconds = []
    with tempfile.TemporaryDirectory() as place:
        trackers = Trackers(LocalTracker(Path(place)))
        work = torch.rand(600, 600)
        for step in range(1, STEPS + 1):
            make_rows = partial(trace_rows, "run", step, queries, play, UpdateStats().row)
            before = time.perf_counter()
            trackers.log(step, {"loss/total": 0.1}, make_rows)
            seconds.append(time.perf_counter() - before)
            end = time.perf_counter() + 0.1
            while time.perf_counter() < end:
                work @ work
        trackers.finish({})
        assert len(read_trace(Path(place), columns=["step"])) == 256 * STEPS
    milliseconds = sorted(1000 * s for s in seconds)
    return statistics.median(milliseconds), milliseconds[int(0.99 * STEPS)]


def run_cost(tracker: str) -> float:
    """CPU-seconds of a pocket run of 100 steps, all its processes."""
    with tempfile.TemporaryDirectory() as place:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "run.py", f"tracker={tracker}", f"run_dir={place}/run",
             "num_steps=100", "eval=none", "checkpoint.every=0"],
            cwd=ROOT, check=True, capture_output=True,
            env={**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    torch.set_num_threads(1)
    median, worst = loop_cost()
    print(f"Trackers.log at 256 rows: median {median:.3f} ms, 99th percentile {worst:.3f} ms")
    pairs = [(run_cost("none"), run_cost("wandb")) for _ in range(3)]
    ratios = [with_wandb / without for without, with_wandb in pairs]
    print("pocket run, CPU-seconds: tracker=none, wandb offline, ratio")
    for (without, with_wandb), ratio in zip(pairs, ratios, strict=True):
        print(f"  {without:6.2f} {with_wandb:6.2f} {ratio:6.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
