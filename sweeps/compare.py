"""Runs of methods and controls, over seeds and bases -> the tables and the picture of the docs.

    lsp compare contrasts=sweeps/contrasts.yaml       # README's table
    lsp compare contrasts=mine.yaml seeds=1           # other variants and claims; smaller

Bases are pretrained first where they are missing. Every run is ``lsp train`` in a process of
its own with ``resume=auto``, so a comparison that was stopped goes on where it was. Results:
<folder>/<name of the file>.md, .csv and a picture of what was asked, queries.png.
"""

import math
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from matplotlib.figure import Figure

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.files import read_csv, write_csv, write_text
from lsp.pocket.pretrain import SIZES
from lsp.pocket.world import PocketWorld
from lsp.report.game import read_index
from lsp.report.river import draw_river
from lsp.settings.command import read_settings
from lsp.settings.schema import setting, settings
from lsp.tools.places import shipped
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_summary
from sweeps.claims import Differences, estimate, holm, verdict
from sweeps.parallel import require_all


@settings
class CompareSettings:
    """What is trained, and where the results go."""

    contrasts: str = setting("variants and claims", default="sweeps/contrasts.yaml")
    seeds: int | None = setting(
        "of each variant; null: what the file says", default=None, ge=1, le=1000
    )
    known: str | None = setting(
        "a .csv of rows (docs/data/contrasts.csv): runs that are there are not made again",
        default=None,
    )
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str = setting("of bases, runs and results", default="outputs/compare")


@dataclass(frozen=True)
class Contrasts:
    """A checked file. ``variants``: name -> overrides; ``families``: title -> pairs of variants;
    ``size``: of the bases (lsp/pocket/pretrain.py)."""

    bases: tuple[int, ...]
    seeds: int
    steps: int
    variants: Mapping[str, Sequence[str]]
    families: Mapping[str, Sequence[Sequence[str]]]
    size: str = "0.1M"


RowKey = tuple[str, int, int]
"""(variant, base, seed)"""


@dataclass(frozen=True)
class Run:
    variant: str
    overrides: tuple[str, ...]
    base: int
    seed: int

    @property
    def key(self) -> RowKey:
        return self.variant, self.base, self.seed

    def folder(self, root: Path) -> Path:
        name = "".join(c if c.isalnum() or c in "._" else "-" for c in self.variant)
        return root / f"base-{self.base}" / f"{name}-seed-{self.seed}"


@dataclass(frozen=True)
class Row:
    """One run's outcome; numbers are ``final/…`` of its summary, of the test split. NaN: what only
    the exact game tells, of a run with ``eval.exact=false``."""

    variant: str
    base: int
    seed: int
    accuracy: float
    accuracy_5_to_8: float
    greedy_accuracy: float
    valid_query_frac: float
    argument_length: float
    base_accuracy: float
    seconds: float
    effective_support: float = math.nan
    coverage: float = math.nan
    challenger_gap: float = math.nan
    solver_gap: float = math.nan
    nash_conv: float = math.nan


NUMBERS = {
    "accuracy": ("exact accuracy", 3),
    "accuracy_5_to_8": ("lengths 5-8", 3),
    "greedy_accuracy": ("greedy", 3),
    "valid_query_frac": ("legal queries", 2),
    "coverage": ("coverage", 2),
    "argument_length": ("length", 1),
    "challenger_gap": ("Challenger's gap", 2),
    "solver_gap": ("Solver's gap", 3),
}
"""Columns of the table: field of a row -> (heading, digits); what no run measured is left out."""


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_settings(CompareSettings, arguments)
        contrasts = read_contrasts(shipped(settings.contrasts))
        known = read_rows(Path(settings.known)) if settings.known else {}
    except RunError as error:
        sys.exit(f"error: {error}")
    root, name = Path(settings.folder), Path(settings.contrasts).stem
    runs = all_runs(contrasts, settings.seeds)
    rows = train_all(runs, root, contrasts, settings.workers, known)
    write_csv(root / f"{name}.csv", rows)
    text = f"{variants_table(rows)}\n{claims_text(rows, contrasts.families)}"
    write_text(root / f"{name}.md", text)
    print(text)
    if picture := draw_queries(runs, root):
        print(f"picture: {picture}")
    print(f"table: {root / name}.md")


