"""A step's size goes in; tokens, operations and seconds of each phase on one GPU come out, every
completion at its full length. What GPUs tell each other is not counted."""

import math
from dataclasses import dataclass

from lsp.model.shapes import cache_bytes, forward_flops, parameters
from lsp.plan.memory import trained_numbers
from lsp.plan.step_size import StepSize
from lsp.settings.gpus import GPUS

FLOPS_SHARE = 0.4
"""Of a GPU's peak in training and scoring: what Llama 3's training reached on H100s is 0.38 to
0.43 (arXiv 2407.21783, table 4). An assumption here."""

BANDWIDTH_SHARE = 0.6
"""Of a GPU's memory bandwidth while decoding: this project's aim, an assumption."""


@dataclass(frozen=True)
class PhaseTime:
    """Of one phase on one GPU: tokens, floating-point operations, seconds (None: no GPU named)."""

    tokens: float
    flops: float
    seconds: float | None


def total_hours(size: StepSize) -> float | None:
    """Of all steps; None where no GPU is named."""
    seconds = [phase.seconds for phase in phase_times(size).values()]
    if None in seconds:
        return None
    return sum(seconds) * size.config.num_steps / 3600


def phase_times(size: StepSize) -> dict[str, PhaseTime]:
    """Phase -> what it takes in one step; those that the method does not have are left out."""
    config, shape, lengths = size.config, size.shape, size.lengths
    rollout, method = config.rollout, config.method
    times = {}
    if config.rollout.engine.in_process:
        if method.queries == "challenger":
            limit = rollout.max_query_tokens
            times["queries"] = _decoding(size, size.queries, 1, lengths.challenger, limit)
        times["answers"] = _decoding(
            size, size.answers, size.queries, lengths.solver, rollout.max_new_tokens
        )
    for model, classifier in size.rewards:
        length = min(model.max_length, lengths.solver + rollout.max_new_tokens)
        tokens = size.answers * length
        flops = forward_flops(classifier, tokens, length / 2)
        times["reward"] = _computing(size, model.dtype, tokens, flops, times.get("reward"))
    written = config.self_reward.written_tokens
    if method.scores_quality and not written:
        tokens = size.answers * lengths.judge
        flops = forward_flops(shape, tokens, lengths.judge / 2, size.answers)
        times["quality"] = _computing(size, config.model.dtype, tokens, flops)
    elif method.scores_quality and rollout.engine.in_process:
        times["quality"] = _decoding(size, size.answers, size.answers, lengths.judge, written)
    times["update"] = _update(size)
    return times


def _computing(
    size: StepSize, dtype: str, tokens: float, flops: float, before: PhaseTime | None = None
) -> PhaseTime:
    """At the GPU's rate of operations; added to what was done ``before`` in the same phase."""
    gpu, before = GPUS.get(size.config.hardware.gpu), before or PhaseTime(0, 0, 0)
    seconds = None
    if gpu is not None:
        seconds = before.seconds + flops / (gpu.tflops(dtype) * 1e12 * FLOPS_SHARE)
    return PhaseTime(before.tokens + tokens, before.flops + flops, seconds)


def _decoding(size: StepSize, rows: int, prompts: int, prompt: int, new: int) -> PhaseTime:
    """Prefill is bounded by operations; each decode step reads all weights and the cache so far."""
    shape, config = size.shape, size.config
    flops = forward_flops(shape, prompts * prompt, prompt / 2, prompts)
    prefill = _computing(size, config.model.dtype, prompts * prompt, flops)
    flops = forward_flops(shape, rows * new, prompt + new / 2, rows * new)
    decode = _computing(size, config.model.dtype, rows * new, flops)
    seconds = None
    if prefill.seconds is not None and decode.seconds is not None:
        chunks = math.ceil(rows / size.rows_at_once(prompt, new))
        read = chunks * new * parameters(shape) * size.number_bytes
        read += rows * new * (prompt + new / 2) * cache_bytes(shape, size.number_bytes)
        bandwidth = GPUS[config.hardware.gpu].bandwidth * 1e12 * BANDWIDTH_SHARE
        seconds = prefill.seconds + max(decode.seconds, read / bandwidth)
    return PhaseTime(prefill.tokens + decode.tokens, prefill.flops + decode.flops, seconds)


def _update(size: StepSize) -> PhaseTime:
    """Reference and policy go forward (1 and 1), backward takes 2 (1 under LoRA, whose weights'
    gradients are small), checkpointing one forward pass more."""
    config, lengths = size.config, size.lengths
    rollout, dtype = config.rollout, config.model.dtype
    roles = [(size.answers, size.queries, lengths.solver, rollout.max_new_tokens)]
    if config.method.trains_challenger:
        roles.append((size.queries, 1, lengths.challenger, rollout.max_query_tokens))
    passes = 2 + (1 if config.model.lora.rank else 2) + config.optim.gradient_checkpointing
    tokens = flops = 0.0
    for rows, prompts, prompt, new in roles:
        tokens += rows * new + prompts * prompt
        forward = forward_flops(size.shape, prompts * prompt, prompt / 2)
        forward += forward_flops(size.shape, rows * new, prompt + new / 2, rows * new)
        flops += passes * forward
    products = _computing(size, dtype, tokens, flops)
    if products.seconds is None:
        return products
    # The optimizer reads and writes weights, gradients and both moments.
    states = trained_numbers(size) * (2 * size.number_bytes + 4 + 4 * 4)
    seconds = products.seconds + states / (GPUS[config.hardware.gpu].bandwidth * 1e12)
    return PhaseTime(tokens, flops, seconds)
