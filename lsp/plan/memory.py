"""Peak memory of one process by part and phase, from shapes and settings alone.

A phase's parts are what is allocated at its fullest moment. Between phases only *resident* parts
stay: weights, optimizer, and the frozen models. What a layer keeps for the backward pass is counted
tensor by tensor and agrees with autograd's saved tensors (tests/lsp/plan/test_plan.py); docs/scaling.md
compares whole processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lsp.errors import RunError
from lsp.model.shapes import (
    UnknownShape,
    cache_bytes,
    layer_parameters,
    linear_layers,
    lora_parameters,
    parameters,
)
from lsp.plan.step_size import WIDTH, Job, job_of
from lsp.settings.config import Config, ModelShape
from lsp.settings.limits import PREFILL_TOKENS, SMALLEST_ONEDNN, TILE_ELEMENTS
from lsp.settings.schema import with_value

GB = 2**30

CONTEXT_BYTES = GB
"""Allowance for what torch does not count on a GPU: the CUDA context, library workspaces, and
memory cut into pieces that nothing fits. Not measured here."""

CPU_CONTEXT_BYTES = 50 * 2**20
"""Code and buffers that the libraries touch once they work, beyond their imports: what the tiny
model of ``tests.bench.memory`` peaked at beyond its tensors."""

Parts = dict[str, float]


@dataclass(frozen=True)
class Memory:
    """Phase -> part -> bytes, on one GPU (or in one process on a CPU, its imports left out)."""

    phases: dict[str, Parts]

    @property
    def fullest(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        return sum(self.phases[self.fullest].values())


def memory_of(job: Job) -> Memory:
    """The plan of a step's phases; those that the method does not have are left out."""
    config = job.config
    offload = config.hardware.offload
    resident = _resident(job)
    reference, reward = _reference(job), _reward_models(job)
    away: Parts = {} if offload else {"reference": reference, "reward model": reward}
    asks = config.method.challenger == "reference" and config.method.queries == "challenger"
    phases = {
        "play": resident | away | ({"reference": reference} if asks else {}) | _play(job),
        "update": resident | away | {"reference": reference} | _update(job),
    }
    if job.rewards:
        reads = max(_forward(shape, r.max_tokens, r.max_length, WIDTH[r.dtype])
                    for r, shape in job.rewards)  # fmt: skip
        phases["reward"] = resident | away | {"reward model": reward, "activations": reads}
    if config.method.scores_quality:
        phases["judge"] = resident | away | {"reference": reference} | _judge(job)
    context = {"context": CPU_CONTEXT_BYTES if job.on_cpu else CONTEXT_BYTES}
    phases = {name: parts | context for name, parts in phases.items()}
    return Memory({name: {k: v for k, v in parts.items() if v} for name, parts in phases.items()})


def trained_parameters(job: Job) -> int:
    """Of the policy: all of them, or the adapters'."""
    rank = job.config.model.lora.rank
    return lora_parameters(job.shape, rank) if rank else parameters(job.shape)


def _sharded(job: Job) -> float:
    """Share of a decoder layer's numbers that one GPU holds."""
    return 1 / job.gpus if job.config.hardware.parallel == "fsdp" else 1.0


def _resident(job: Job) -> Parts:
    """Always there. bfloat16 weights have fp32 masters; AdamW's two moments are fp32 (4 bytes
    each)."""
    shape, rank, width = job.shape, job.config.model.lora.rank, job.width
    share = _sharded(job)
    in_layers = shape.layers * layer_parameters(shape)
    adapters = lora_parameters(shape, rank)
    frozen = share * in_layers + parameters(shape) - in_layers
    held = share * adapters + frozen
    trained = _trained(job)
    return {
        "weights": held * width,
        "fp32 masters": trained * 4 if width == 2 else 0,
        "optimizer": trained * 8,
        "base to compare with": parameters(shape) * width if job.second_base else 0,
    }


def _trained(job: Job) -> float:
    """Numbers that one GPU's optimizer changes."""
    shape, rank, share = job.shape, job.config.model.lora.rank, _sharded(job)
    in_layers = shape.layers * layer_parameters(shape)
    if rank:
        return share * lora_parameters(shape, rank)
    return share * in_layers + parameters(shape) - in_layers


def _reference(job: Job) -> float:
    """A second copy, whole on each GPU; under LoRA it is the policy's own frozen weights."""
    return 0 if job.config.model.lora.rank else parameters(job.shape) * job.width


def _reward_models(job: Job) -> float:
    return sum(parameters(shape, True) * WIDTH[reward.dtype] for reward, shape in job.rewards)


