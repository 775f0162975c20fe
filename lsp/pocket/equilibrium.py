"""The game solved, pure: tables of what models do go in, best responses, gaps and predictions come
out. docs/game.md derives the formulae and works three queries by hand.

The game is tabular and KL-regularised: a Challenger asks q and earns r(q) = -V(q) + w V_Q(q), a
Solver answers a and earns u(a) = R + w R_Q, and each pays its beta times its KL to the reference.
Shape letters: ``_Q`` the legal queries, in the order of the tables; ``_A`` those and, last, all
illegal ones as one atom; ``_Q3`` a query's answers as three atoms: right, echo, all others.
Everything is float64.

What is exact. R is 0 after an illegal query, so with w = 0 the best response's share of the
illegal atom is exact, and so are all predictions with exact credit; with w > 0 its queries are
taken to have one quality. The answers in the third atom are not known one by one: what they earn is
an interval.

What is a lower bound. A KL over atoms is at most the KL over their members (log-sum inequality), so
``challenger_kl``, ``solver_kl`` and the gaps see no change *within* the illegal queries or within
other wrong answers; a Solver's gap leaves out illegal queries altogether. The ends of an interval
are those of what is earned: ``_low`` is a lower bound of the gap itself, ``_high`` an upper bound
of the gap over atoms alone. For the reference itself a gap over atoms is the gap. ``kl_within``
estimates from draws what an atom hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lsp.pocket.language import FAMILIES, LENGTHS, Task, verify
from lsp.pocket.tables import BRANCHES, AnsweredTable, AskedTable

HIGHEST_QUALITY = 7.0
LEAST = 1e-12
"""Of a probability that is a rest of others."""


@dataclass(frozen=True)
class Stakes:
    """What the game is played for; ``credit`` is the verifier's."""

    beta_challenger: float
    beta_solver: float
    weight: float
    credit: str = "exact"


@dataclass(frozen=True)
class Interval:
    """What something is at least and at most, and ``value``, what it is taken to be. Sums take both
    terms' ends, so intervals are safe and not tight."""

    low: Tensor
    value: Tensor
    high: Tensor

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.value + other.value, self.high + other.high)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.value, -self.low)

    def scaled(self, factor: float) -> Interval:
        """Times a factor of 0 or more."""
        return Interval(factor * self.low, factor * self.value, factor * self.high)


def soft_value(log_ref: Tensor, earned: Tensor, beta: float) -> Tensor:
    """beta ln sum ref e^(earned / beta), the best response's worth, over the last axis; with beta 0
    the most that can be earned."""
    if beta == 0:
        return earned.masked_fill(log_ref == -torch.inf, -torch.inf).amax(-1)
    return beta * (log_ref + earned / beta).logsumexp(-1)


def best_response(log_ref: Tensor, earned: Tensor, beta: float) -> Tensor:
    """Log-probabilities of ref e^(earned / beta), normalised over the last axis; with beta 0 its
    limit, the reference among what earns the most."""
    if beta == 0:
        most = soft_value(log_ref, earned, beta)[..., None]
        return log_ref.masked_fill(earned < most, -torch.inf).log_softmax(-1)
    return (log_ref + earned / beta).log_softmax(-1)


def kl(log_p: Tensor, log_ref: Tensor) -> Tensor:
    """KL(p || ref) over the last axis, nats; 0 ln 0 is 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_ref), 0.0).sum(-1)


def kl_within(log_p: float, log_ref: float, ratios: Tensor) -> float:
    """What a KL over atoms lacks of the KL over their members, from draws of one atom's members:
    p (mean ln(pi / ref) - ln(p / ref)), p and ref the atom's; 0 without draws."""
    if not len(ratios):
        return 0.0
    return max(0.0, math.exp(log_p) * (ratios.mean().item() - (log_p - log_ref)))


def worth(log_p: Tensor, log_ref: Tensor, earned: Tensor, beta: float) -> Tensor:
    """What p earns less beta KL(p || ref), over the last axis."""
    return (log_p.exp() * earned).sum(-1) - beta * kl(log_p, log_ref)


def gap(log_p: Tensor, log_ref: Tensor, earned: Interval, beta: float) -> Interval:
    """How much more the best response is worth, over the last axis: beta KL(p || best), 0 or more.
    Its ends take the best response at one end of what is earned and p at the other: the soft value
    and p's worth both rise with what is earned."""
    best = [soft_value(log_ref, end, beta) for end in (earned.low, earned.value, earned.high)]
    own = [worth(log_p, log_ref, end, beta) for end in (earned.high, earned.value, earned.low)]
    return Interval(*((b - o).clamp(min=0.0) for b, o in zip(best, own, strict=True)))


def asked_A(table: AskedTable) -> Tensor:
    """log pi_Ch of every legal query and, last, of all illegal ones together."""
    log_Q = table.log_probability_Q()
    illegal = (1 - log_Q.exp().sum()).clamp(min=LEAST).log()
    return torch.cat([log_Q, illegal[None]])


