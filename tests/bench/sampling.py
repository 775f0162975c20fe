"""Ways to sample a token, by cost and by steadiness: ``python -m tests.bench.sampling``.

(1) 32 rows of V = 32,000: CPU-milliseconds a token step of inverse CDF in one level and in two (the
engine's), and of Gumbel noise; and of 12,800 tokens, how many change when the same logits are
computed row by row, in another order of sums. (2) The small model of ``tests.bench.step``, the same
draws decoded 32 rows at once and 8 at once: how many answers differ, and where they first do.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lsp.model.language_model import load_model
from lsp.rollout.in_process import InProcessEngine
from lsp.rollout.sampling import sample
from lsp.types import DrawKey
from tests.bench.step import SIZES, build_model, prompts_of

ROWS, VOCABULARY, WIDTH, STEPS = 32, 32_000, 512, 400


def one_level(logits, uniform, keys):
    cumulative = logits.log_softmax(-1).double().exp().cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]


def two_levels(logits, uniform, keys):
    return sample(logits, 1.0, uniform)[0]


def gumbel(logits, uniform, keys):
    noise = np.stack(
        [
            np.random.Generator(np.random.Philox(key=0, counter=[0, key, 0, 0])).random(
                VOCABULARY, dtype=np.float32
            )
            for key in keys
        ]
    )
    return (logits - torch.from_numpy(noise).log_().neg_().log_()).argmax(-1)


@torch.no_grad()
def ways() -> None:
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=source) * 0.05
    seconds, changed = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0)
    for step in range(STEPS):
        hidden = torch.randn(ROWS, WIDTH, generator=source)
        together = hidden @ weight.T
        apart = torch.cat([row[None] @ weight.T for row in hidden])
        uniform = torch.rand(ROWS, generator=source, dtype=torch.float64)
        keys = range(step * ROWS, (step + 1) * ROWS)
        for name, way in WAYS.items():
            started = time.process_time()
            token = way(together, uniform, keys)
            seconds[name] += time.process_time() - started
            changed[name] += int((token != way(apart, uniform, keys)).sum())
    for name in WAYS:
        print(
            f"{name:<12} {1000 * seconds[name] / STEPS:5.1f} CPU-ms a step; {changed[name]} of"
            f" {STEPS * ROWS:,} tokens change"
        )


WAYS = {"one level": one_level, "two levels": two_levels, "Gumbel": gumbel}


def batches() -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder), "small", False)
        model, tokenizer = load_model(folder, "float32", torch.device("cpu"))
    prompts = [tokenizer(text)["input_ids"] for text in prompts_of("small", 4)]
    written = [
        InProcessEngine(tokenizer, {1}, rows).generate(
            model, prompts, 8, SIZES["small"]["limit"], 1.0, DrawKey(0, 1, "solver")
        )
        for rows in (32, 8)
    ]
    first = []
    flat = ([answer for group in groups for answer in group] for groups in written)
    for one, other in zip(*flat, strict=True):
        differ = [i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b]
        first += differ[:1]
    print(
        f"32 rows at once against 8: {len(first)} of 32 answers of {SIZES['small']['limit']} tokens"
        f" differ, first at {sorted(first)}"
    )


if __name__ == "__main__":
    ways()
    batches()
