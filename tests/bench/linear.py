"""Linear layers by torch's BLAS and by oneDNN, one thread, fp32: ``python -m tests.bench.linear``.

GFLOP a CPU-second of the three products of training (rows of small's shapes), and of a decode step
with packed weights.
"""

from __future__ import annotations

import time

import torch

from lsp.model.onednn import available, pack, product

TRAINING = ((1024, 512, 1204), (1504, 512, 512), (256, 512, 32_000))
DECODING = ((32, 512, 1204), (32, 512, 32_000), (8, 512, 1204), (32, 192, 448))
SECONDS = 0.5


def rate(call, operations: int) -> float:
    """GFLOP a CPU-second, over at least SECONDS."""
    call()
    count, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        call()
        count += 1
    return operations * count / (time.process_time() - started) / 1e9


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    if not available():
        print("this torch has no oneDNN product here")
        return
    for rows, width, out in TRAINING:
        x, w, g = torch.randn(rows, width), torch.randn(out, width), torch.randn(rows, out)
        operations = 2 * rows * width * out
        forward = (lambda x=x, w=w: x @ w.T), (lambda x=x, w=w: product(x, w))
        for_rows = (lambda g=g, w=w: g @ w), (lambda g=g, w=w: product(g, w.t()))
        for_weight = (lambda g=g, x=x: g.T @ x), (lambda g=g, x=x: product(g.t(), x.t()))
        for name, pair in (("forward", forward), ("rows", for_rows), ("weight", for_weight)):
            blas, onednn = (rate(call, operations) for call in pair)
            print(f"{rows:>5} x {width} -> {out:>6} {name:<8} {blas:5.0f} -> {onednn:5.0f}")
    for rows, width, out in DECODING:
        x, w = torch.randn(rows, width), torch.randn(out, width)
        packed, operations = pack(w, rows), 2 * rows * width * out
        blas = rate(lambda x=x, w=w: torch.nn.functional.linear(x, w), operations)
        onednn = rate(lambda x=x, packed=packed: product(x, packed), operations)
        print(f"{rows:>5} x {width} -> {out:>6} decoding {blas:5.0f} -> {onednn:5.0f}")


if __name__ == "__main__":
    main()
