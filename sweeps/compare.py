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
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev

import yaml
from matplotlib.figure import Figure

from lsp.cli.main import run as run_command
from lsp.contracts import World
from lsp.errors import RunError
from lsp.files import read_csv, write_csv, write_text
from lsp.instructions.world import InstructionsWorld
from lsp.pocket.pretrain import SIZES
from lsp.pocket.world import PocketWorld
from lsp.report.claims import Differences, estimate, holm, verdict
from lsp.report.game import read_index
from lsp.report.river import draw_river
from lsp.settings.command import read_settings
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat
from lsp.tools.places import shipped
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_summary
from sweeps.parallel import require_all
from sweeps.progress import Stage
from sweeps.rows import KINDS, PocketRow, Row


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
    overrides: tuple[str, ...] = setting(
        "of all runs, such as data.path=<file> for the data of GRPO", default=()
    )
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str = setting("of bases, runs and results", default="outputs/compare")


@dataclass(frozen=True)
class Contrasts:
    """A checked file. ``variants``: name -> overrides; ``families``: title -> pairs of variants;
    ``size``: of the pocket world's bases (lsp/pocket/pretrain.py); other worlds have one."""

    bases: tuple[int, ...]
    seeds: int
    steps: int
    variants: Mapping[str, Sequence[str]]
    families: Mapping[str, Sequence[Sequence[str]]]
    size: str = "0.1M"
    world: str = "pocket"

    @property
    def row(self) -> type[Row]:
        return KINDS[self.world]


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


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_settings(CompareSettings, arguments)
        contrasts = read_contrasts(shipped(settings.contrasts))
        if len(contrasts.bases) == 1 and (settings.seeds or contrasts.seeds) == 1:
            raise RunError(
                "claims over one base and one seed have no interval; say seeds=2 or more, or name"
                f" more bases in {settings.contrasts}"
            )
        known = read_rows(Path(settings.known), contrasts.row) if settings.known else {}
    except RunError as error:
        sys.exit(f"error: {error}")
    root, name = Path(settings.folder), Path(settings.contrasts).stem
    runs = all_runs(contrasts, settings.seeds)
    rows = train_all(runs, root, contrasts, settings.workers, known, settings.overrides)
    write_csv(root / f"{name}.csv", rows)
    text = f"{variants_table(rows)}\n{claims_text(rows, contrasts.families)}"
    write_text(root / f"{name}.md", text)
    print(text)
    with Heartbeat("drawing the queries"):
        picture = draw_queries(runs, root, contrasts.world)
    if picture:
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
    if isinstance(tree, dict) and tree.get("world", "pocket") != "pocket":
        tree.setdefault("bases", [0])
    for key, kind in wanted.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(key), kind) or not tree[key]:
            raise RunError(f"{path} has no usable '{key}'; {model}")
    if tree.get("world", "pocket") not in KINDS:
        raise RunError(f"{path}: world={tree['world']} is none of {', '.join(KINDS)}")
    if tree.get("size", "0.1M") not in SIZES:
        raise RunError(f"{path}: size={tree['size']} is none of {', '.join(SIZES)}")
    if unknown := sorted(set(tree) - {*wanted, "size", "world"}):
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


def read_rows(path: Path, kind: type[Row] = PocketRow) -> dict[RowKey, Row]:
    """What an earlier comparison wrote. Raises RunError where it is something else."""
    try:
        kinds = typing.get_type_hints(kind)
        rows = [kind(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]
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
    overrides: Sequence[str] = (),
) -> list[Row]:
    """Bases that are not there yet are pretrained first; a finished run ends at once, and one with
    other settings is refused. Runs whose rows are ``known`` are not made."""
    new = [run for run in runs if run.key not in known]
    folders = {base: base_folder(root, base) for base in dict.fromkeys(run.base for run in new)}
    pocket = contrasts.world == "pocket"
    schooled = [
        ["-m", "lsp.pocket.pretrain", f"seed={base}", f"size={contrasts.size}", f"out={folder}"]
        for base, folder in folders.items()
        if pocket and not (folder / "pretrain.json").is_file()
    ]
    commands = []
    for run in new:
        own_steps = any(text.startswith("num_steps=") for text in run.overrides)
        what = [*run.overrides, *([] if own_steps else [f"num_steps={contrasts.steps}"])]
        own = [f"model.name={folders[run.base]}", "eval.every=0"]
        world = own if pocket else [f"world={contrasts.world}", "eval.every=30"]
        where = [f"run_dir={run.folder(root)}", f"runs_root={root}"]
        always = [f"seed={run.seed}", "tracker=none", "resume=auto"]
        commands.append(["run.py", *world, *what, *where, *overrides, *always])
    require_all(Stage(schooled, workers), Stage(commands, workers))
    root.mkdir(parents=True, exist_ok=True)  # where no run was new, nothing made it
    made = {run.key: contrasts.row.of(*run.key, read_summary(run.folder(root))) for run in new}
    return [(known | made)[run.key] for run in runs]