def read_contrasts(path: Path) -> Contrasts:
    """Raises RunError for what cannot be used, with the way out."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path}: {' '.join(str(error).split())}") from error
    model = "see sweeps/contrasts.yaml for one that works"
    wanted = {"bases": list, "seeds": int, "steps": int, "variants": dict, "families": dict}
    for key, kind in wanted.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(key), kind) or not tree[key]:
            raise RunError(f"{path} has no usable '{key}'; {model}")
    if tree.get("size", "0.1M") not in SIZES:
        raise RunError(f"{path}: size={tree['size']} is none of {', '.join(SIZES)}")
    if unknown := sorted(set(tree) - {*wanted, "size"}):
        raise RunError(f"{path}: {unknown[0]} is no key here; {model}")
    for name, overrides in tree["variants"].items():
        if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
            raise RunError(f"{path}: variant {name} is no list of overrides; {model}")
    for pairs in tree["families"].values():
        for pair in pairs:
            missing = [name for name in pair if name not in tree["variants"]]
            if missing or len(pair) != 2:
                which = missing[0] if missing else pair
                raise RunError(f"{path}: {which} is no variant of its own; {model}")
    return Contrasts(**{**tree, "bases": tuple(tree["bases"])})


def read_rows(path: Path) -> dict[RowKey, Row]:
    """What an earlier comparison wrote. Raises RunError where it is something else."""
    try:
        kinds = typing.get_type_hints(Row)
        rows = [Row(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} holds no rows of sweeps.compare: {error!r}") from error
    return {(row.variant, row.base, row.seed): row for row in rows}


def all_runs(contrasts: Contrasts, seeds: int | None = None) -> list[Run]:
    """Seed by seed, so that a comparison that is stopped has every variant."""
    return [
        Run(name, tuple(overrides), base, seed)
        for seed in range(seeds or contrasts.seeds)
        for base in contrasts.bases
        for name, overrides in contrasts.variants.items()
    ]


def train_all(
    runs: Sequence[Run],
    root: Path,
    contrasts: Contrasts,
    workers: int,
    known: Mapping[RowKey, Row],
) -> list[Row]:
    """Bases that are not there yet are pretrained first; a finished run ends at once, and one with
    other settings is refused. Runs whose rows are ``known`` are not made."""
    new = [run for run in runs if run.key not in known]
    folders = {base: base_folder(root, base) for base in dict.fromkeys(run.base for run in new)}
    schooled = [
        ["-m", "lsp.pocket.pretrain", f"seed={base}", f"size={contrasts.size}", f"out={folder}"]
        for base, folder in folders.items()
        if not (folder / "pretrain.json").is_file()
    ]
    require_all(schooled, workers)
    commands = []
    for run in new:
        own_steps = any(text.startswith("num_steps=") for text in run.overrides)
        what = [*run.overrides, *([] if own_steps else [f"num_steps={contrasts.steps}"])]
        where = [f"model.name={folders[run.base]}", f"run_dir={run.folder(root)}"]
        always = [f"runs_root={root}", f"seed={run.seed}", "tracker=none", "eval.every=0"]
        commands.append(["run.py", *what, *where, *always, "resume=auto"])
    require_all(commands, workers)
    root.mkdir(parents=True, exist_ok=True)  # where no run was new, nothing made it
    made = {run.key: row_of(run, read_summary(run.folder(root))) for run in new}
    return [(known | made)[run.key] for run in runs]


def base_folder(root: Path, base: int) -> Path:
    return root.resolve() / f"base-{base}" / "model"


def row_of(run: Run, summary: Mapping[str, Any]) -> Row:
    longer = mean(summary[f"final/accuracy/length_{n}"] for n in range(5, 9))
    same = {
        name: summary[f"final/{name}"]
        for name in Row.__dataclass_fields__
        if f"final/{name}" in summary
    }
    return Row(
        variant=run.variant,
        base=run.base,
        seed=run.seed,
        accuracy_5_to_8=longer,
        base_accuracy=summary["base/accuracy"],
        seconds=summary["seconds"],
        **same,
    )


def variants_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a variant, each number the mean over bases ± the deviation between them."""
    numbers = {k: v for k, v in NUMBERS.items() if not all(math.isnan(getattr(r, k)) for r in rows)}
    headings = ["", *(heading for heading, _ in numbers.values())]
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == variant]
        cells = [spread(by_base(own, name), digits) for name, (_, digits) in numbers.items()]
        lines.append([variant, *cells])
    base = ["base", spread(by_base(rows, "base_accuracy"), 3), *[""] * (len(numbers) - 1)]
    return markdown_table(headings, [base, *lines])


