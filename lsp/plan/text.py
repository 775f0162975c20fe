"""A config goes in; what a run of it needs comes out as text, before anything loads.

python run.py … dry_run=true     ``plan``
python -m lsp.plan               ``scaling_table``, the table of docs/scaling.md
"""

import json
from collections.abc import Sequence
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any

from lsp.errors import RunError
from lsp.model.shapes import UnknownShape, parameters
from lsp.plan.hours import BANDWIDTH_SHARE, FLOPS_SHARE, phase_times, total_hours
from lsp.plan.memory import GB, crowding, machine_taken, plan_memory, trained_numbers
from lsp.plan.step_size import StepSize, is_for_this_cpu, step_size_of
from lsp.run.folder import display_name, dump_config
from lsp.run.init import NoEarlierRun, resolve_init
from lsp.settings.compose import compose
from lsp.settings.config import Config, local_model_folder
from lsp.settings.gpus import GPUS
from lsp.settings.schema import with_value
from lsp.tools.text import markdown_table


def plan(config: Config) -> str:
    """The resolved settings and what follows from them, as text: sizes, memory by part, tokens,
    operations and hours. What is not known is named."""
    method = config.method
    n, g = config.num_queries, config.group_size
    written = n if method.queries == "challenger" else 0
    rows = n * g + (n if method.trains_challenger else 0)
    tokens = n * g * config.rollout.max_new_tokens + written * config.rollout.max_query_tokens
    judged = n * g if method.scores_quality else 0
    try:
        needs = _needs(step_size_of(config))
    except UnknownShape as error:
        needs = [f"  memory    not known: {error}"]
    lines = [
        dump_config(config).rstrip(),
        "",
        f"plan: {display_name(config)}",
        f"  method    {method.label}",
        f"  init      {_init_text(config)}",
        f"  model     {_model_text(config)}",
        f"  a step    {n} queries × {g} answers; {rows} rows in the loss, {judged} judged",
        f"            at most {tokens:,} sampled tokens",
        f"  in all    {config.num_steps} steps, {n * g * config.num_steps:,} answers,"
        f" at most {tokens * config.num_steps:,} sampled tokens",
        f"  run in    {config.run_dir or Path(config.runs_root) / '<run id>'}",
        *needs,
        *_labelled("reward", config.reward.calls(config)),
        "  judge     no win rate is judged in a run; `python -m eval run=<run> dry_run=true` tells"
        " what one costs",
    ]
    return "\n".join(lines)


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    """Lines of the plan under one label."""
    return [f"  {'' if i else label:<10}{line}" for i, line in enumerate(lines)]


def _needs(size: StepSize) -> list[str]:
    """Parameters, memory and hours."""
    hardware, dtype, memory = size.config.hardware, size.config.model.dtype, plan_memory(size)
    where = "a CPU's process, imports left out" if size.on_cpu else "each GPU"
    if size.gpus > 1:
        where += f" of {size.gpus} ({hardware.parallel})"
    unit, name = (GB, "GB") if memory.peak >= GB else (2**20, "MB")
    lines = [
        f"  weights   {parameters(size.shape):,} parameters, {trained_numbers(size):,} trained,"
        f" {dtype}",
        f"  memory    {memory.peak / unit:.1f} {name} at most in {where}, by phase and part",
    ]
    for phase, parts in memory.phases.items():
        shown = ", ".join(f"{part} {amount / unit:.1f}" for part, amount in parts.items())
        lines.append(f"    {phase:<8}{sum(parts.values()) / unit:6.1f}  {shown}")
    if here := machine_taken(size, memory):
        share = f"{here.share:.0%} of the {here.has / GB:.1f} GB that this machine has"
        lines.append(f"            {share}")
    if hardware.gpu_memory_gb is not None:
        lines.append(f"            of {hardware.gpu_memory_gb:g} GB (hardware.gpu_memory_gb)")
    uncounted = list(size.uncounted)
    if size.on_cpu:
        uncounted.append("what the C library keeps of freed memory, up to half as much again")
    lines += [f"            not counted: {text}" for text in uncounted]
    lines += [f"            warning: {text}" for text in crowding(size.config)]
    on_each = "in each process" if size.on_cpu else "on each GPU"
    lines.append(f"  work      a step {on_each}, every completion at its longest")
    for phase, time in phase_times(size).items():
        seconds = "" if isnan(time.seconds) else f", {time.seconds:8.1f} s"
        lines.append(
            f"    {phase:<8}{time.tokens:12,.0f} tokens, {time.flops / 1e12:9.3g} TFLOP{seconds}"
        )
    return [*lines, f"  hours     {_hours(size)}"]


