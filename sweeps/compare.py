"""Runs of methods and controls, over seeds and bases -> the tables and the picture of the docs.

    python -m sweeps.compare                      # part=methods: README's table, picture
    python -m sweeps.compare part=signs           # where a learning Challenger helps
    python -m sweeps.compare seeds=2 workers=1    # smaller

Bases are pretrained first where they are missing (seeds that no setting was chosen on). Every
run is ``python run.py`` in a process of its own with ``resume=auto``, so a comparison that was
stopped goes on where it was. Results: <folder>/<part>.md, .json and, for methods, queries.png.
"""

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

from matplotlib.figure import Figure

from eval.win_rate import mean_interval
from lsp.errors import RunError
from lsp.files import write_json, write_text
from lsp.pocket.world import PocketWorld
from lsp.report.game import read_index
from lsp.report.river import draw_river
from lsp.settings.command import read_settings
from lsp.settings.schema import setting, settings
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_summary
from sweeps.parallel import require_all

CONTROLS = ("untrained_challenger", "frozen_challenger")
METHODS = {
    **{name: [f"method={name}"] for name in ("grpo", "lsp", "lsp_zero", *CONTROLS)},
    "lsp, k1": ["method=lsp", "method.kl_estimator=k1"],
    "lsp, k3": ["method=lsp", "method.kl_estimator=k3"],
    "lsp, exact KL": ["method=lsp", "method.kl_estimator=exact"],
}
SIGNS = {
    "lsp": ["method=lsp"],
    "lsp, variance": ["method=lsp", "method.challenger_reward=variance"],
    "lsp, band": ["method=lsp", "method.challenger_reward=band"],
    **{name: METHODS[name] for name in ("lsp_zero", *CONTROLS)},
}
PAIRS = (
    *(("lsp", other) for other in ("grpo", "lsp_zero", *CONTROLS)),
    ("lsp_zero", "frozen_challenger"),
    ("grpo", "frozen_challenger"),
)
"""Methods whose exact accuracies are compared, seed by seed."""


@settings
class CompareSettings:
    """What is trained, and where the results go."""

    part: Literal["methods", "signs"] = setting("which of the two tables", default="methods")
    seeds: int = setting("of each variant", default=5, ge=1, le=1000)
    bases: tuple[int, ...] = setting("seeds of pretrained bases", default=(1, 2))
    decays: tuple[float, ...] = setting("how base queries thin out with length", default=(0.7,))
    steps: tuple[int, ...] = setting("of each run", default=(150,))
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str = setting("of bases, runs and results", default="outputs/compare")


@dataclass(frozen=True)
class Run:
    variant: str
    overrides: tuple[str, ...]
    base: int
    decay: float
    steps: int
    seed: int

    def base_folder(self, settings: CompareSettings) -> Path:
        return Path(settings.folder) / f"base-{self.base}-decay-{self.decay:g}"

    def folder(self, settings: CompareSettings) -> Path:
        name = self.variant.replace(", ", "-").replace(" ", "-")
        return Path(f"{self.base_folder(settings)}-steps-{self.steps}") / f"{name}-seed-{self.seed}"


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_settings(CompareSettings, arguments)
    except RunError as error:
        sys.exit(f"error: {error}")
    is_signs = settings.part == "signs"
    options = settings.decays, settings.steps, settings.bases, range(settings.seeds)
    runs = [
        Run(variant, tuple(overrides), base, decay, steps, seed)
        for decay, steps, base, seed in itertools.product(*options)
        for variant, overrides in (SIGNS if is_signs else METHODS).items()
    ]
    rows = train_all(runs, settings)
    table = Path(settings.folder) / f"{settings.part}.md"
    text = signs_text(rows) if is_signs else methods_text(rows)
    write_text(table, text)
    write_json(table.with_suffix(".json"), [{**vars(r), "summary": s} for r, s in rows.items()])
    print(text)
    if not is_signs:
        print(f"picture: {draw_queries(runs, settings)}")
    print(f"table: {table}")


def train_all(runs: Sequence[Run], settings: CompareSettings) -> dict[Run, dict]:
    """Every run's summary. Bases that are not there yet are pretrained first; a finished run ends
    at once, and one with other settings is refused."""
    bases = {run.base_folder(settings): run for run in runs}
    commands = [
        ["-m", "lsp.pocket.pretrain", f"seed={run.base}", f"decay={run.decay}", f"out={folder}"]
        for folder, run in bases.items()
        if not (folder / "pretrain.json").is_file()
    ]
    require_all(commands, settings.workers)
    commands = []
    for run in runs:
        where = [f"model.name={run.base_folder(settings)}", f"run_dir={run.folder(settings)}"]
        how_long = [f"num_steps={run.steps}", f"seed={run.seed}"]
        always = ["resume=auto", "tracker=none", "eval.every=0"]
        commands.append(["run.py", *run.overrides, *where, *how_long, *always])
    require_all(commands, settings.workers)
    return {run: read_summary(run.folder(settings)) for run in runs}


