"""What a config comes to, before anything loads: ``dry_run=true``.

python -m lsp.plan      # the table of docs/scaling.md
"""

from __future__ import annotations

import json
from pathlib import Path

from lsp.errors import RunError
from lsp.model.shapes import UnknownShape, parameters
from lsp.plan.hours import BANDWIDTH_SHARE, FLOPS_SHARE, work_of
from lsp.plan.memory import GB, memory_of, trained_parameters
from lsp.plan.step_size import Job, job_of
from lsp.run.folder import display_name, dump_config
from lsp.run.init import NoEarlierRun, resolve_init
from lsp.settings.compose import compose
from lsp.settings.config import Config, local_model_folder
from lsp.settings.gpus import GPUS


def plan(config: Config) -> str:
    """The resolved settings and what follows from them, as text: sizes, memory by part, tokens,
    operations and hours. What is not known is named."""
    method = config.method
    n, g = config.num_queries, config.group_size
    asked = n if method.queries == "challenger" else 0
    rows = n * g + (n if method.trains_challenger else 0)
    tokens = n * g * config.rollout.max_new_tokens + asked * config.rollout.max_query_tokens
    judged = n * g if method.scores_quality else 0
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
        *_needs(config),
        "  judge     no judge is asked in a run; `python -m eval run=<run> dry_run=true` tells what"
        " a win rate costs",
    ]
    return "\n".join(lines)


def _needs(config: Config) -> list[str]:
    """Parameters, memory and work; or why they are not known."""
    try:
        job = job_of(config)
    except UnknownShape as error:
        return [f"  memory    not known: {error}"]
    trained, whole = trained_parameters(job), parameters(job.shape)
    lines = [f"  weights   {whole:,} parameters, {trained:,} trained, {config.model.dtype}"]
    return [*lines, *_memory_lines(job), *_work_lines(job)]


def _memory_lines(job: Job) -> list[str]:
    hardware = job.config.hardware
    memory = memory_of(job)
    where = "a CPU's process, imports left out" if job.on_cpu else "each GPU"
    if job.gpus > 1:
        where += f" of {job.gpus} ({hardware.parallel})"
    unit, name = (GB, "GB") if memory.peak >= GB else (2**20, "MB")
    lines = [f"  memory    {memory.peak / unit:.1f} {name} at most in {where}, by phase and part"]
    for phase, parts in memory.phases.items():
        told = ", ".join(f"{part} {size / unit:.1f}" for part, size in parts.items())
        lines.append(f"    {phase:<8}{sum(parts.values()) / unit:6.1f}  {told}")
    if hardware.gpu_memory_gb is not None:
        lines.append(f"            of {hardware.gpu_memory_gb:g} GB (hardware.gpu_memory_gb)")
    missing = list(job.missing)
    if job.on_cpu:
        missing.append("what the C library keeps of freed memory, up to half as much again")
    return lines + [f"            not counted: {text}" for text in missing]


def _work_lines(job: Job) -> list[str]:
    config = job.config
    work = work_of(job)
    lines = ["  work      a step on each GPU, every completion at its longest"]
    for phase, part in work.items():
        seconds = "" if part.seconds is None else f", {part.seconds:8.1f} s"
        lines.append(
            f"    {phase:<11}{part.tokens:12,.0f} tokens, {part.flops / 1e12:9.3g} TFLOP{seconds}"
        )
    hours = hours_of(job)
    if hours is None:
        return [*lines, "  hours     not known: name a card with hardware.gpu"]
    card = GPUS[config.hardware.gpu]
    return [
        *lines,
        f"  hours     at most {hours:,.1f} on {job.gpus} × {card.label}"
        f" ({FLOPS_SHARE:.0%} of its {card.tflops[config.model.dtype]:g} TFLOPS, decoding at"
        f" {BANDWIDTH_SHARE:.0%} of its {card.bandwidth:g} TB/s; {card.source});"
        " evaluation left out",
    ]


def hours_of(job: Job) -> float | None:
    """Of all steps; None where no card is named."""
    seconds = [part.seconds for part in work_of(job).values()]
    if any(second is None for second in seconds):
        return None
    return sum(seconds) * job.config.num_steps / 3600


def _init_text(config: Config) -> str:
    try:
        return resolve_init(config).text
    except NoEarlierRun as error:
        if config.world.makes_earlier_runs:
            return f"a run of method={config.init.source}, made first: there is none yet"
        return f"missing: {error}"
    except RunError as error:
        return f"missing: {error}"


def _model_text(config: Config) -> str:
    folder = local_model_folder(config.model.name)
    if folder is None:
        return f"{config.model.name} from the Hub (not looked up in a dry run)"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return f"{config.model.name} ({kind}, {size / 1e6:.1f} MB of weights)"


MODELS = {"1B": "llama_1b", "3B": "llama_3b", "8B": "llama_8b", "70B": "llama_70b"}
WAYS = {
    "full": ["model.lora.rank=0", "hardware.parallel=ddp"],
    "full, fsdp": ["model.lora.rank=0", "hardware.parallel=fsdp"],
    "LoRA": ["model.lora.rank=16", "hardware.parallel=ddp"],
}


def scaling_table() -> str:
    """paper_v1/lsp with other models on more GPUs, as a Markdown table: memory on each GPU and
    hours, a dash where it does not fit."""
    lines = [
        "| model | GPUs | trained | GB on each | hours, H100 80GB | hours, H200 141GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        for gpus in (1, 8, 64):
            for way, settings in WAYS.items():
                if gpus == 1 and "fsdp" in way:
                    continue
                given = ["experiment=paper_v1/lsp", "hardware=gpu_80gb", f"model={model}",
                         f"hardware.gpus={gpus}", *settings]  # fmt: skip
                cells = []
                for card in ("h100", "h200"):
                    job = job_of(compose([*given, f"hardware.gpu={card}"]))
                    peak, hours = memory_of(job).peak / GB, hours_of(job)
                    fits = peak <= GPUS[card].memory_gb
                    cells.append(f"{hours:,.0f}" if fits else "–")
                lines.append(f"| {name} | {gpus} | {way} | {peak:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)