def _hours(size: StepSize) -> str:
    hardware, gpu, dtype = size.config.hardware, size.gpu, size.config.model.dtype
    if measured := hardware.tokens_per_second:
        return (
            f"at most {total_hours(size):,.1f} on {size.gpus} × this machine's CPU: {measured:g}"
            " tokens a second decoded (hardware.tokens_per_second), all else at as many operations"
            " a second; optimizer and evaluation left out"
        )
    if hardware.gpu is not None:
        return (
            f"at most {total_hours(size):,.1f} on {size.gpus} × {gpu.label}"
            f" ({FLOPS_SHARE:.0%} of its {gpu.tflops(dtype):g} TFLOPS, decoding at"
            f" {BANDWIDTH_SHARE:.0%} of its {gpu.bandwidth:g} TB/s; {gpu.source}); evaluation left"
            " out"
        )
    name_it = "name a GPU with hardware.gpu"
    if not is_for_this_cpu(size.config):
        return f"not known: {name_it}"
    measure = "measure with python -m lsp.preflight <the same settings>"
    return f"not known: {measure}, or {name_it}"


def _init_text(config: Config) -> str:
    try:
        return resolve_init(config).text
    except RunError as error:
        if isinstance(error, NoEarlierRun) and config.world.makes_earlier_runs:
            return f"a run of method={config.init.source}, made first: there is none yet"
        return f"missing: {error}"


def _model_text(config: Config) -> str:
    folder = local_model_folder(config.model.name)
    if folder is None:
        return f"{config.model.name} from the Hub (not looked up in a dry run)"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return f"{config.model.name} ({kind}, {size / 1e6:.1f} MB of weights)"


WAYS: dict[str, dict[str, Any]] = {
    "full": {"model.lora.rank": 0, "hardware.parallel": "ddp"},
    "full, fsdp": {"model.lora.rank": 0, "hardware.parallel": "fsdp"},
    "LoRA": {"model.lora.rank": 16, "hardware.parallel": "ddp"},
}


def scaling_table() -> str:
    """paper_v1/lsp with other models on more GPUs, as a Markdown table: memory on each GPU and
    hours, a dash where it does not fit. No row has been measured."""
    heading = (
        "model",
        "GPUs",
        "trained",
        "GB on each",
        "hours, H100 80GB",
        "hours, H200 141GB",
        "",
    )
    rows = []
    run = ["experiment=paper_v1/lsp", "hardware=gpu_80gb"]
    configs = {name: compose([*run, f"model=llama_{name}"]) for name in ("1b", "3b", "8b", "70b")}
    for name, gpus, way in product(configs, (1, 8, 64), WAYS):
        if gpus == 1 and "fsdp" in way:
            continue
        hours, peak = [], 0.0
        for gpu in ("h100", "h200"):
            config = configs[name]
            for key, value in {"hardware.gpus": gpus, "hardware.gpu": gpu, **WAYS[way]}.items():
                config = with_value(config, key, value)
            size = step_size_of(config)
            peak = plan_memory(size).peak / GB
            fits = peak <= GPUS[gpu].memory_gb
            hours.append(f"{total_hours(size):,.0f}" if fits else "–")
        rows.append((name.upper(), f"{gpus}", way, f"{peak:.0f}", *hours, "planned"))
    return markdown_table(heading, rows).rstrip()
