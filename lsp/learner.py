"""One update: training rows go in, the policy moves, what was measured comes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lsp.batch import pack, pad, row_sums
from lsp.losses import KL_ESTIMATORS, kl_loss, kl_per_token, policy_loss
from lsp.model.logprobs import (
    TokenScores,
    checkpoint_layers,
    completion_hidden,
    completion_scores,
    head_loss,
)
from lsp.model.sharding import full, is_sharded
from lsp.players import Players
from lsp.settings.config import EXACT_KL_VOCABULARY, Config
from lsp.types import MicroBatch, TrainingRow


@dataclass
class UpdateStats:
    """What an update measured. Sums by role are weighted by ``count``, so merged rows count as
    often as they were played. ``row`` maps a row's key to its mean KL (k2) and entropy. Largest
    differences of a token's log-probability: ``max_mismatch`` to the engine's, ``max_difference``
    to the reference's."""

    loss: float = 0.0
    grad_norm: float = 0.0
    skipped: bool = False
    rows: int = 0
    merged_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    max_mismatch: float = 0.0
    max_difference: float = 0.0
    role_gradients: dict[str, float] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    row: dict[tuple, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Sequence[UpdateStats]) -> UpdateStats:
        """Of all processes' parts of one update."""
        whole = cls(role_gradients=parts[0].role_gradients)
        for part in parts:
            whole.note_largest(part.max_mismatch, part.max_difference)
            whole.loss += part.loss
            whole.tokens += part.tokens
            whole.padded_tokens += part.padded_tokens
            whole.row |= part.row
            whole.sums.update(part.sums)
        return whole

    def note_largest(self, mismatch: float, difference: float) -> None:
        """Of a batch's log-probabilities; NaN stays."""
        self.max_mismatch = _largest(self.max_mismatch, mismatch)
        self.max_difference = _largest(self.max_difference, difference)

    def metrics(self) -> dict[str, float]:
        """Path keys. KL by every sampled estimator, whichever the loss uses."""
        values = {
            "loss/total": self.loss,
            "optim/grad_norm": self.grad_norm,
            "optim/skipped": float(self.skipped),
            "batch/rows": self.rows,
            "batch/distinct_rows": self.merged_rows,
            "batch/padding_frac": 1 - self.tokens / max(1, self.padded_tokens),
            "rollout/logprob_mismatch": self.max_mismatch,
            "kl/largest_difference": self.max_difference,
            **self.role_gradients,
        }
        sums = self.sums
        for role in ("challenger", "solver"):
            tokens = sums[f"tokens/{role}"]
            if not tokens:
                continue
            values[f"loss/policy/{role}"] = sums[f"policy/{role}"]
            values[f"loss/kl/{role}"] = sums[f"kl_loss/{role}"]
            values[f"entropy/{role}"] = sums[f"entropy/{role}"] / tokens
            for estimator in KL_ESTIMATORS:
                if f"{estimator}/{role}" in sums:
                    values[f"kl/{role}/{estimator}"] = sums[f"{estimator}/{role}"] / tokens
        return values


