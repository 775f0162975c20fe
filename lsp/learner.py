"""One update: training rows go in, the policy moves, what was measured comes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from lsp.batch import pack, pad, row_sums
from lsp.losses import KL_ESTIMATORS, kl_per_token
from lsp.model.device import give_back_freed_memory
from lsp.model.distribution import accelerator_for, decoder_layers, full, is_sharding, whole
from lsp.model.logprobs import TokenScores, checkpoint_layers, completion_scores
from lsp.model.precision import compute_in, rounded, train_in_float32
from lsp.players import Players
from lsp.policy_loss import LossParts, PolicyLoss, rollout_logprobs, row_totals
from lsp.run.checkpoint import TrainingTensors, training_tensors
from lsp.settings.config import EXACT_KL_VOCABULARY, Config
from lsp.settings.limits import LARGE_MODEL
from lsp.tools.heartbeat import at
from lsp.types import MicroBatch, Role, TrainingRow

ROLES: tuple[Role, ...] = ("challenger", "solver")


@dataclass
class UpdateStats:
    """What an update measured. Sums by role are weighted by ``count``, so merged rows count as
    often as they were played. ``row`` maps a row's key to its mean KL (k2) and entropy.
    ``extremes``: smallest and largest by name, over tokens: differences of log-probabilities to the
    engine's and to the reference's, importance ratios."""

    loss: float = 0.0
    grad_norm: float = 0.0
    skipped: bool = False
    rows: int = 0
    merged_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    role_gradients: dict[str, float] = field(default_factory=dict)
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    row: dict[tuple, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Sequence[UpdateStats]) -> UpdateStats:
        """Of all processes' parts of one update."""
        merged = cls(role_gradients=parts[0].role_gradients)
        for part in parts:
            for name, (smallest, largest) in part.extremes.items():
                merged.note(name, smallest, largest)
            merged.loss += part.loss
            merged.tokens += part.tokens
            merged.padded_tokens += part.padded_tokens
            merged.sums.update(part.sums)
            merged.row |= part.row
        return merged

    def note(self, name: str, smallest: float, largest: float) -> None:
        """Of a batch's tokens; NaN stays."""
        least, most = self.extremes.get(name, (smallest, largest))
        if math.isnan(smallest + least):
            self.extremes[name] = math.nan, math.nan
        else:
            self.extremes[name] = min(smallest, least), max(largest, most)

    def metrics(self) -> dict[str, float]:
        """Path keys. KL by every sampled estimator, whichever the loss uses; the engine's mismatch
        by role where it is corrected."""
        values = {
            "loss/total": self.loss,
            "optim/grad_norm": self.grad_norm,
            "optim/skipped": float(self.skipped),
            "batch/rows": self.rows,
            "batch/distinct_rows": self.merged_rows,
            "batch/padding_frac": 1 - self.tokens / max(1, self.padded_tokens),
            "rollout/logprob_mismatch": self.extremes.get("mismatch", (0.0, 0.0))[1],
            "kl/largest_difference": self.extremes.get("difference", (0.0, 0.0))[1],
            **self.role_gradients,
        }
        sums = self.sums
        for role in ROLES:
            tokens = sums[f"tokens/{role}"]
            if not tokens:
                continue
            values[f"loss/policy/{role}"] = sums[f"policy/{role}"]
            values[f"loss/kl/{role}"] = sums[f"kl_loss/{role}"]
            values[f"entropy/{role}"] = sums[f"entropy/{role}"] / tokens
            for estimator in KL_ESTIMATORS:
                if f"{estimator}/{role}" in sums:
                    values[f"kl/{role}/{estimator}"] = sums[f"{estimator}/{role}"] / tokens
            if f"ratio/{role}" in self.extremes:
                for name in ("mismatch/mean", "mismatch/k3", "clipped_frac"):
                    values[f"rollout/{role}/{name}"] = sums[f"{name}/{role}"] / tokens
                smallest, largest = self.extremes[f"ratio/{role}"]
                values[f"rollout/{role}/ratio/min"] = smallest
                values[f"rollout/{role}/ratio/max"] = largest
                values[f"rollout/{role}/mismatch/max"] = self.extremes[f"mismatch/{role}"][1]
        return values