def answers_Q3(table: AnsweredTable, echo_known_Q: Tensor) -> Tensor:
    """Log-probabilities of the atoms; where its echo is not known it is among the others."""
    echo_Q = torch.where(echo_known_Q, table.echo_Q, -torch.inf)
    others_Q = (1 - table.right_Q.exp() - echo_Q.exp()).clamp(min=LEAST).log()
    return torch.stack([table.right_Q, echo_Q, others_Q], dim=1)


def rewards_Q3(tasks: Sequence[Task], credit: str) -> Interval:
    """R of the atoms. Others earn nothing with exact credit; with partial credit at most n / (n+1),
    n the right answer's length (one that goes on after it), and are taken to earn half of that."""
    lengths = torch.tensor([len(task.right_answer) for task in tasks]).double()
    most_Q = lengths / (lengths + 1) if credit == "partial" else 0 * lengths
    echo_Q = torch.tensor([verify(t.query, t.argument, credit) for t in tasks]).double()
    ends = (torch.stack([1 + 0 * lengths, echo_Q, share * most_Q], 1) for share in (0, 0.5, 1))
    return Interval(*ends)


def qualities_Q3(judged: AnsweredTable) -> Interval:
    """R_Q of the atoms by the judge's own table. Others may have any from 0 to 7, and are taken to
    have the right answer's, since the judge looks at form."""
    right_Q, echo_Q = judged.quality_right_Q, judged.quality_echo_Q
    if right_Q is None or echo_Q is None:
        raise ValueError("a table without a judge's qualities: the game has no V_Q")
    echo_Q = torch.where(echo_Q.isnan(), right_Q, echo_Q)
    others = (0 * right_Q, right_Q, 0 * right_Q + HIGHEST_QUALITY)
    return Interval(*(torch.stack([right_Q, echo_Q, one_Q], 1) for one_Q in others))


def average_Q(log_p_Q3: Tensor, earned: Interval) -> Interval:
    """V(q) of rewards, V_Q(q) of qualities."""
    p_Q3 = log_p_Q3.exp()
    return Interval(*((p_Q3 * end).sum(1) for end in (earned.low, earned.value, earned.high)))


@dataclass(frozen=True)
class Game:
    """The reference's tables (``answered`` with its judgements where w > 0) and the stakes.
    ``illegal_quality``: V_Q of the illegal atom, not read where w = 0."""

    stakes: Stakes
    tasks: Sequence[Task]
    asked: AskedTable
    answered: AnsweredTable
    illegal_quality: float = 0.0

    @cached_property
    def rewards(self) -> Interval:
        return rewards_Q3(self.tasks, self.stakes.credit)

    @cached_property
    def qualities(self) -> Interval:
        if self.stakes.weight == 0:
            return self.rewards.scaled(0.0)
        return qualities_Q3(self.answered)

    @cached_property
    def utility(self) -> Interval:
        """u = R + w R_Q, [Q, 3]."""
        return self.rewards + self.qualities.scaled(self.stakes.weight)

    @cached_property
    def reference_A(self) -> Tensor:
        return asked_A(self.asked)

    def challenger_earns_A(self, answers_Q3: Tensor) -> Interval:
        """r(q) against a Solver."""
        value_Q = average_Q(answers_Q3, self.rewards)
        earned = -value_Q + average_Q(answers_Q3, self.qualities).scaled(self.stakes.weight)
        weight = self.stakes.weight
        illegal = torch.tensor([weight * self.illegal_quality if weight else 0.0]).double()
        return Interval(
            *(torch.cat([end, illegal]) for end in (earned.low, earned.value, earned.high))
        )

    def played(self, asked: AskedTable, answered: AnsweredTable) -> dict[str, float]:
        """Gaps, NashConv and the rest of a pair of players; docs/metrics.md."""
        stakes = self.stakes
        # One's echo alone would be an atom that the other gives nothing to.
        known_Q = (answered.echo_Q > -torch.inf) & (self.answered.echo_Q > -torch.inf)
        own_A, own_Q3 = asked_A(asked), answers_Q3(answered, known_Q)
        reference_Q3 = answers_Q3(self.answered, known_Q)
        earned = self.challenger_earns_A(own_Q3)
        challenger = gap(own_A, self.reference_A, earned, stakes.beta_challenger)
        # What the others earn is an interval at each query; the queries are weighed as asked.
        p_Q = own_A[:-1].exp()
        of_query = gap(own_Q3, reference_Q3, self.utility, stakes.beta_solver)
        solver = Interval(
            *((p_Q * end).sum() for end in (of_query.low, of_query.value, of_query.high))
        )
        both = challenger + solver
        gaps = {"challenger_gap": challenger, "solver_gap": solver, "nash_conv": both}
        return {
            **{name: one.value.item() for name, one in gaps.items()},
            **{f"{name}_low": one.low.item() for name, one in gaps.items()},
            **{f"{name}_high": one.high.item() for name, one in gaps.items()},
            "challenger_kl": kl(own_A, self.reference_A).item(),
            "solver_kl": (p_Q * kl(own_Q3, reference_Q3)).sum().item(),
            **described(own_A, self.tasks),
        }

    @cached_property
    def best_solver_Q3(self) -> Tensor:
        """The Solver's best response, which is one whatever is asked: dominant."""
        reference_Q3 = answers_Q3(self.answered, self.answered.echo_Q > -torch.inf)
        return best_response(reference_Q3, self.utility.value, self.stakes.beta_solver)

    def equilibrium(self) -> tuple[Tensor, Tensor]:
        """log pi_Ch [A] against the best Solver: in Gibbs form, which maximises the regularised
        worth, and at the fixed point of the gradient in use, whose KL has no KL to go."""
        earned_A = self.challenger_earns_A(self.best_solver_Q3).value
        beta = self.stakes.beta_challenger
        gibbs_A = best_response(self.reference_A, earned_A, beta)
        return gibbs_A, asked_A(per_token(self.asked, earned_A, beta))

    def predicted(self) -> dict[str, float]:
        """What the base's tables say of both players at their best; names as ``played``'s."""
        gibbs_A, per_token_A = self.equilibrium()
        right_Q = self.best_solver_Q3[:, 0].exp()
        return {
            "accuracy": cell_mean(right_Q, self.tasks),
            "legal_gibbs": 1 - gibbs_A[-1].exp().item(),
            "challenger_kl": kl(per_token_A, self.reference_A).item(),
            **described(per_token_A, self.tasks),
        }


