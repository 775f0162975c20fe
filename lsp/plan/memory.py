"""A step's size goes in; the peak memory of one process comes out, by phase and part.

A phase's parts are what is allocated at its fullest moment. Between phases only *resident* parts
stay: weights, optimizer, and the frozen models. What a layer keeps for the backward pass is counted
tensor by tensor and agrees with autograd's saved tensors (tests/lsp/plan/test_plan.py);
docs/scaling.md compares whole processes.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from lsp.errors import RunError
from lsp.model import shapes
from lsp.plan.step_size import BYTES_PER_NUMBER, StepSize, is_for_this_cpu, step_size_of
from lsp.settings.config import Config, ModelShape
from lsp.settings.limits import PREFILL_TOKENS, SMALLEST_ONEDNN, TILE_ELEMENTS
from lsp.settings.schema import with_value
from lsp.tools.machine import memory_bytes, multiplies_bfloat16

GB = 2**30

CONTEXT_BYTES = GB
"""Allowance for what torch does not count on a GPU: the CUDA context, library workspaces, and
memory cut into pieces that nothing fits. Not measured here."""

CPU_CONTEXT_BYTES = 50 * 2**20
"""Code and buffers that the libraries touch once they work, beyond their imports: what the tiny
model of ``tests.bench.memory`` peaked at beyond its tensors."""

CROWDED = 0.8
"""Of a machine's memory; a plan that takes more is warned of."""

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


def plan_memory(size: StepSize) -> Memory:
    """The phases of a step; those that the method does not have are left out."""
    config, method, lengths = size.config, size.config.method, size.lengths
    # A second copy, whole on each GPU; under LoRA it is the policy's own frozen weights.
    whole_copy = 0 if config.model.lora.rank else shapes.parameters(size.shape) * size.number_bytes
    reference, reward, passes = {"reference": whole_copy}, {"reward model": 0}, [0.0]
    for model, shape in size.rewards:
        number_bytes = BYTES_PER_NUMBER[model.dtype]
        reward["reward model"] += shapes.parameters(shape, classifier=True) * number_bytes
        passes.append(_forward(shape, model.max_tokens, model.max_length, number_bytes))
    always = _resident(size) | ({} if config.hardware.offload else reference | reward)
    playing = always | _playing_weights(size)
    phases: dict[str, Parts] = {}
    if method.queries == "challenger":
        challenger = reference if method.challenger == "reference" else {}
        new = config.rollout.max_query_tokens
        cache = _generate(size, size.queries, 1, lengths.challenger, new)
        phases["queries"] = playing | challenger | cache
    new = config.rollout.max_new_tokens
    phases["answers"] = playing | _generate(size, size.answers, size.queries, lengths.solver, new)
    if size.rewards:
        phases["reward"] = always | reward | {"activations": max(passes)}
    if method.scores_quality:
        if written := config.self_reward.written_tokens:
            judging = _generate(size, size.answers, size.answers, lengths.judge, written)
        else:
            tokens = min(PREFILL_TOKENS, size.answers * lengths.judge)
            one_pass = _forward(size.shape, tokens, lengths.judge, size.number_bytes)
            judging = {"activations": one_pass}
        phases["quality"] = always | reference | judging
    phases["update"] = always | reference | _update(size)
    context = {"context": CPU_CONTEXT_BYTES if size.on_cpu else CONTEXT_BYTES}
    for phase, parts in phases.items():
        phases[phase] = {name: held for name, held in (parts | context).items() if held}
    return Memory(phases)


def trained_numbers(size: StepSize) -> int:
    """Weights that are trained, or the adapters'."""
    rank, shape = size.config.model.lora.rank, size.shape
    return shapes.lora_parameters(shape, rank) if rank else shapes.parameters(shape)


def _trained_here(size: StepSize) -> float:
    """Those of them that one GPU holds."""
    return size.share * trained_numbers(size)


def _outside_layers(shape: ModelShape) -> float:
    """Embedding, last norm and vocabulary head."""
    return shapes.parameters(shape) - shape.layers * shapes.layer_parameters(shape)


def _resident(size: StepSize) -> Parts:
    """Always there. What is trained is fp32, whatever it computes in, with AdamW's two moments (4
    bytes each); DDP keeps its buffer of gradients."""
    trained = _trained_here(size)
    frozen = shapes.parameters(size.shape) if size.config.model.lora.rank else 0
    return {
        "weights": trained * 4 + frozen * size.number_bytes,
        "optimizer": trained * 8,
        "gradients": trained * 4 if size.gpus > 1 and size.share == 1 else 0,
        "base to compare with": shapes.parameters(size.shape) * size.number_bytes
        if size.second_base
        else 0,
    }


