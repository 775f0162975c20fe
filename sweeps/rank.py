"""Where a method stands among the rules of others: the same bases, seeds, steps and controls.

    lsp rank seeds=2                         # the rules of sweeps/rules.yaml
    lsp rank my_method.yaml                  # and a row for a method of your own

A method's file is one like those of conf/method/: ``defaults`` names one of them, the keys below
are what differs. Runs are shared with ``sweeps.compare``. Results: <folder>/rank.md and rank.csv.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import yaml

from lsp.cli.main import run
from lsp.errors import ConfigError, RunError
from lsp.files import write_csv, write_text
from lsp.report.claims import estimate, holm, verdict
from lsp.settings.command import read_command
from lsp.settings.compose import CONF, compose
from lsp.settings.schema import setting, settings
from lsp.tools.text import markdown_table
from sweeps.compare import (
    all_runs,
    by_unit,
    differences,
    read_contrasts,
    read_rows,
    spread,
    train_all,
)
from sweeps.rows import PocketRow, Row

CONTROL = "frozen"
RULES = Path(__file__).with_name("rules.yaml")


@settings
class RankSettings:
    """How much is run, and where the results go."""

    seeds: int | None = setting(
        "of each rule; null: what the file says", default=None, ge=1, le=1000
    )
    known: str | None = setting(
        "a .csv of rows (docs/data/rank.csv): runs that are there are not made again", default=None
    )
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str = setting("of bases, runs and results", default="outputs/compare")


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(RankSettings, arguments)
        rules = read_contrasts(RULES)
        known = read_rows(Path(settings.known)) if settings.known else {}
        own = {Path(name).stem: method_overrides(Path(name)) for name in names}
        if taken := sorted(own.keys() & rules.variants.keys()):
            raise RunError(f"{taken[0]} is a rule of {RULES.name} already; name the file otherwise")
    except RunError as error:
        sys.exit(f"error: {error}")
    root = Path(settings.folder)
    runs = all_runs(replace(rules, variants={**rules.variants, **own}), settings.seeds)
    rows = train_all(runs, root, rules, settings.workers, known)
    write_csv(root / "rank.csv", rows)
    learners = [one for pairs in rules.families.values() for one, _ in pairs]
    text = rank_text(rows, [*learners, *own], list(own))
    write_text(root / "rank.md", text)
    print(f"{text}\ntable: {root / 'rank.md'}")


def method_overrides(path: Path) -> list[str]:
    """A method's file -> the overrides that mean it. Raises RunError where it is none, or where its
    settings are refused."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        (start,) = tree.pop("defaults")
        changes = [
            f"method.{key}={'null' if value is None else value}" for key, value in tree.items()
        ]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path}: {' '.join(str(error).split())}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        known = ", ".join(sorted(file.stem for file in (CONF / "method").glob("*.yaml")))
        raise RunError(
            f"{path} is no method: write 'defaults: [<one of {known}>]' and what differs, as in"
            " conf/method/lsp_zero.yaml"
        ) from error
    overrides = [f"method={start}", *changes]
    try:
        compose([*overrides, "tracker=none"])
    except ConfigError as error:
        raise RunError(f"{path}: {error}") from error
    return overrides


def rank_text(rows: Sequence[Row], learners: Sequence[str], own: Sequence[str]) -> str:
    """Markdown, the best first. Learners are held against the frozen Challenger, as one family."""
    found = {name: estimate(differences(rows, name, CONTROL)) for name in learners}
    corrected = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    accuracy = {
        name: mean(by_unit([row for row in rows if row.variant == name], "accuracy"))
        for name in dict.fromkeys(row.variant for row in rows)
    }
    order = sorted(accuracy, key=lambda name: -accuracy[name])
    names = ("accuracy", "challenger_gap", "solver_gap", "coverage", "valid_query_frac")
    shown = {name: PocketRow.numbers[name] for name in names}
    lines = []
    for place, name in enumerate(order, 1):
        mine = [row for row in rows if row.variant == name]
        cells = [spread(by_unit(mine, key), digits) for key, (_, digits) in shown.items()]
        against = ["", "", ""]
        if name in found:
            one = found[name]
            interval = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
            against = [interval, f"{one.positive} of {one.units}", verdict(one, corrected[name])]
        lines.append([str(place), name, *cells, *against])
    headings = ["", "", *(heading for heading, _ in shown.values()),
                f"less {CONTROL}", "bases above 0", ""]  # fmt: skip
    text = markdown_table(headings, lines)
    for name in own:
        word = verdict(found[name], corrected[name])
        than = "a difference is not shown" if word == "not shown" else f"it is {word}"
        place = f"{order.index(name) + 1} of {len(order)}"
        text += f"\n{name} stands at {place}; against a frozen Challenger {than}.\n"
    return text


if __name__ == "__main__":
    sys.exit(run("rank", sys.argv[1:]))
