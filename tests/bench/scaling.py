"""How a step's cost grows with N, G and the answer's length, and its memory with V.

    python -m tests.bench.scaling

GRPO steps of the tiny model of ``tests.bench.step``, each point a process of its own, one thread.
Cost: CPU-seconds a step, and the ratio for twice as much (2 is linear). Memory: peak of the process
beyond the weights that V adds (embedding, its copy in the reference, gradient and two moments).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import step

HIDDEN = step.SIZES["tiny"]["hidden_size"]
POINTS = {
    "queries": [(n, 8, 64, 512) for n in (4, 8, 16, 32)],
    "samples": [(4, g, 64, 512) for g in (8, 16, 32, 64)],
    "tokens": [(4, 8, t, 512) for t in (64, 128, 256, 512)],
    "vocabulary": [(4, 8, 64, v) for v in (8_000, 32_000, 128_000)],
}


def worker(queries: int, samples: int, limit: int, vocabulary: int) -> None:
    step.QUERIES, step.SAMPLES = queries, samples
    step.SIZES["tiny"] |= {"limit": limit, "vocab_size": vocabulary, "steps": 2, "rows": 32}
    with tempfile.TemporaryDirectory() as folder:
        step.build_model(Path(folder), "tiny", False)
        print(json.dumps(step.ours(folder, "tiny", False, False, True)))


def measure(point: tuple[int, int, int, int]) -> dict:
    command = [sys.executable, "-m", "tests.bench.scaling", "--worker", *map(str, point)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=step.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    for name, points in POINTS.items():
        before = None
        for point in points:
            result = measure(point)
            seconds = result["cpu_seconds"]
            growth = f"× {seconds / before:.2f}" if before and name != "vocabulary" else ""
            weights = 5 * point[3] * HIDDEN * 4 / 2**20
            print(
                f"{name:<11} N {point[0]:>2} G {point[1]:>2} tokens {point[2]:>3} V {point[3]:>7,}:"
                f" {seconds:6.2f} CPU-s {growth:<7} peak {result['peak_mb']:5.0f} MB,"
                f" {result['peak_mb'] - weights:5.0f} without what V adds to the weights",
                flush=True,
            )
            before = seconds


if __name__ == "__main__":
    main()