def _play(job: Job) -> Parts:
    """Both roles write in turn; the larger counts. FSDP gathers whole weights once a play."""
    config, shape, lengths = job.config, job.shape, job.lengths
    in_layers = shape.layers * layer_parameters(shape)
    solver = _generate(job, job.answers, job.queries, lengths.solver, config.rollout.max_new_tokens)
    written = [solver]
    if config.method.queries == "challenger":
        limit = config.rollout.max_query_tokens
        written.append(_generate(job, job.queries, 1, lengths.challenger, limit))
    parts = max(written, key=lambda parts: sum(parts.values()))
    fsdp = config.hardware.parallel == "fsdp" and job.gpus > 1
    return parts | {
        "gathered weights": in_layers * job.width if fsdp else 0,
        "packed weights": _packed(job),
    }


def _packed(job: Job) -> float:
    """Copies of the products' weights while rows are decoded in fp32 on a CPU."""
    if not job.on_cpu or job.width != 4:
        return 0
    shape = job.shape
    sizes = [a * b for a, b in linear_layers(shape)] * shape.layers
    return 4 * sum(n for n in [*sizes, shape.vocabulary * shape.hidden] if n >= SMALLEST_ONEDNN)


def _generate(job: Job, rows: int, prompts: int, prompt: int, new: int) -> Parts:
    """One chunk of the engine: its cache, and the larger of what prefill and decoding need."""
    shape, width = job.shape, job.width
    at_once = min(rows, job.rows_at_once(prompt, new))
    distinct = min(prompts, math.ceil(at_once * prompts / rows) + 1)
    cached = cache_bytes(shape, width)
    tokens = min(max(PREFILL_TOKENS, prompt), distinct * prompt)
    prefill = _forward(shape, tokens, prompt, width) + tokens * cached
    # Where heads share keys, attention under a mask repeats them, one layer at a time.
    repeated = 2 * shape.heads * shape.head_size * width * (shape.heads != shape.kv_heads)
    # The logits, their exponentials, the same in blocks, and the difference that is gathered from.
    decode = at_once * (shape.vocabulary * 4 * 4 + (prompt + new) * repeated)
    return {
        "KV cache": at_once * (prompt + new) * cached,
        "activations": max(prefill, decode),
    }


def _forward(shape: ModelShape, tokens: int, longest: int, width: int) -> float:
    """A pass without gradient over padded tokens in rows of ``longest``: the MLP's three
    intermediates, two hidden states, and the mask in bits and in numbers."""
    mlp = (3 * shape.intermediate + 2 * shape.hidden) * width
    return max(tokens, longest) * (mlp + longest * (1 + width))


def _judge(job: Job) -> Parts:
    written = job.config.self_reward.written_tokens
    if written:
        return _generate(job, job.answers, job.answers, job.lengths.judge, written)
    tokens = min(PREFILL_TOKENS, job.answers * job.lengths.judge)
    return {"activations": _forward(job.shape, tokens, job.lengths.judge, job.width)}


def _update(job: Job) -> Parts:
    """The fullest moment of a micro-batch: everything kept, and the last layer going backward."""
    config, shape, width = job.config, job.shape, job.width
    rank = config.model.lora.rank
    rollout, budget = config.rollout, config.optim.micro_batch_tokens
    batches = [_batch(budget, job.answers, config.group_size, job.lengths.solver,
                      rollout.max_new_tokens)]  # fmt: skip
    if config.method.trains_challenger:
        batches.append(_batch(budget, job.queries, job.queries, job.lengths.challenger,
                              rollout.max_query_tokens))  # fmt: skip
    prompt, completion, rows, context = max(batches, key=lambda batch: batch[0] + batch[1])
    tokens = prompt + completion
    one = layer_saves(shape, width, rank, prompt)
    one += layer_saves(shape, width, rank, completion, rows, context)
    backward = tokens * (3 * shape.intermediate + 3 * shape.hidden) * width
    states = 6 * tokens * shape.hidden * width
    kept, again = shape.layers * one, 0.0
    if config.optim.gradient_checkpointing:
        kept, again = shape.layers * tokens * shape.hidden * width, one
    sharded = _sharded(job) < 1
    every = config.optim.role_gradients_every
    always = {
        "gradients": _trained(job) * 4,  # fp32, also of bfloat16 weights
        # Two layers' weights are gathered at a time, and one layer's gradients go out.
        "gathered weights": layer_parameters(shape) * (2 * width + 4 * (not rank)) * sharded,
        "role gradients": 4 * trained_parameters(job) if every and len(batches) == 2 else 0,
    }
    # In full training: the head's fp32 gradient, what a tile adds to it, and at the end of the
    # backward pass the embedding's, before they are added to what is there.
    table = 0 if rank else shape.vocabulary * shape.hidden
    # oneDNN lays a weight that is not packed out anew for the product.
    reordered = 4 * shape.vocabulary * shape.hidden * (job.on_cpu and width == 4)
    moments = [
        {"activations": kept + states, "head": _tile(job, completion) + 8 * table + reordered},
        {"activations": kept + states + again + backward, "head": 4 * table},
        {"head": (4 + 2 * width) * table},
    ]
    return always | max(moments, key=lambda parts: sum(parts.values()))


