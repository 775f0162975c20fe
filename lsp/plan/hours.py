"""Tokens, operations and hours of a step by phase, every completion at its full length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lsp.model.shapes import cache_bytes, forward_flops, parameters
from lsp.plan.memory import trained_parameters
from lsp.plan.step_size import WIDTH, Job
from lsp.settings.gpus import GPUS, Gpu

FLOPS_SHARE = 0.4
"""Of a card's peak in training and scoring: what Llama 3's training reached on H100s is 0.38 to
0.43 (arXiv 2407.21783, table 4). An assumption here."""

BANDWIDTH_SHARE = 0.6
"""Of a card's memory bandwidth while decoding: this project's aim, an assumption."""


@dataclass(frozen=True)
class Work:
    """Of one phase on one GPU: tokens, floating-point operations, seconds (None: no card named)."""

    tokens: float
    flops: float
    seconds: float | None


def work_of(job: Job) -> dict[str, Work]:
    """Phase -> work of a step on one GPU. What GPUs tell each other is not counted."""
    config, shape, lengths = job.config, job.shape, job.lengths
    card = GPUS.get(config.hardware.gpu) if config.hardware.gpu else None
    rollout, method = config.rollout, config.method
    asks = method.queries == "challenger"
    solver = _decoding(job, card, job.answers, job.queries, lengths.solver, rollout.max_new_tokens)
    phases = {"generation": [solver]}
    if asks:
        limit = rollout.max_query_tokens
        phases["generation"].append(_decoding(job, card, job.queries, 1, lengths.challenger, limit))
    scoring = []
    if method.scores_quality:
        written = config.self_reward.written_tokens
        if written:
            scoring.append(_decoding(job, card, job.answers, job.answers, lengths.judge, written))
        else:
            tokens = job.answers * lengths.judge
            flops = forward_flops(shape, tokens, lengths.judge / 2, job.answers)
            scoring.append(_computing(card, config.model.dtype, tokens, flops))
    for reward, of in job.rewards:
        length = min(reward.max_length, lengths.solver + rollout.max_new_tokens)
        tokens = job.answers * length
        scoring.append(
            _computing(card, reward.dtype, tokens, forward_flops(of, tokens, length / 2))
        )
    phases["scoring"] = scoring
    phases["training"] = [_training(job, card)]
    return {name: _sum(parts) for name, parts in phases.items() if parts}


def _sum(parts: list[Work]) -> Work:
    known = all(part.seconds is not None for part in parts)
    seconds = sum(part.seconds or 0.0 for part in parts) if known else None
    return Work(sum(p.tokens for p in parts), sum(p.flops for p in parts), seconds)


def _computing(card: Gpu | None, dtype: str, tokens: float, flops: float) -> Work:
    seconds = None if card is None else flops / (card.tflops[dtype] * 1e12 * FLOPS_SHARE)
    return Work(tokens, flops, seconds)


def _decoding(job: Job, card: Gpu | None, rows: int, prompts: int, prompt: int, new: int) -> Work:
    """Prefill is bounded by operations; each decode step reads all weights and the cache so far."""
    shape, width, dtype = job.shape, job.width, job.config.model.dtype
    prefill = forward_flops(shape, prompts * prompt, prompt / 2, prompts)
    decode = forward_flops(shape, rows * new, prompt + new / 2, rows * new)
    done = _computing(card, dtype, prompts * prompt + rows * new, prefill + decode)
    if card is None or done.seconds is None:
        return done
    chunks = math.ceil(rows / job.rows_at_once(prompt, new))
    read = chunks * new * parameters(shape) * width
    read += rows * new * (prompt + new / 2) * cache_bytes(shape, width)
    before = _computing(card, dtype, 0, prefill).seconds or 0.0
    steps = _computing(card, dtype, 0, decode).seconds or 0.0
    bound = max(steps, read / (card.bandwidth * 1e12 * BANDWIDTH_SHARE))
    return Work(done.tokens, done.flops, before + bound)


def _training(job: Job, card: Gpu | None) -> Work:
    """Reference and policy go forward (1 and 1), backward takes 2 (1 under LoRA, whose weights'
    gradients are small), checkpointing one forward pass more."""
    config, lengths = job.config, job.lengths
    new, asked = config.rollout.max_new_tokens, config.rollout.max_query_tokens
    kinds = [(job.answers, job.queries, lengths.solver, new)]
    if config.method.trains_challenger:
        kinds.append((job.queries, 1, lengths.challenger, asked))
    lora = bool(config.model.lora.rank)
    passes = 2 + (1 if lora else 2) + config.optim.gradient_checkpointing
    tokens = flops = 0.0
    for rows, prompts, prompt, length in kinds:
        tokens += rows * length + prompts * prompt
        one = forward_flops(job.shape, prompts * prompt, prompt / 2)
        one += forward_flops(job.shape, rows * length, prompt + length / 2, rows * length)
        flops += passes * one
    work = _computing(card, config.model.dtype, tokens, flops)
    if card is None or work.seconds is None:
        return work
    # The optimizer reads and writes weights, gradients and both moments.
    states = trained_parameters(job) * (2 * WIDTH[config.model.dtype] + 4 + 4 * 4)
    return Work(tokens, flops, work.seconds + states / (card.bandwidth * 1e12))
