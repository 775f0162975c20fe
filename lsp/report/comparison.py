"""Several records go in; which ends better, what may be said of it and what cannot come out, pure.

Two sides are compared prompt by prompt on the held-out prompts that both answered, and by seed
where both have the same two seeds or more: the first speaks of these runs, the second of what
they were set to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from lsp.report.claims import Estimate, estimate, holm, paired, verdict
from lsp.report.record import Record
from lsp.report.sides import Side, different_settings, prompts_of, sides_of


class Claim(NamedTuple):
    """``one`` minus ``other``. ``over``: ``prompts`` or ``seeds``; ``p``: corrected by Holm within
    all claims over the same; ``says``: better, worse or not shown."""

    one: Side
    other: Side
    over: str
    found: Estimate
    p: float
    says: str


@dataclass(frozen=True)
class Comparison:
    """``apart``: why pairs of sides are not compared, in sentences. ``number``: what the scores
    are, in words."""

    sides: Sequence[Side]
    number: str
    claims: Sequence[Claim]
    apart: Sequence[str]

    def of(self, over: str) -> list[Claim]:
        return [claim for claim in self.claims if claim.over == over]

    @property
    def decisive(self) -> list[Claim]:
        """Of each pair the claim over seeds, where there is one, else over prompts."""
        pairs = {
            (c.one.letter, c.other.letter): c for c in (*self.of("prompts"), *self.of("seeds"))
        }
        return list(pairs.values())


def compare(records: Sequence[Record]) -> Comparison:
    """Raises DamagedFile where a run's scores cannot be read."""
    sides = sides_of(records)
    number = next(iter(records[0].labels.values()), "the evaluation's number")
    pairs, apart = [], []
    for one, other in combinations(sides, 2):
        if reason := obstacle(one, other):
            apart.append(f"{one.letter} and {other.letter} are not compared: {reason}.")
        else:
            pairs.append((one, other) if one.trained >= other.trained else (other, one))
    over_prompts = [(one, other, between(one, other)) for one, other in pairs]
    over_seeds = [
        (one, other, estimate(values))
        for one, other in pairs
        if len(values := shared(one, other)) > 1
    ]
    claims = [*_family("prompts", over_prompts), *_family("seeds", over_seeds)]
    return Comparison(sides, number, claims, list(dict.fromkeys(apart)))


def obstacle(one: Side, other: Side) -> str:
    """Why two sides cannot be paired; empty where they can."""
    for side in (one, other):
        if not side.measured:
            return f"{side.letter} has no scores of held-out prompts: {_why_none(side.runs[0])}"
    for side in (one, other):
        if any(prompts_of(rows) != side.prompts for _, rows in side.measured):
            return f"the runs of {side.letter} answered different held-out prompts"
    names = [side.measured[0][0].evaluation for side in (one, other)]
    if names[0] != names[1]:
        return f"their evaluations are {names[0]} and {names[1]}"
    if one.prompts != other.prompts:
        common = len({text for text, _ in one.prompts} & {text for text, _ in other.prompts})
        counts = f"{len(one.rows):,} and {len(other.rows):,}, {common:,} of them the same"
        return f"they answered different held-out prompts ({counts})"
    if len(one.rows) < 2:
        return "one held-out prompt gives no interval"
    return ""


def _why_none(run: Record) -> str:
    if not run.summary:
        return run.state.rstrip(".")
    return "it was not evaluated, its evaluation keeps none, or an earlier version wrote it"


def between(one: Side, other: Side) -> Estimate:
    """One minus other over the prompts, by the weights of the evaluation's first number."""
    differences = [a - b for a, b in zip(one.scores, other.scores, strict=True)]
    return paired(differences, [weight for _, weight in one.prompts])


def shared(one: Side, other: Side) -> dict[int, list[float]]:
    """Seed -> one minus other, of the seeds that both have."""
    ours, theirs = one.by_seed(), other.by_seed()
    return {seed: [ours[seed] - theirs[seed]] for seed in ours if seed in theirs}


def _family(over: str, found: Sequence[tuple[Side, Side, Estimate]]) -> list[Claim]:
    corrected = holm([one.p for *_, one in found])
    return [
        Claim(one, other, over, difference, p, verdict(difference, p))
        for (one, other, difference), p in zip(found, corrected, strict=True)
    ]


def outcome(comparison: Comparison) -> str:
    """Which ends better, in one sentence."""
    claims = comparison.decisive
    if not claims:
        return "No outcome: no two of these runs can be compared."
    compared = {side.letter: side for claim in claims for side in (claim.one, claim.other)}
    if len(compared) == 2:
        (claim,) = claims
        one, other, found = claim.one, claim.other, claim.found
        numbers = (
            f"{comparison.number} {one.trained:.3f} against {other.trained:.3f}, difference"
            f" {found.mean:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}, over the"
            f" same {found.units:,} {claim.over})"
        )
        if claim.says == "not shown":
            return f"No difference is shown between {one.letter} and {other.letter}: {numbers}."
        return f"{one.letter} ends better than {other.letter}: {numbers}."
    best = max(compared.values(), key=lambda side: side.trained)
    against = [claim for claim in claims if claim.one.letter == best.letter]
    beaten = [claim.other.letter for claim in against if claim.says == "better"]
    rest = [claim.other.letter for claim in against if claim.says != "better"]
    shown = f"that it is better than {_listed(beaten)} is shown, " if beaten else ""
    if rest:
        shown += (
            f"{'that' if beaten else 'but that'} it is better than {_listed(rest)} is not shown, "
        )
    return (
        f"{best.letter} ends highest of {len(compared)} with {comparison.number}"
        f" {best.trained:.3f}; {shown}by Holm's correction for {len(claims)} pairs."
    )


def _listed(letters: Sequence[str]) -> str:
    *first, last = letters
    return f"{', '.join(first)} and {last}" if first else last


def conditions(comparison: Comparison) -> list[str]:
    """What the outcome holds under, in sentences."""
    claims = comparison.decisive
    if not claims:
        return []
    notes = []
    if comparison.of("seeds"):
        counts = sorted({claim.found.units for claim in comparison.of("seeds")})
        notes.append(
            f"Paired by seed ({' or '.join(map(str, counts))} that both have): it speaks of these"
            " settings on this base, not of these runs alone. Another base may come out otherwise;"
            " lsp compare makes several."
        )
    if any(claim.over == "prompts" for claim in claims):
        run = (
            "one run each" if all(len(s.measured) == 1 for s in comparison.sides) else "these runs"
        )
        notes.append(
            f"The interval is over the held-out prompts, of {run}: a difference between these"
            " runs, not between their methods. Another seed may turn it round; name runs of the"
            " same settings and the same two seeds or more, and the interval is over seeds."
        )
    if len(claims) > 1:
        notes.append(
            "Intervals are of each pair by itself and p is corrected for all of them, so that an"
            " interval may leave zero out where nothing is shown."
        )
    if [key for key, _ in different_settings(comparison.sides)] == ["seed"]:
        notes.append("Nothing but the seed differs: what is seen here is chance.")
    if len({side.base for side in comparison.sides if side.rows}) > 1:
        notes.append("They started from different bases, whose own numbers are in the table.")
    return notes