def _batch(budget: int, rows: int, group: int, prompt: int, new: int) -> tuple[int, int, int, int]:
    """(prompt tokens, completion tokens, rows, columns that a completion sees) of the largest
    micro-batch that ``lsp.batch.pack`` makes of full-length rows."""
    fits = 1
    while fits < rows and math.ceil((fits + 1) / group) * prompt + (fits + 1) * new <= budget:
        fits += 1
    return math.ceil(fits / group) * prompt, fits * new, fits, prompt + new


def layer_saves(
    shape: ModelShape, width: int, rank: int, tokens: int, rows: int = 0, context: int = 0
) -> float:
    """Bytes that a decoder layer keeps of ``tokens`` for its backward pass. Completions stand in
    ``rows`` that see ``context`` columns each, under a mask that is kept in numbers, by keys and
    values that are repeated for each head; prompts (no rows) see themselves. What only frozen
    weights' gradients would need is not kept."""
    heads = shape.heads * shape.head_size
    kv = shape.kv_heads * shape.head_size
    norms = 2 * shape.hidden * (4 + width + (0 if rank else width))
    if shape.qk_norm:
        norms += (heads + kv) * (4 + (0 if rank else width))
    keys = 2 * heads * rows * context + tokens * context if rows else 2 * kv * tokens
    attention = (2 * heads * tokens + keys) * width + tokens * (4 * shape.heads + 8)
    mlp = 4 * shape.intermediate * width
    return tokens * (norms + mlp + 7 * rank * width) + attention


def _tile(job: Job, tokens: int) -> float:
    """Logits of a tile in fp32 and their probabilities; in bfloat16 also as they came and go."""
    elements = min(TILE_ELEMENTS, tokens * job.shape.vocabulary)
    return elements * (8 + 2 * job.width * (job.width == 2))


def savings(config: Config) -> list[tuple[str, float]]:
    """Settings that would lower the peak, alone, and by how many bytes; the largest first."""
    job = job_of(config)
    whole = memory_of(job).peak
    rollout, optim = config.rollout, config.optim
    changes: list[tuple[str, Any, bool]] = [
        ("model.dtype", "bfloat16", config.model.dtype == "float32"),
        ("model.lora.rank", 16, not config.model.lora.rank),
        ("optim.gradient_checkpointing", True, not optim.gradient_checkpointing),
        ("optim.micro_batch_tokens", optim.micro_batch_tokens // 2, optim.micro_batch_tokens > 1),
        ("rollout.max_rows", rollout.max_rows // 2, rollout.max_rows > 1),
        ("hardware.offload", True, not config.hardware.offload),
        ("hardware.parallel", "fsdp", job.gpus > 1 and not config.model.lora.rank),
        ("optim.role_gradients_every", 0, bool(optim.role_gradients_every)),
    ]
    found = [
        (f"{key}={str(value).lower() if isinstance(value, bool) else value}",
         whole - memory_of(job_of(with_value(config, key, value))).peak)
        for key, value, possible in changes if possible
    ]  # fmt: skip
    return sorted((c for c in found if c[1] > 0.01 * whole), key=lambda c: -c[1])


def refuse_impossible(config: Config) -> None:
    """Raises RunError with the way out where a run needs more than ``hardware.gpu_memory_gb`` on
    one GPU. What cannot be counted is not held against it; the plan names that."""
    limit = config.hardware.gpu_memory_gb
    if limit is None:
        return
    try:
        memory = memory_of(job_of(config))
    except UnknownShape:  # nothing to hold against it
        return
    if memory.peak <= limit * GB:
        return
    ways = [f"{setting} saves {saved / GB:.1f} GB" for setting, saved in savings(config)]
    raise RunError(
        f"this run needs {memory.peak / GB:.1f} GB on one GPU in its phase {memory.fullest!r}, and"
        f" hardware.gpu_memory_gb={limit:g}; alone, {', '.join(ways) or 'no setting helps'}; or"
        " choose a smaller model.name, or a larger hardware=…"
    )