def by_base(rows: Sequence[Row], name: str) -> list[float]:
    """A number's mean over the seeds of each base."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.base, []).append(getattr(row, name))
    return [mean(own) for own in values.values()]


def spread(values: Sequence[float], digits: int) -> str:
    """mean ± standard deviation (ddof 1); that of one value is 0."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def differences(rows: Sequence[Row], one: str, other: str) -> Differences:
    """Of exact accuracy, by base, over the seeds that both have."""
    accuracy = {(row.variant, row.base, row.seed): row.accuracy for row in rows}
    found: dict[int, list[float]] = {}
    for (variant, base, seed), value in accuracy.items():
        if variant == one and (other, base, seed) in accuracy:
            found.setdefault(base, []).append(value - accuracy[other, base, seed])
    return found


def claims_text(rows: Sequence[Row], families: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """Markdown: a table a family."""
    headings = ["", "mean", "95 % interval", "bases above 0", "p", "p (Holm)", ""]
    parts = []
    for title, pairs in families.items():
        found = [estimate(differences(rows, *pair)) for pair in pairs]
        corrected = holm([one.p for one in found])
        lines = [
            [
                " − ".join(pair),
                f"{one.mean:+.3f}",
                f"{one.low:+.3f} to {one.high:+.3f}",
                f"{one.positive} of {one.bases}",
                f"{one.p:.2g}",
                f"{p:.2g}",
                verdict(one, p),
            ]
            for pair, one, p in zip(pairs, found, corrected, strict=True)
        ]
        parts.append(f"{title}:\n\n{markdown_table(headings, lines)}")
    return "\n".join(parts)


PICTURED = {"lsp_zero": "LSP-Zero", "lsp": "LSP", "lsp_zero, beta_Ch .3": "LSP-Zero, β_Ch = .3"}


def draw_queries(runs: Sequence[Run], root: Path) -> Path | None:
    """The Challenger's queries over steps, variants side by side: the first base's first seed. None
    where no such run was made here."""
    world = PocketWorld()
    folders = {run.variant: run.folder(root) for run in reversed(runs)}
    made = {variant for variant, folder in folders.items() if (folder / "trace").is_dir()}
    shown = {variant: title for variant, title in PICTURED.items() if variant in made}
    if not shown:
        return None
    figure = Figure(figsize=(1 + 4.2 * len(shown), 5.6), layout="constrained")
    axes = figure.subplots(2, len(shown), sharex=True, squeeze=False)
    for row, kinds in zip(axes, world.kinds(()), strict=True):
        for axis, (variant, title) in zip(row, shown.items(), strict=True):
            draw_river(axis, read_index(folders[variant], world).queries, kinds)
            axis.set_title(f"{title}: queries by {kinds.title}", fontsize=10)
        row[0].set_ylabel("share of queries")
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, reverse=True)
    for axis in axes[0]:
        axis.set_xlabel("")
    path = root / "queries.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:]))
