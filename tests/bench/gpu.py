"""An LSP step at the paper's size on one GPU, with random weights of Llama-3.2-3B's exact shape.

    python -m tests.bench.gpu                          # 3B in full: conf/hardware/gpu_80gb.yaml
    python -m tests.bench.gpu --lora                   # by LoRA
    python -m tests.bench.gpu --trl                    # beside it a GRPO step of TRL's
    python -m tests.bench.gpu --shrunk                 # a small model, also without a GPU

N = 32 queries of 256 tokens, G = 8 answers of 1,024 to each (random weights end neither), judged in
one pass, no reward model. Printed by phase: seconds, peak memory, tokens a second; decoding against
the time that reading weights and cache takes at the measured copy bandwidth; training against the
measured speed of a large product (MFU). A first step with completions of 16 tokens
warms up, the second one counts. TRL's step
(HF generate, bfloat16 on a GPU, gradient checkpointing, 8 rows in a micro-batch) writes as many
answers, and has no Challenger and no judge.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from lsp.algorithm import Clock, play_queries
from lsp.batch import training_rows
from lsp.learner import Learner
from lsp.model.shapes import cache_bytes, parameters
from lsp.plan.hours import phase_times
from lsp.plan.step_size import step_size_of
from lsp.players import load_players
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.settings.config import Config
from tests.bench import step

SHRUNK = dict(
    vocab_size=2_000, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
    num_attention_heads=8, num_key_value_heads=2, prompt=50, limit=32, rows=8, steps=1,
)  # fmt: skip


class Phases(step.Phases):
    """Seconds and peak memory of each phase, on an idle device at both ends."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.found: dict[str, tuple[float, float]] = {}

    @contextmanager
    def phase(self, name: str):
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        yield
        if self.cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else math.nan
        self.found[name] = (time.perf_counter() - started, peak)


def seconds_of(device: torch.device, work, repeats: int = 10) -> float:
    """The fastest of several runs."""
    phases, found = Phases(device), []
    for _ in range(repeats):
        with phases.phase("once"):
            work()
        found.append(phases.found["once"][0])
    return min(found)


def settings(folder: Path, options: argparse.Namespace) -> list[str]:
    small = options.shrunk
    return [
        "experiment=paper_v1/lsp", "hardware=gpu_80gb", f"model.name={folder}", "tracker=none",
        "reward=pocket", f"runtime.device={'auto' if small else 'cuda'}", "model.shape=null",
        *(["model.lora.rank=16"] if options.lora else []),
        *(["num_queries=4", "group_size=2", "rollout.max_new_tokens=32",
           "rollout.max_query_tokens=16"] if small else []),
        "prompts.judge='rate it'", "prompts.judge_opening=''",
        "prompts.challenger='ask {task}{template}'",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--trl", action="store_true")
    parser.add_argument("--shrunk", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        step.SIZES["gpu"] = SHRUNK if options.shrunk else full_shape()
        step.build_model(folder, "gpu", ragged=False)
        config = measure(settings(folder, options))
        if options.trl:
            measure_trl(folder, options.lora, config)


def full_shape() -> dict:
    shape = compose(["world=paper"]).model.shape
    return dict(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, prompt=50, limit=1024, rows=8, steps=1,
    )  # fmt: skip


def measure(overrides: list[str]) -> Config:
    """Our step; returns its settings. Its models are gone when it returns."""
    config = compose(overrides)
    players = load_players(config, resolve_init(config))
    device = players.policy.device
    learner, phases = Learner(players, config), Phases(device)
    inner = players.engine.generate

    def generate(model, prompts, samples, *more):
        name = "the Challenger writes" if samples == config.num_queries else "the Solver writes"
        with phases.phase(name):
            return inner(model, prompts, samples, *more)

    players.engine.generate = generate
    phases.wrap(players.self_judge, "score", "judge")
    phases.wrap(learner, "update", "update")
    short = replace(config.rollout, max_query_tokens=16, max_new_tokens=16)
    for number, rollout in ((1, short), (2, config.rollout)):
        players = replace(players, config=replace(config, rollout=rollout))
        with learner.whole_policy():
            # A random model's queries do not end: they are played all the same.
            queries = [replace(query, status="stop") for query in players.step_queries(number)]
            play = play_queries(players, players.config, queries, number, Clock())
        rows = training_rows(play, config.method, config.num_queries, rollout.max_query_tokens,
                             rollout.max_new_tokens)  # fmt: skip
        learner.update(rows, number)
    report(config, phases, device, sum(len(a.ids) for group in play.answers for a in group))
    return config


def measure_trl(folder: Path, lora: bool, config: Config) -> None:
    gpu = torch.cuda.is_available()
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    queries, samples = config.num_queries, config.group_size
    done = step.trl(
        str(folder), "gpu", lora, min(8, queries * samples), True, queries, samples, gpu
    )
    print(f"TRL {version('trl')}, a GRPO step: {done['wall_seconds']:.2f} s, ", end="")
    print(", ".join(f"{name} {seconds:.2f}" for name, seconds in done["walls"].items()), end="")
    print(f"; {done['tokens'] / done['walls']['generation']:,.0f} tokens a second decoded", end="")
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else math.nan
    print(f", {peak:.1f} GB at most" if gpu else "")


def report(config, phases: Phases, device: torch.device, tokens: int) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {config.model.dtype}, LoRA rank {config.model.lora.rank}")
    for phase, (seconds, peak) in phases.found.items():
        held = f"{peak:8.1f} GB at most" if phases.cuda else ""
        print(f"  {phase:<24}{seconds:8.2f} s{held}")
    print(f"  {'a step':<24}{sum(seconds for seconds, _ in phases.found.values()):8.2f} s")
    size, new = step_size_of(config), config.rollout.max_new_tokens
    numbers = 2**28 if device.type == "cuda" else 2**24
    block = torch.empty(numbers, dtype=torch.float32, device=device)
    other = torch.empty_like(block)
    bandwidth = 2 * block.nbytes / seconds_of(device, lambda: other.copy_(block))
    chunks = math.ceil(size.answers / size.rows_at_once(size.lengths.solver, new))
    read = chunks * new * parameters(size.shape) * size.number_bytes
    read += (
        size.answers
        * new
        * (size.lengths.solver + new / 2)
        * cache_bytes(size.shape, size.number_bytes)
    )
    seconds = phases.found["the Solver writes"][0]
    print(
        f"  decoding {tokens / seconds:,.0f} tokens a second, {read / bandwidth / seconds:.0%} of"
        f" the floor at {bandwidth / 1e12:.2f} TB/s ({chunks} chunks of rows)"
    )
    side = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, config.model.dtype)
    square = torch.randn(side, side, device=device).to(dtype)
    flops = 2 * side**3 / seconds_of(device, lambda: square @ square)
    training = phase_times(size)["update"].flops / phases.found["update"][0]
    print(
        f"  training {training / 1e12:.1f} TFLOPS, {training / flops:.0%} of a large product's"
        f" {flops / 1e12:.1f}"
    )


if __name__ == "__main__":
    main()
