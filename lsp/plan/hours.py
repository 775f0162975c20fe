"""A step's size goes in; tokens, operations and seconds of each phase in one process come out,
every completion at its full length. What processes tell each other is not counted."""

import math
from typing import NamedTuple

from lsp.model.shapes import cache_bytes, forward_flops, parameters
from lsp.plan.memory import trained_numbers
from lsp.plan.step_size import StepSize

FLOPS_SHARE = 0.4
"""Of a GPU's peak in training and scoring: what Llama 3's training reached on H100s is 0.38 to
0.43 (arXiv 2407.21783, table 4). An assumption here."""

BANDWIDTH_SHARE = 0.6
"""Of a GPU's memory bandwidth while decoding: this project's aim, an assumption."""


class PhaseTime(NamedTuple):
    """Of one phase in one process: tokens, floating-point operations, seconds (NaN: not known,
    since neither a GPU is named nor a CPU was measured)."""

    tokens: float
    flops: float
    seconds: float


def total_hours(size: StepSize) -> float:
    """Of all steps; NaN where that is not known."""
    return sum(time.seconds for time in phase_times(size).values()) * size.config.num_steps / 3600


def phase_times(size: StepSize) -> dict[str, PhaseTime]:
    """Phase -> what it takes in one step; those that the method does not have are left out."""
    config, lengths, answers = size.config, size.lengths, size.answers
    rollout, method = config.rollout, config.method
    new, times = rollout.max_new_tokens, {}
    if rollout.engine.in_process:
        if method.queries == "challenger":
            limit = rollout.max_query_tokens
            times["queries"] = _decoding(size, size.queries, 1, lengths.challenger, limit)
        times["answers"] = _decoding(size, answers, size.queries, lengths.solver, new)
    scored = []
    for model, classifier in size.rewards:
        length = min(model.max_length, lengths.solver + new)
        flops = forward_flops(classifier, answers * length, length / 2)
        scored.append(_computing(size, model.dtype, answers * length, flops))
    if scored:
        times["reward"] = _total(scored)
    written = config.self_reward.written_tokens
    if method.scores_quality and not written:
        tokens = answers * lengths.judge
        flops = forward_flops(size.shape, tokens, lengths.judge / 2, answers)
        times["quality"] = _computing(size, config.model.dtype, tokens, flops)
    elif method.scores_quality and rollout.engine.in_process:
        times["quality"] = _decoding(size, answers, answers, lengths.judge, written)
    return times | {"update": _update(size)}


def _total(parts: list[PhaseTime]) -> PhaseTime:
    return PhaseTime(*map(sum, zip(*parts, strict=True)))


def _computing(size: StepSize, dtype: str, tokens: float, flops: float) -> PhaseTime:
    """At the GPU's rate of operations, or at that at which the CPU decodes: a pass over many
    tokens at once makes no less of it."""
    rate = size.gpu.tflops(dtype) * 1e12 * FLOPS_SHARE
    if measured := size.config.hardware.tokens_per_second:
        context = size.lengths.solver + size.config.rollout.max_new_tokens / 2
        rate = measured * forward_flops(size.shape, 1, context, 1)
    return PhaseTime(tokens, flops, flops / rate)


def _decoding(size: StepSize, rows: int, prompts: int, prompt: int, new: int) -> PhaseTime:
    """Prefill is bounded by operations; on a GPU each decode step reads all weights and the cache
    so far, and a CPU's rate was measured."""
    shape, dtype, tokens = size.shape, size.config.model.dtype, rows * new
    flops = forward_flops(shape, prompts * prompt, prompt / 2, prompts)
    prefill = _computing(size, dtype, prompts * prompt, flops)
    context = prompt + new / 2
    decode = _computing(size, dtype, tokens, forward_flops(shape, tokens, context, tokens))
    if measured := size.config.hardware.tokens_per_second:
        return _total([prefill, decode._replace(seconds=tokens / measured)])
    chunks = math.ceil(rows / size.rows_at_once(prompt, new))
    read = chunks * new * parameters(shape) * size.number_bytes
    read += tokens * context * cache_bytes(shape, size.number_bytes)
    reading = read / (size.gpu.bandwidth * 1e12 * BANDWIDTH_SHARE)
    return _total([prefill, decode._replace(seconds=max(decode.seconds, reading))])


def _update(size: StepSize) -> PhaseTime:
    """Reference and policy go forward (1 and 1), backward takes 2 (1 under LoRA, whose weights'
    gradients are small), checkpointing one forward pass more."""
    config, shape = size.config, size.shape
    passes = 2 + (1 if config.model.lora.rank else 2) + config.optim.gradient_checkpointing
    tokens = flops = 0.0
    for rows, prompts, prompt, new in size.trained_rows:
        tokens += rows * new + prompts * prompt
        forward = forward_flops(shape, prompts * prompt, prompt / 2)
        forward += forward_flops(shape, rows * new, prompt + new / 2, rows * new)
        flops += passes * forward
    update = _computing(size, config.model.dtype, tokens, flops)
    if config.hardware.tokens_per_second:
        return update
    # The optimizer reads and writes weights, gradients and both moments.
    states = trained_numbers(size) * (2 * size.number_bytes + 4 + 4 * 4)
    return _total([update, PhaseTime(0, 0, states / (size.gpu.bandwidth * 1e12))])