def described(asked_A: Tensor, tasks: Sequence[Task]) -> dict[str, float]:
    """What a Challenger asks. Entropy, support and length are of its legal queries."""
    p_Q = asked_A[:-1].exp()
    legal = p_Q.sum()
    p_Q = p_Q / legal.clamp(min=LEAST)
    entropy = -torch.where(p_Q > 0, p_Q * p_Q.log(), 0.0).sum().item()
    lengths = torch.tensor([len(task.argument) for task in tasks]).double()
    cells = torch.zeros(len(FAMILIES) * len(LENGTHS)).double()
    cells.index_add_(0, cell_numbers(tasks), p_Q * legal)
    return {
        "valid_query_frac": legal.item(),
        "query_entropy": entropy,
        "effective_support": math.exp(entropy) if legal > LEAST else 0.0,
        "coverage": cells.clamp(max=1 / len(cells)).sum().item(),
        "argument_length": (p_Q * lengths).sum().item(),
    }


def cell_numbers(tasks: Sequence[Task]) -> Tensor:
    """Which (family, length) each task belongs to."""
    families = {family: i for i, family in enumerate(FAMILIES)}
    numbers = [families[t.family] * len(LENGTHS) + len(t.argument) - 1 for t in tasks]
    return torch.tensor(numbers)


def cell_mean(value_Q: Tensor, tasks: Sequence[Task]) -> float:
    """The mean over (family, length) of their means, as accuracy has it."""
    numbers = cell_numbers(tasks)
    sums = torch.zeros(int(numbers.max()) + 1).double().index_add_(0, numbers, value_Q)
    counts = numbers.bincount()
    return (sums[counts > 0] / counts[counts > 0]).mean().item()


def per_token(reference: AskedTable, earned_A: Tensor, beta: float) -> AskedTable:
    """The fixed point of the gradient in use, by backward induction over the tree of strings: at
    each node a character's weight is ref e^(W / beta), W what is earned on average below it. In the
    Gibbs form W would also hold the KL that is still to be paid there. What leaves the language is
    one option at each node and goes on as the reference does."""
    illegal = earned_A[-1]

    def chosen(log_ref: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Options in the last axis -> their log-probabilities, and the node's W."""
        out = (1 - log_ref.exp().sum(-1, keepdim=True)).clamp(min=LEAST).log()
        below = torch.cat([below, illegal.expand(out.shape)], -1)
        log_p = best_response(torch.cat([log_ref, out], -1), below, beta)
        return log_p[..., :-1], (log_p.exp() * below).sum(-1)

    letters: dict[str, list[Tensor]] = {}
    value_of: dict[str, Tensor] = {}
    earned_Q, place = earned_A[:-1], 0
    for family, levels in reference.letters.items():
        sizes = [len(level) for level in levels[1:]]
        ends = [torch.zeros(1).double(), *earned_Q[place : place + sum(sizes)].split(sizes)]
        place += sum(sizes)
        found: list[Tensor] = []
        value = torch.zeros(len(levels[-1]) * BRANCHES).double()
        for level, end in zip(reversed(levels), reversed(ends), strict=True):
            below = torch.cat([value.view(-1, BRANCHES), end[:, None]], 1)
            log_p, value = chosen(level, below)
            found.append(log_p)
        letters[family] = found[::-1]
        value_of[f"{family} "] = value[0]
    words: dict[str, dict[str, float]] = {}
    for beginning in sorted(reference.words, key=len, reverse=True):
        options = reference.words[beginning]
        below = torch.stack([value_of[beginning + character] for character in options])
        log_ref = torch.tensor(list(options.values())).double()
        log_p, value_of[beginning] = chosen(log_ref, below)
        words[beginning] = dict(zip(options, log_p.tolist(), strict=True))
    return replace(reference, words=words, letters=letters)