def from_length(summary: dict, shortest: int, prefix: str = "final") -> float:
    """Mean exact accuracy over the test lengths from ``shortest`` to 8."""
    return mean(summary[f"{prefix}/accuracy/length_{n}"] for n in range(shortest, 9))


def methods_text(rows: Mapping[Run, dict]) -> str:
    """Markdown: a line a variant, then paired differences."""
    heading = ["", "exact accuracy", "lengths 5-8", "greedy", "wins / ties / losses",
               "valid queries", "distinct", "argument length"]  # fmt: skip

    digits = {"accuracy": 3, "greedy_accuracy": 3, "valid_query_frac": 2, "distinct_query_frac": 2,
              "argument_length": 1}  # fmt: skip

    def line(label: str, summaries: Sequence[dict], side: str, record: str = "") -> list[str]:
        accuracy, greedy, *others = (
            spread([s[f"{side}/{key}"] for s in summaries], d) for key, d in digits.items()
        )
        longer_half = spread([from_length(summary, 5, side) for summary in summaries])
        return [label, accuracy, longer_half, greedy, record, *others]

    by_base = {(run.base, run.decay): summary for run, summary in rows.items()}
    lines = [line("base", list(by_base.values()), "base")]
    for variant in dict.fromkeys(run.variant for run in rows):
        summaries = [summary for run, summary in rows.items() if run.variant == variant]
        counts = [mean(s[f"final/{key}"] for s in summaries) for key in ("wins", "ties", "losses")]
        lines.append(line(variant, summaries, "final", "{:.0f} / {:.0f} / {:.0f}".format(*counts)))
    differences = []
    for one, other in PAIRS:
        if values := paired(rows, one, other, 1):
            interval = "{:+.3f} to {:+.3f}".format(*mean_interval(values))
            positive = f"{sum(value > 0 for value in values)} of {len(values)}"
            differences.append([f"{one} - {other}", f"{mean(values):+.3f}", interval, positive])
    return (
        markdown_table(heading, lines)
        + "\nPaired differences in exact accuracy, over the same seeds and bases:\n\n"
        + markdown_table(["", "mean", "95 % bootstrap interval", "positive"], differences)
    )


def signs_text(rows: Mapping[Run, dict]) -> str:
    """Markdown: a learning Challenger against each control, by decay, steps and test length."""
    heading = ["base Challenger's decay (mean length)", "steps", "learning Challenger", "control",
               "all lengths", "lengths 5-8", "lengths 7-8"]  # fmt: skip
    learners = [variant for variant in SIGNS if variant not in CONTROLS]
    lines = []
    for decay, steps in dict.fromkeys((run.decay, run.steps) for run in rows):
        group = {r: s for r, s in rows.items() if (r.decay, r.steps) == (decay, steps)}
        length = mean(summary["base/argument_length"] for summary in group.values())
        place = [f"{decay:g} ({length:.1f})", str(steps)]
        for learner, control in itertools.product(learners, CONTROLS):
            cells = []
            for shortest in (1, 5, 7):
                differences = paired(group, learner, control, shortest)
                low, high = mean_interval(differences)
                sign = "+" if low > 0 else "-" if high < 0 else "0"
                cells.append(f"{sign} ({mean(differences):+.3f})")
            lines.append([*place, learner, control, *cells])
    legend = "\nSign: of the 95 % bootstrap interval over seeds and bases; 0 holds zero.\n"
    return markdown_table(heading, lines) + legend


def spread(values: Sequence[float], digits: int = 3) -> str:
    """mean ± standard deviation (ddof 1); that of one value is 0."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def paired(rows: Mapping[Run, dict], one: str, other: str, shortest: int) -> list[float]:
    """Differences in exact accuracy on lengths from ``shortest``, same seed and base."""
    accuracy = {
        (run.variant, run.base, run.decay, run.steps, run.seed): from_length(summary, shortest)
        for run, summary in rows.items()
    }
    return [
        value - accuracy[other, *place]
        for (variant, *place), value in accuracy.items()
        if variant == one and (other, *place) in accuracy
    ]


def draw_queries(runs: Sequence[Run], settings: CompareSettings) -> Path:
    """The Challenger's queries over steps, LSP-Zero beside LSP: the first base's first seed."""
    world = PocketWorld()
    folders = {run.variant: run.folder(settings) for run in reversed(runs)}
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for row, kinds in zip(axes, world.kinds(()), strict=True):
        for axis, variant, title in zip(row, ("lsp_zero", "lsp"), ("LSP-Zero", "LSP"), strict=True):
            draw_river(axis, read_index(folders[variant], world).queries, kinds)
            axis.set_title(f"{title}: the Challenger's queries by {kinds.title}", fontsize=10)
        row[0].set_ylabel("share of queries")
        row[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, reverse=True)
    for axis in axes[0]:
        axis.set_xlabel("")
    path = Path(settings.folder) / "queries.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
