"""``make reproduce``: run the pocket rows of docs/reproduce.md and say PASS or FAIL for each.

The table is ``sweeps/claims.yaml``; ``python -m sweeps.reproduce table`` prints it for the docs.
"""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeps.parallel import ROOT, require_all

CLAIMS = Path(__file__).with_name("claims.yaml")


@dataclass(frozen=True)
class Step:
    """One ``python -m <command>``."""

    command: str
    minutes: float


@dataclass(frozen=True)
class Claim:
    """A sentence and the number that bears it: ``key`` of ``file``, ``value`` ± ``tolerance``.

    ``file`` is a summary.json, and ``key`` a name in it, or a figure's CSV, and ``key`` a bar, a
    slash and a set.
    """

    text: str
    file: str
    key: str
    value: float
    tolerance: float

    def measured(self, root: Path) -> float:
        path = root / self.file
        if path.suffix == ".json":
            return float(json.loads(path.read_text(encoding="utf-8"))[self.key])
        bar, _, name = self.key.partition("/")
        with path.open(encoding="utf-8", newline="") as stream:
            rows = {(row["bar"], row["set"]): row["win_rate"] for row in csv.DictReader(stream)}
        return float(rows[bar, name])

    def holds(self, measured: float) -> bool:
        return abs(measured - self.value) <= self.tolerance


def read_claims(path: Path = CLAIMS) -> tuple[list[Step], list[Claim]]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Step(**step) for step in tree["steps"]], [Claim(**claim) for claim in tree["claims"]]


def claims_table(steps: Sequence[Step], claims: Sequence[Claim]) -> str:
    """Markdown of both, as docs/reproduce.md has it."""
    lines = ["| command | minutes on two cores |", "|---|---|"]
    lines += [f"| `python -m {step.command}` | {step.minutes:g} |" for step in steps]
    lines += ["", "| claim | value | tolerance | file, key |", "|---|---|---|---|"]
    lines += [
        f"| {c.text} | {c.value:g} | {c.tolerance:g} | `{c.file}`, `{c.key}` |" for c in claims
    ]
    return "\n".join(lines) + "\n"


def verdicts(claims: Sequence[Claim], root: Path) -> tuple[list[str], bool]:
    """A line a claim, and whether all hold."""
    lines, whole = [], True
    for claim in claims:
        measured = claim.measured(root)
        holds = claim.holds(measured)
        whole = whole and holds
        word = "PASS" if holds else "FAIL"
        expected = f"expected {claim.value:g} ± {claim.tolerance:g}"
        lines.append(f"{word}  {claim.text}: {measured:.3f} ({expected})")
    return lines, whole


def main(arguments: Sequence[str]) -> None:
    steps, claims = read_claims()
    if arguments == ["table"]:
        print(claims_table(steps, claims), end="")
        return
    if arguments:
        sys.exit("error: python -m sweeps.reproduce [table]")
    for step in steps:
        require_all([["-m", *shlex.split(step.command)]], 1)
    lines, whole = verdicts(claims, ROOT)
    print("\n".join(lines))
    if not whole:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