def _playing_weights(size: StepSize) -> Parts:
    """Copies of weights while rows are decoded: FSDP gathers whole ones, once a step; those that
    are fp32 beneath another dtype are rounded; of fp32 ones the engine packs those of the larger
    products on a CPU, and merges adapters elsewhere."""
    shape, parts = size.shape, {}
    if size.share < 1:
        parts["gathered weights"] = shapes.parameters(shape) * size.number_bytes
    elif size.number_bytes < 4:
        parts["rounded weights"] = _trained_here(size) * size.number_bytes
    if size.number_bytes == 4 and size.config.rollout.engine.in_process:
        products = [a * b for a, b in shapes.linear_layers(shape)] * shape.layers
        head = shape.vocabulary * shape.hidden
        if size.on_cpu:
            packed = [n for n in (*products, head) if n >= SMALLEST_ONEDNN]
            parts["packed weights"] = 4 * sum(packed)
        elif size.config.model.lora.rank:
            parts["merged weights"] = 4 * sum(products)
    return parts


def _generate(size: StepSize, rows: int, prompts: int, prompt: int, new: int) -> Parts:
    """One chunk of the engine: its cache, and the larger of what prefill and decoding need; nothing
    where it writes elsewhere."""
    if not size.config.rollout.engine.in_process:
        return {}
    shape, number_bytes = size.shape, size.number_bytes
    at_once = min(rows, size.rows_at_once(prompt, new))
    distinct = min(prompts, math.ceil(at_once * prompts / rows) + 1)
    cached = shapes.cache_bytes(shape, number_bytes)
    tokens = min(max(PREFILL_TOKENS, prompt), distinct * prompt)
    prefill = _forward(shape, tokens, prompt, number_bytes) + tokens * cached
    # Where heads share keys, attention under a mask repeats them, one layer at a time.
    repeated = 2 * shape.heads * shape.head_size * number_bytes * (shape.heads != shape.kv_heads)
    # The logits, their exponentials, the same in blocks, and the difference that is gathered from.
    decode = at_once * (shape.vocabulary * 4 * 4 + (prompt + new) * repeated)
    return {"KV cache": at_once * (prompt + new) * cached, "activations": max(prefill, decode)}


def _forward(shape: ModelShape, tokens: int, longest: int, number_bytes: int) -> float:
    """A pass without gradient over padded tokens in rows of ``longest``: the MLP's three
    intermediates, two hidden states, and the mask in bits and in numbers."""
    mlp = (3 * shape.intermediate + 2 * shape.hidden) * number_bytes
    return max(tokens, longest) * (mlp + longest * (1 + number_bytes))


def _update(size: StepSize) -> Parts:
    """The fullest moment of a micro-batch: everything kept, and the last layer going backward."""
    config, shape, number_bytes = size.config, size.shape, size.number_bytes
    rank = config.model.lora.rank
    batches = [_batch(config.optim.micro_batch_tokens, *rows) for rows in size.trained_rows]
    prompt, completion, rows, context = max(batches, key=lambda batch: batch[0] + batch[1])
    hidden_state = (prompt + completion) * shape.hidden * number_bytes
    one_layer = layer_saves(shape, number_bytes, rank, prompt)
    one_layer += layer_saves(shape, number_bytes, rank, completion, rows, context)
    backward = 3 * hidden_state + 3 * (prompt + completion) * shape.intermediate * number_bytes
    states = 6 * hidden_state
    kept, again, rounded = shape.layers * one_layer, 0.0, _trained_here(size)
    if config.optim.gradient_checkpointing:
        kept, again = shape.layers * hidden_state, one_layer
        rounded = min(rounded, _outside_layers(shape) + shapes.layer_parameters(shape))
    every = config.optim.role_gradients_every
    # Two layers' weights are gathered at a time, and one layer's gradients go out.
    gathered = shapes.layer_parameters(shape) * (2 * number_bytes + 4)
    gathered += _outside_layers(shape) * number_bytes
    always = {
        "gradients": _trained_here(size) * 4,  # fp32, also of bfloat16 weights
        "gathered weights": gathered if size.share < 1 else 0,
        "rounded weights": rounded * number_bytes if number_bytes < 4 and size.share == 1 else 0,
        "role gradients": 4 * _trained_here(size) if every and len(batches) == 2 else 0,
    }
    # In full training: the head's fp32 gradient, what a tile adds to it, and at the end of the
    # backward pass the embedding's, before they are added to what is there.
    table = 0 if rank else shape.vocabulary * shape.hidden
    # oneDNN lays a weight that is not packed out anew for the product.
    reordered = 4 * shape.vocabulary * shape.hidden * (size.on_cpu and number_bytes == 4)
    # Logits of a tile in fp32 and their probabilities; in bfloat16 also as they came and went.
    tile = min(TILE_ELEMENTS, completion * shape.vocabulary)
    tile *= 8 + 2 * number_bytes * (number_bytes == 2)
    moments = [
        {"activations": kept + states, "head": tile + 8 * table + reordered},
        {"activations": kept + states + again + backward, "head": 4 * table},
        {"head": (4 + 2 * number_bytes) * table},
    ]
    return always | max(moments, key=lambda parts: sum(parts.values()))


def _batch(budget: int, rows: int, prompts: int, prompt: int, new: int) -> tuple[int, ...]:
    """(prompt tokens, completion tokens, rows, columns that a completion sees) of the largest
    micro-batch that ``lsp.batch.pack`` makes of full-length rows."""
    fits, group = 1, rows // prompts
    while fits < rows and math.ceil((fits + 1) / group) * prompt + (fits + 1) * new <= budget:
        fits += 1
    return math.ceil(fits / group) * prompt, fits * new, fits, prompt + new