def base_folder(root: Path, base: int) -> Path:
    return root.resolve() / f"base-{base}" / "model"


def variants_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a variant, each number the mean over bases (over the seeds of one) ± the
    deviation between them."""
    kind = type(rows[0])
    numbers = {
        name: place
        for name, place in kind.numbers.items()
        if not all(math.isnan(getattr(row, name)) for row in rows)
    }
    headings = ["", *(heading for heading, _ in numbers.values())]
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == variant]
        cells = [spread(by_unit(own, name), digits) for name, (_, digits) in numbers.items()]
        lines.append([variant, *cells])
    known = {field.name for field in fields(kind)}
    base = [
        spread(by_unit(rows, f"base_{name}"), digits) if f"base_{name}" in known else ""
        for name, (_, digits) in numbers.items()
    ]
    return markdown_table(headings, [["base", *base], *lines])


def unit_of(rows: Sequence[Row]) -> str:
    """What differences are independent between: ``base``, or ``seed`` where all share one."""
    return "base" if len({row.base for row in rows}) > 1 else "seed"


def by_unit(rows: Sequence[Row], name: str) -> list[float]:
    """A number's mean over the seeds of each base, or of each seed of the one base."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(getattr(row, unit_of(rows)), []).append(getattr(row, name))
    return [mean(own) for own in values.values()]


def spread(values: Sequence[float], digits: int) -> str:
    """mean ± standard deviation (ddof 1); that of one value is 0."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def differences(rows: Sequence[Row], one: str, other: str) -> Differences:
    """Of the outcome, by base over the seeds that both have, or by seed where all share a base."""
    unit = unit_of(rows)
    outcome = {(row.variant, row.base, row.seed): getattr(row, row.outcome) for row in rows}
    found: dict[int, list[float]] = {}
    for (variant, base, seed), value in outcome.items():
        if variant == one and (other, base, seed) in outcome:
            own = base if unit == "base" else seed
            found.setdefault(own, []).append(value - outcome[other, base, seed])
    return found


def claims_text(rows: Sequence[Row], families: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """Markdown: a table a family."""
    headings = ["", "mean", "95 % interval", f"{unit_of(rows)}s above 0", "p", "p (Holm)", ""]
    parts = []
    for title, pairs in families.items():
        found = [estimate(differences(rows, *pair)) for pair in pairs]
        corrected = holm([one.p for one in found])
        lines = [
            [
                " − ".join(pair),
                f"{one.mean:+.3f}",
                f"{one.low:+.3f} to {one.high:+.3f}",
                f"{one.positive} of {one.units}",
                f"{one.p:.2g}",
                f"{p:.2g}",
                verdict(one, p),
            ]
            for pair, one, p in zip(pairs, found, corrected, strict=True)
        ]
        parts.append(f"{title}:\n\n{markdown_table(headings, lines)}")
    return "\n".join(parts)


PICTURED = {"lsp_zero": "LSP-Zero", "lsp": "LSP", "lsp_zero, beta_Ch .3": "LSP-Zero, β_Ch = .3"}


def draw_queries(runs: Sequence[Run], root: Path, name: str = "pocket") -> Path | None:
    """The Challenger's queries over steps, variants side by side: the first base's first seed. None
    where no such run was made here."""
    world: World = {"pocket": PocketWorld, "instructions": InstructionsWorld}[name]()
    folders = {run.variant: run.folder(root) for run in reversed(runs)}
    made = {variant for variant, folder in folders.items() if (folder / "trace").is_dir()}
    shown = {variant: title for variant, title in PICTURED.items() if variant in made}
    if not shown:
        return None
    figure = Figure(figsize=(1 + 4.2 * len(shown), 5.6), layout="constrained")
    axes = figure.subplots(2, len(shown), sharex=True, squeeze=False)
    for row, kinds in zip(axes, world.kinds(())[:2], strict=True):
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