class Learner:
    """Owns the optimizer of the policy. ``named``: what the optimizer changes, by the parameters'
    names: the parameters, or in bfloat16 their masters in fp32."""

    def __init__(self, players: Players, config: Config):
        self.players = players
        self.config = config
        vocabulary = players.policy.config.vocab_size
        if config.method.kl_estimator == "exact" and vocabulary > EXACT_KL_VOCABULARY:
            raise ValueError(
                f"method.kl_estimator=exact keeps whole distributions over {vocabulary:,} tokens;"
                f" it is for vocabularies of at most {EXACT_KL_VOCABULARY:,}; choose k2, whose"
                " expected gradient is the same"
            )
        settings = config.optim
        if settings.gradient_checkpointing:
            checkpoint_layers(players.policy)
        parameters = players.policy.named_parameters()
        self.named = {name: _master(p) for name, p in parameters if p.requires_grad}
        self.trained = list(self.named.values())
        parts = [t for t in self.trained if is_sharded(t)]
        plain = [t for t in self.trained if not is_sharded(t)]
        self.sharded = bool(parts)
        groups = [{"params": parts}, {"params": plain}] if parts else plain
        rates = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        betas = (settings.beta1, settings.beta2)
        self.optimizer = torch.optim.AdamW(groups, betas=betas, fused=True, **rates)

    def update(self, rows: list[TrainingRow], step: int) -> UpdateStats:
        """One on-policy step on the rows of one play. A loss or gradient that is not finite
        leaves the weights as they are and is counted. ``rows`` are those of the whole step, in
        every process; each takes its part of them, and gradients and measures are added up."""
        stats = UpdateStats()
        every = self.config.optim.role_gradients_every
        before: list[torch.Tensor] | None = None
        batches = {role: self._batches(rows, role) for role in ("challenger", "solver")}
        with self.players.reference_at_work():  # one visit for all of them
            scored = {role: [(b, self._reference(b)) for b in batches[role]] for role in batches}
        for role, pairs in scored.items():
            for batch, ref in pairs:
                self._backward(batch, ref, stats)
            if every and step % every == 0 and any(row.role == role for row in rows):
                before = self._measure_gradient(role, before, stats)
        self._add_up_gradients()
        stats = UpdateStats.merged(self.players.processes.all_gather(stats))
        stats.rows, stats.merged_rows = sum(row.count for row in rows), len(rows)
        stats.grad_norm = self._clip_gradient()
        stats.skipped = not (math.isfinite(stats.loss) and math.isfinite(stats.grad_norm))
        if rows and not stats.skipped:
            optim = self.config.optim
            for group in self.optimizer.param_groups:
                group["lr"] = optim.lr * min(1.0, step / max(1, optim.warmup_steps))
            self.optimizer.step()
            parameters = dict(self.players.policy.named_parameters())
            with torch.no_grad():
                for name, tensor in self.named.items():
                    if parameters[name] is not tensor:
                        parameters[name].copy_(tensor)
        self.optimizer.zero_grad(set_to_none=True)  # the next play needs their memory
        return stats

    def _clip_gradient(self) -> float:
        """The gradient's norm before it is clipped."""
        most = self.config.optim.max_grad_norm
        if not self.sharded:
            return torch.nn.utils.clip_grad_norm_(self.trained, most).item()
        gradients = [tensor.grad for tensor in self.trained if tensor.grad is not None]
        norm = _norm(gradients)
        if norm > most:
            for gradient in gradients:
                gradient.mul_(most / norm)
        return norm

    def _add_up_gradients(self) -> None:
        """Over all processes; one that had no row for a parameter adds nothing to it. Those of
        sharded parameters were added up in the backward pass."""
        here = [tensor.grad is not None for tensor in self.trained]
        anywhere = map(any, zip(*self.players.processes.all_gather(here), strict=True))
        reached = [tensor for tensor, hit in zip(self.trained, anywhere, strict=True) if hit]
        for tensor in reached:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        self._add_up([tensor.grad for tensor in reached])

    def _add_up(self, gradients: list[torch.Tensor]) -> None:
        plain = [gradient for gradient in gradients if not is_sharded(gradient)]
        self.players.processes.all_reduce(plain)
        if self.sharded:  # the loss was scaled for a mean
            for gradient in plain:
                gradient.div_(self.players.processes.size)

    def _batches(self, rows: list[TrainingRow], role: str) -> list[MicroBatch]:
        """This process's part of a role's rows. Where weights are sharded, all processes take the
        same number of passes: rows of weight zero fill up."""
        processes = self.players.processes
        rows = [row for row in rows if row.role == role][processes.rank :: processes.size]
        limit = self.config.optim.micro_batch_tokens
        parts = [[rows[i] for i in chosen] for chosen in pack(rows, limit)]
        if self.sharded:
            nothing = TrainingRow(role, (1,), (1, 1), (0.0, 0.0), 0.0, 0.0, 0)
            parts += [[nothing]] * (max(processes.all_gather(len(parts))) - len(parts))
        return [pad(part).to(self.players.device) for part in parts]

    @torch.no_grad()
    def _reference(self, batch: MicroBatch) -> TokenScores:
        """The reference's scores; whole distributions with them for the exact KL alone."""
        exact = self.config.method.kl_estimator == "exact"
        temperature = self.config.rollout.temperature_of(batch.rows[0].role)
        return completion_scores(self.players.reference, batch, temperature, exact)

    @torch.no_grad()
    def _measure_gradient(
        self, role: str, before: list[torch.Tensor] | None, stats: UpdateStats
    ) -> list[torch.Tensor]:
        """Norm of a role's own gradient, and its cosine with that of the role before it. The roles'
        gradients add up in one buffer; ``before`` is a copy of it from before this role, so the
        update itself is the same whether this is measured or not."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        if before is None or self.players.processes.size > 1:  # sums would join the next role's
            gradients = [gradient.clone() for gradient in gradients]
        self._add_up(gradients)
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

    def _backward(self, batch: MicroBatch, ref: TokenScores, stats: UpdateStats) -> None:
        method, role = self.config.method, batch.rows[0].role
        temperature = self.config.rollout.temperature_of(role)
        policy, device = self.players.policy, ref.logprobs_C.device
        weights = [[row.policy_weight, row.kl_weight] for row in batch.rows]
        policy_weight_C, kl_weight_C = torch.tensor(weights, device=device)[batch.row_C].unbind(1)

        def kl_of(logprobs: torch.Tensor, part: slice) -> torch.Tensor:
            return kl_per_token(logprobs, ref.logprobs_C[part], method.kl_estimator)

        def token_loss(logprobs: torch.Tensor, part: slice) -> torch.Tensor:
            kl = kl_loss(kl_of(logprobs, part), kl_weight_C[part], method.beta_of(role))
            return policy_loss(logprobs, policy_weight_C[part]) + kl

        if method.kl_estimator == "exact":
            scores = completion_scores(policy, batch, temperature, with_distribution=True)
            distributions = scores.distribution_CV, ref.distribution_CV
            kl_C = kl_per_token(scores.logprobs_C, ref.logprobs_C, "exact", *distributions)
            loss = policy_loss(scores.logprobs_C, policy_weight_C)
            loss = loss + kl_loss(kl_C, kl_weight_C, method.beta_of(role))
        else:
            hidden_CD, head = completion_hidden(policy, batch), policy.get_output_embeddings()
            target_C = batch.completion_ids_BT[batch.completion_mask_BT]
            loss, scores = head_loss(hidden_CD, head, target_C, temperature, token_loss)
            kl_C = kl_of(scores.logprobs_C, slice(None))
        # FSDP2 takes the mean over processes where a sum is meant.
        (loss * self.players.processes.size if self.sharded else loss).backward()
        if batch.rows[0].count:
            stats.loss += loss.item()
            self._measure(batch, scores, ref, kl_C.detach(), stats)

    @torch.no_grad()
    def _measure(
        self,
        batch: MicroBatch,
        scores: TokenScores,
        ref: TokenScores,
        kl_C: torch.Tensor,
        stats: UpdateStats,
    ) -> None:
        """Per-row sums once, then plain floats."""
        method = self.config.method
        pair = scores.logprobs_C, ref.logprobs_C
        measures = {name: kl_per_token(*pair, name) for name in ("k1", "k2", "k3")}
        measures |= {"entropy": scores.entropy_C, method.kl_estimator: kl_C}
        values = {name: row_sums(batch, value_C).tolist() for name, value_C in measures.items()}
        rollout = [x for row in batch.rows for x in row.rollout_logprobs]
        others = torch.tensor(rollout, device=scores.logprobs_C.device), ref.logprobs_C
        largest = [(scores.logprobs_C - other_C).abs().max().item() for other_C in others]
        stats.note_largest(*largest)
        stats.tokens += batch.tokens
        stats.padded_tokens += batch.padded_tokens
        sums = stats.sums
        for i, row in enumerate(batch.rows):
            tokens, loss_kl = len(row.completion_ids), values[method.kl_estimator][i]
            sums[f"tokens/{row.role}"] += tokens * row.count
            sums[f"policy/{row.role}"] -= row.policy_weight * tokens
            sums[f"kl_loss/{row.role}"] += method.beta_of(row.role) * row.kl_weight * loss_kl
            for name, sums_B in values.items():
                sums[f"{name}/{row.role}"] += sums_B[i] * row.count
            stats.row[row.key] = (values["k2"][i] / tokens, values["entropy"][i] / tokens)


def _master(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What the optimizer changes in a parameter's place: an update of less than 0.4 % of a bfloat16
    weight would be rounded away. Its gradient gathers in fp32 too, micro-batch by micro-batch."""
    if parameter.dtype == torch.float32:
        return parameter
    master = parameter.detach().float()

    def hand_over(parameter: torch.Tensor) -> None:
        gradient = parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    parameter.register_post_accumulate_grad_hook(hand_over)
    return master


def _largest(one: float, other: float) -> float:
    """The larger of two; NaN where either is."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _norm(tensors: list[torch.Tensor]) -> float:
    squares = (full(tensor.double().square().sum()).item() for tensor in tensors)
    return math.sqrt(sum(squares))