def layer_saves(
    shape: ModelShape, number_bytes: int, rank: int, tokens: int, rows: int = 0, context: int = 0
) -> float:
    """Bytes that a decoder layer keeps of ``tokens`` for its backward pass. Completions stand in
    ``rows`` that see ``context`` columns each, under a mask that is kept in numbers, by keys and
    values that are repeated for each head; prompts (no rows) see themselves. What only frozen
    weights' gradients would need is not kept."""
    heads, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    for_weights = 0 if rank else number_bytes
    norms = 2 * shape.hidden * (4 + number_bytes + for_weights)
    norms += shape.qk_norm * (heads + kv) * (4 + for_weights)
    keys = 2 * heads * rows * context + tokens * context if rows else 2 * kv * tokens
    attention = (2 * heads * tokens + keys) * number_bytes + tokens * (4 * shape.heads + 8)
    mlp = 4 * shape.intermediate * number_bytes
    return tokens * (norms + mlp + 7 * rank * number_bytes) + attention


def savings(config: Config) -> list[tuple[str, float]]:
    """Settings that would lower the peak, alone, and by how many bytes; the largest first."""
    size = step_size_of(config)
    whole, rank = plan_memory(size).peak, config.model.lora.rank
    changes: dict[str, Any] = {
        "model.dtype": "bfloat16",
        "model.lora.rank": rank or 16,
        "optim.gradient_checkpointing": True,
        "optim.micro_batch_tokens": max(1, config.optim.micro_batch_tokens // 2),
        "rollout.max_rows": max(1, config.rollout.max_rows // 2),
        "hardware.offload": True,
        "hardware.parallel": "ddp" if rank else "fsdp",
        "optim.role_gradients_every": 0,
    }
    if size.on_cpu:  # where else could they go
        del changes["hardware.offload"]
    saved = []
    for key, value in changes.items():
        changed = step_size_of(with_value(config, key, value))
        saved.append((f"{key}={str(value).lower()}", whole - plan_memory(changed).peak))
    return sorted((pair for pair in saved if pair[1] > 0.01 * whole), key=lambda pair: -pair[1])


def refuse_impossible(config: Config) -> None:
    """Raises RunError with the way out where a run needs more than ``hardware.gpu_memory_gb`` on
    one GPU, or, on a CPU, more than this machine has. What cannot be counted is not held against
    it; the plan names that."""
    limit = config.hardware.gpu_memory_gb
    if limit is None and not is_for_this_cpu(config):
        return
    try:
        size = step_size_of(config)
        memory = plan_memory(size)
    except shapes.UnknownShape:
        return
    needs = f"this run needs {memory.peak / GB:.1f} GB"
    if limit is not None and memory.peak > limit * GB:
        needs += (
            f" on one GPU in its phase {memory.fullest!r}, and hardware.gpu_memory_gb={limit:g}"
        )
        other = "a larger hardware=…"
    elif (here := machine_taken(size, memory)) and here.share > 1:
        needs += f" in each of {size.gpus} processes" if size.gpus > 1 else ""
        needs += f" in its phase {memory.fullest!r}, and this machine, on whose CPU it would"
        needs += f" compute, has {here.has / GB:.1f} GB"
        other = "name the GPU that it is for (hardware=gpu_80gb)"
    else:
        return
    ways = [f"{setting} saves {saved / GB:.1f} GB" for setting, saved in savings(config)]
    alone = ", ".join(ways) or "no setting helps"
    raise RunError(f"{needs}; alone, {alone}; or choose a smaller model.name, or {other}")


class MachineTaken(NamedTuple):
    """``share``: of the ``has`` bytes of this machine's memory, all processes at their peak."""

    share: float
    has: float


def machine_taken(size: StepSize, memory: Memory) -> MachineTaken | None:
    """Where a run computes on this machine's CPU, and its memory is known."""
    has = memory_bytes() if is_for_this_cpu(size.config) else None
    processes = min(size.gpus, int(os.environ.get("LOCAL_WORLD_SIZE", size.gpus)))
    return None if has is None else MachineTaken(processes * memory.peak / has, has)


def crowding(config: Config) -> list[str]:
    """Warnings of a run on this CPU: it needs most of what the machine has, or a dtype that the
    CPU does not multiply."""
    if not is_for_this_cpu(config):
        return []
    found = []
    if config.model.dtype == "bfloat16" and multiplies_bfloat16() is False:
        found.append(
            "this CPU does not multiply bfloat16 (no avx512_bf16 and no amx_bf16 in /proc/cpuinfo):"
            " its products take some three times as long as with model.dtype=float32"
        )
    try:
        size = step_size_of(config)
        here = machine_taken(size, plan_memory(size))
    except shapes.UnknownShape:
        return found
    if here is not None and here.share > CROWDED:
        found.append(
            f"the plan takes {here.share:.0%} of this machine's {here.has / GB:.1f} GB, and a"
            " process may hold up to half as much again (docs/scaling.md): it may be killed for"
            " want of memory"
        )
    return found
