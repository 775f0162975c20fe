"""Engines on the same rows: tokens a CPU-second, seconds of a sync, mismatch to the trainer.

    python -m tests.bench.rollout --model <folder> [--lora] [<setting>=<value> ...]
    python -m tests.bench.rollout --model <folder> --vllm http://127.0.0.1:8000 --pid <the server's>

8 prompts for stories, 8 answers of at most 128 tokens each, by the engine that the settings name
(in-process without any). Each round moves the policy's weights as an update would, syncs the
engine, lets it write, and scores what it wrote by the trainer's own forward pass. The first round
warms up. A server's CPU-seconds are those of ``--pid`` and its children, beside this process's own.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

QUERIES, SAMPLES, TOKENS, ROUNDS, MOVE = 8, 8, 128, 3, 1e-4


class Round(NamedTuple):
    """One sync and what was written after it."""

    tokens: int
    cpu_seconds: float
    wall_seconds: float
    sync_seconds: float
    largest: float
    mean: float


def tree_seconds(pid: int | None) -> float:
    """CPU-seconds so far of a process and all that descend from it; 0 without one."""
    used, children = {}, defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat") if pid else ():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        number = int(stat.parent.name)
        children[int(fields[1])].append(number)
        used[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    left, total = [pid] if pid else [], 0.0
    while left:
        number = left.pop()
        total += used.get(number, 0.0)
        left += children[number]
    return total


def settings(options: argparse.Namespace) -> list[str]:
    """``overrides`` come last and win."""
    return [
        "method=grpo", "method.log_quality=false", f"model.name={options.model.resolve()}",
        "eval=none", "tracker=none", f"rollout.max_new_tokens={TOKENS}",
        *(["model.lora.rank=16"] if options.lora else []),
        *(["rollout.engine=vllm", f"rollout.url={options.vllm}"] if options.vllm else []),
        *options.overrides,
    ]  # fmt: skip


def measure(overrides: list[str], pid: int | None) -> list[Round]:
    """``ROUNDS`` rounds behind one that warms up."""
    import torch

    from lsp.batch import pack, pad
    from lsp.model.logprobs import completion_scores
    from lsp.players import load_players
    from lsp.run.init import resolve_init
    from lsp.settings.compose import compose
    from lsp.types import DrawKey, TrainingRow
    from tests.bench.models import prompts_of

    config = compose(overrides)
    players = load_players(config, resolve_init(config))
    policy, elsewhere = players.policy, not config.rollout.engine.in_process
    texts = prompts_of("model", QUERIES)
    prompts = players.chat.encode([players.prompts.solver_messages(text) for text in texts])
    temperature = config.rollout.temperature_of("solver")
    found, source = [], torch.Generator().manual_seed(0)
    for number in range(ROUNDS + 1):
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(MOVE * torch.randn(parameter.shape, generator=source))
        started = time.perf_counter()
        if elsewhere:
            players.engine.sync(policy, number, players.processes)
        sync, wall = time.perf_counter() - started, time.perf_counter()
        cpu = time.process_time() + tree_seconds(pid)
        key = DrawKey(config.seed, number, "solver")
        groups = players.engine.generate(policy, prompts, SAMPLES, TOKENS, temperature, key)
        cpu, wall = time.process_time() + tree_seconds(pid) - cpu, time.perf_counter() - wall
        rows = [
            TrainingRow("solver", tuple(prompt), answer.ids, answer.logprobs, 0.0, 0.0, 1)
            for prompt, group in zip(prompts, groups, strict=True)
            for answer in group
        ]
        apart = []
        for chosen in pack(rows, 2048):
            batch = pad([rows[i] for i in chosen])
            with torch.no_grad():
                scores = completion_scores(policy, batch, temperature).logprobs_C
            own = torch.tensor([x for row in batch.rows for x in row.rollout_logprobs])
            apart.append((scores - own).abs())
        difference = torch.cat(apart)
        tokens = sum(len(row.completion_ids) for row in rows)
        largest, mean = difference.max().item(), difference.mean().item()
        found.append(Round(tokens, cpu, wall, sync, largest, mean))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder of save_pretrained's")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--vllm", help="a server's URL")
    parser.add_argument("--pid", type=int, help="the server's process, where it runs here")
    parser.add_argument("overrides", nargs="*", help="settings of the run")
    options = parser.parse_args()
    rounds = measure(settings(options), options.pid)
    rates = [one.tokens / one.cpu_seconds for one in rounds]
    print(
        f"{'vLLM' if options.vllm else 'in-process'}, {len(rounds)} rounds of about"
        f" {rounds[0].tokens} tokens: {statistics.median(rates):.0f} tokens a CPU-second"
        f" ({min(rates):.0f} to {max(rates):.0f}), {rounds[0].wall_seconds:.1f} s of wall time;"
        f" sync {statistics.median(one.sync_seconds for one in rounds):.2f} s; log-probabilities"
        f" apart by {max(one.largest for one in rounds):.2g} at most, by"
        f" {statistics.median(one.mean for one in rounds):.2g} on average"
    )


if __name__ == "__main__":
    main()