class Learner:
    """Owns the optimizer of the policy, and what wraps its loss for the run's processes. ``named``:
    what is trained, by name; fp32, whatever the policy computes in (``dtype``, where that is
    another)."""

    def __init__(self, players: Players, config: Config):
        self.players = players
        self.config = config
        policy, settings = players.policy, config.optim
        vocabulary = policy.config.vocab_size
        if config.method.kl_estimator == "exact" and vocabulary > EXACT_KL_VOCABULARY:
            raise ValueError(
                f"method.kl_estimator=exact keeps whole distributions over {vocabulary:,} tokens;"
                f" it is for vocabularies of at most {EXACT_KL_VOCABULARY:,}; choose k2, whose"
                " expected gradient is the same"
            )
        self.dtype = train_in_float32(policy)
        shards = config.hardware.parallel == "fsdp" and players.processes.size > 1
        self.accelerator = accelerator_for(policy, shards, self.dtype)
        self.sharded = is_sharding(self.accelerator)
        loss = PolicyLoss(policy, config)
        if self.dtype is not None and not self.sharded:
            compute_in(self.dtype, loss, decoder_layers(policy))
        if settings.gradient_checkpointing:
            checkpoint_layers(policy)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in policy.parameters() if parameter.requires_grad],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.loss, self.optimizer = self.accelerator.prepare(loss, optimizer)
        self.named = {n: p for n, p in policy.named_parameters() if p.requires_grad}
        self.trained = list(self.named.values())
        self.buffered = players.processes.size > 1 and not self.sharded
        weights = sum(parameter.numel() for parameter in policy.parameters())
        self.gives_back = players.device.type == "cpu" and weights >= LARGE_MODEL
        if players.processes.size > 1:
            self._first_pass()

    def _first_pass(self) -> None:
        """Of nothing. FSDP2 takes note of its layers in it; DDP lays gradients into its buffer,
        where they stay, since others beside it would be a second copy."""
        batch = pad([_no_row("solver")]).to(self.players.device)
        with self.players.reference_at_work():
            ref = self._reference(batch)
        if self.buffered:
            self._backward(batch, ref, UpdateStats())
            return
        with torch.no_grad():
            self.loss(batch, ref)
            self.loss.reshard()

    def whole_policy(self) -> AbstractContextManager[None]:
        """The policy's weights are all here inside, in the dtype that it computes in; every process
        enters."""
        if self.sharded:
            return whole(self.loss, self.accelerator)
        return rounded(self.players.policy, self.dtype)

    def training_tensors(self) -> TrainingTensors:
        """What a checkpoint keeps of this; every process asks where weights are sharded."""
        return training_tensors(self.players.policy, self.named, self.optimizer, self.dtype)

    def update(self, rows: list[TrainingRow], step: int) -> UpdateStats:
        """One on-policy step on the rows of one play. A loss or gradient that is not finite
        leaves the weights as they are and is counted. ``rows`` are those of the whole step, in
        every process; each takes its part of them, and gradients and measures are added up."""
        if self.gives_back:  # of the play's
            give_back_freed_memory()
        stats = UpdateStats()
        every = self.config.optim.role_gradients_every
        before: list[torch.Tensor] | None = None
        batches = self._batches(rows)
        with self.players.reference_at_work():  # one visit for all of them
            scored = []
            for batch in batches:
                at(f"{len(scored)} of {len(batches)} micro-batches read by the reference")
                scored.append((batch, self._reference(batch)))
        for number, (batch, ref) in enumerate(scored, start=1):
            at(f"{number - 1} of {len(scored)} micro-batches learnt from")
            last, role = number == len(scored), batch.rows[0].role
            self._backward(batch, ref, stats, last)
            if every and step % every == 0 and (last or batches[number].rows[0].role != role):
                before = self._measure_gradient(role, before, stats, last)
        stats = UpdateStats.merged(self.players.processes.all_gather(stats))
        stats.rows, stats.merged_rows = sum(row.count for row in rows), len(rows)
        most = self.config.optim.max_grad_norm
        stats.grad_norm = full(self.accelerator.clip_grad_norm_(self.trained, most)).item()
        stats.skipped = not (math.isfinite(stats.loss) and math.isfinite(stats.grad_norm))
        if rows and not stats.skipped:
            optim = self.config.optim
            for group in self.optimizer.param_groups:
                group["lr"] = optim.lr * min(1.0, step / max(1, optim.warmup_steps))
            self.optimizer.step()
        # The next play needs their memory.
        self.optimizer.zero_grad(set_to_none=not self.buffered)
        if self.gives_back:
            give_back_freed_memory()
        return stats

    def _batches(self, rows: list[TrainingRow]) -> list[MicroBatch]:
        """This process's part of each role's rows. All processes take the same number of passes:
        rows of weight zero fill up."""
        processes, limit = self.players.processes, self.config.optim.micro_batch_tokens
        parts: dict[Role, list[list[TrainingRow]]] = {}
        for role in ROLES:
            own = [row for row in rows if row.role == role][processes.rank :: processes.size]
            parts[role] = [[own[i] for i in chosen] for chosen in pack(own, limit)]
        counts = processes.all_gather({role: len(own) for role, own in parts.items()})
        for role, own in parts.items():
            own += [[_no_row(role)]] * (max(count[role] for count in counts) - len(own))
        device = self.players.device
        return [pad(part).to(device) for own in parts.values() for part in own]

    @torch.no_grad()
    def _reference(self, batch: MicroBatch) -> TokenScores:
        """The reference's scores; whole distributions with them for the exact KL alone."""
        exact = self.config.method.kl_estimator == "exact"
        temperature = self.config.rollout.temperature_of(batch.rows[0].role)
        return completion_scores(self.players.reference, batch, temperature, exact)

    @torch.no_grad()
    def _measure_gradient(
        self, role: str, before: list[torch.Tensor] | None, stats: UpdateStats, last: bool
    ) -> list[torch.Tensor]:
        """Norm of a role's own gradient, and its cosine with that of the role before it. The roles'
        gradients add up in one buffer; ``before`` is a copy of it from before this role, so the
        update itself is the same whether this is measured or not. Whole ones are added up over the
        processes in the ``last`` pass."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        if not (last or self.sharded or self.players.processes.size == 1):
            gradients = [self.accelerator.reduce(g, reduction="mean") for g in gradients]
        elif before is None:
            gradients = [gradient.clone() for gradient in gradients]
        if before is None:
            stats.role_gradients[f"optim/grad_norm/{role}"] = _norm(gradients)
            return gradients
        added = [after - old for after, old in zip(gradients, before, strict=True)]
        norm, other = _norm(added), _norm(before)
        stats.role_gradients[f"optim/grad_norm/{role}"] = norm
        if norm > 0 and other > 0:
            dot = sum(full((a * b).sum()).item() for a, b in zip(added, before, strict=True))
            stats.role_gradients["optim/role_gradient_cosine"] = dot / (norm * other)
        return before

    def _backward(
        self, batch: MicroBatch, ref: TokenScores, stats: UpdateStats, last: bool = True
    ) -> None:
        """Whole gradients are added up over the processes in the ``last`` pass of a step, parts of
        sharded ones in every pass: a layer's whole gradient would not fit."""
        waits = not (last or self.sharded)
        with self.accelerator.no_sync(self.loss) if waits else nullcontext():
            parts = self.loss(batch, ref)
            # The mean over processes is taken where a sum is meant.
            self.accelerator.backward(parts.loss * self.players.processes.size)
        if batch.rows[0].count:
            stats.loss += parts.loss.item()
            self._measure(batch, parts, ref, stats)

    @torch.no_grad()
    def _measure(
        self, batch: MicroBatch, parts: LossParts, ref: TokenScores, stats: UpdateStats
    ) -> None:
        """Per-row sums once, then plain floats."""
        method, role, scores = self.config.method, batch.rows[0].role, parts.scores
        pair = scores.logprobs_C, ref.logprobs_C
        measures = {name: kl_per_token(*pair, name) for name in ("k1", "k2", "k3")}
        measures |= {"entropy": scores.entropy_C, method.kl_estimator: parts.kl_C}
        off_C = scores.logprobs_C - rollout_logprobs(batch)
        _note(stats, "mismatch", off_C.abs())
        _note(stats, "difference", (scores.logprobs_C - ref.logprobs_C).abs())
        correction = self.config.rollout_correction
        if correction != "none":
            cap = self.config.loss.rollout_correction_cap
            ratio_C = (row_totals(batch, off_C) if correction == "sequence" else off_C).exp()
            _note(stats, f"mismatch/{role}", off_C.abs())
            _note(stats, f"ratio/{role}", ratio_C)
            measures["mismatch/mean"] = off_C.abs()
            measures["mismatch/k3"] = torch.expm1(off_C) - off_C  # of KL(engine || trainer)
            measures["clipped_frac"] = (ratio_C > cap).float()
        values = {name: row_sums(batch, value_C).tolist() for name, value_C in measures.items()}
        stats.tokens += batch.tokens
        stats.padded_tokens += batch.padded_tokens
        sums = stats.sums
        for i, row in enumerate(batch.rows):
            tokens, loss_kl = len(row.completion_ids), values[method.kl_estimator][i]
            sums[f"tokens/{role}"] += tokens * row.count
            sums[f"policy/{role}"] -= row.policy_weight * tokens
            sums[f"kl_loss/{role}"] += method.beta_of(role) * row.kl_weight * loss_kl
            for name, sums_B in values.items():
                sums[f"{name}/{role}"] += sums_B[i] * row.count
            stats.row[row.key] = (values["k2"][i] / tokens, values["entropy"][i] / tokens)


def _no_row(role: Role) -> TrainingRow:
    """One that weighs nothing and is not counted."""
    return TrainingRow(role, (1,), (1, 1), (0.0, 0.0), 0.0, 0.0, 0)


def _note(stats: UpdateStats, name: str, value_C: torch.Tensor) -> None:
    smallest, largest = torch.stack(torch.aminmax(value_C)).tolist()
    stats.note(name, smallest, largest)


def _norm(tensors: list[torch.Tensor]) -> float:
    squares = (full(tensor.double().square().sum()).item() for tensor in tensors)
    return math.sqrt(sum(squares))
