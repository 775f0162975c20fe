"""Methods and controls over seeds and bases: the tables and the picture of README and docs.

    python -m sweeps.compare                      # part=methods: README's table, picture
    python -m sweeps.compare part=signs           # where a learning Challenger helps
    python -m sweeps.compare seeds=2 workers=1    # smaller

Bases are schooled first where they are missing (seeds that no setting was chosen on). Every
run is ``python run.py`` in a process of its own with ``resume=auto``, so a comparison that was
stopped goes on where it was. Results: <folder>/<part>.md, .json and, for methods, queries.png.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from lsp.errors import RunError
from lsp.report.game import read_index
from lsp.report.river import draw_river
from lsp.settings.command import read_settings
from lsp.tracking.reader import read_summary
from sweeps.parallel import require_all

METHODS = {
    "grpo": ["method=grpo"],
    "lsp": ["method=lsp"],
    "lsp_zero": ["method=lsp_zero"],
    "untrained_challenger": ["method=untrained_challenger"],
    "frozen_challenger": ["method=frozen_challenger"],
    "lsp, k1": ["method=lsp", "method.kl_estimator=k1"],
    "lsp, k3": ["method=lsp", "method.kl_estimator=k3"],
    "lsp, exact KL": ["method=lsp", "method.kl_estimator=exact"],
}
SIGNS = {
    "lsp": ["method=lsp"],
    "lsp, variance": ["method=lsp", "method.challenger_reward=variance"],
    "lsp, band": ["method=lsp", "method.challenger_reward=band"],
    "lsp_zero": ["method=lsp_zero"],
    "untrained_challenger": ["method=untrained_challenger"],
    "frozen_challenger": ["method=frozen_challenger"],
}
CONTROLS = ("untrained_challenger", "frozen_challenger")


@dataclass(frozen=True)
class CompareSettings:
    """``bases``: seeds of schooled bases. ``decays``: how fast the base Challenger's queries
    thin out with length (for part=signs each decay is a column). ``steps``: of each run."""

    part: str = "methods"
    seeds: int = 5
    bases: tuple[int, ...] = (1, 2)
    decays: tuple[float, ...] = (0.7,)
    steps: tuple[int, ...] = (150,)
    workers: int = os.cpu_count() or 1
    folder: str = "outputs/compare"


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

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
        place = f"base-{self.base}-decay-{self.decay:g}-steps-{self.steps}"
        return Path(settings.folder) / place / f"{name}-seed-{self.seed}"


def main(arguments: Sequence[str]) -> None:
    settings = read_arguments(arguments)
    variants = METHODS if settings.part == "methods" else SIGNS
    runs = [
        Run(variant, tuple(overrides), base, decay, steps, seed)
        for decay in settings.decays
        for steps in settings.steps
        for base in settings.bases
        for seed in range(settings.seeds)
        for variant, overrides in variants.items()
    ]
    school_bases(runs, settings)
    summaries = train_all(runs, settings)
    rows = {run: summary for run, summary in zip(runs, summaries, strict=True)}
    folder = Path(settings.folder)
    text = methods_text(rows) if settings.part == "methods" else signs_text(rows)
    (folder / f"{settings.part}.md").write_text(text, encoding="utf-8")
    record = [{**vars(run), "summary": summary} for run, summary in rows.items()]
    (folder / f"{settings.part}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(text)
    if settings.part == "methods":
        print(f"picture: {draw_queries(runs, settings)}")
    print(f"table: {folder / (settings.part + '.md')}")


def read_arguments(arguments: Sequence[str]) -> CompareSettings:
    """Ends the command with one message for anything that is no setting."""
    try:
        settings = read_settings(CompareSettings, arguments)
    except RunError as error:
        sys.exit(f"error: {error}")
    if settings.part not in ("methods", "signs"):
        sys.exit(f"error: part={settings.part}: it is methods or signs")
    return settings


def school_bases(runs: Sequence[Run], settings: CompareSettings) -> None:
    needed = {run.base_folder(settings): run for run in runs}
    commands = [
        ["-m", "lsp.pocket.pretrain", f"seed={run.base}", f"decay={run.decay}", f"out={folder}"]
        for folder, run in needed.items()
        if not (folder / "pretrain.json").is_file()
    ]
    require_all(commands, settings.workers)


def train_all(runs: Sequence[Run], settings: CompareSettings) -> list[dict]:
    """Every run's summary; a finished run ends at once, and one with other settings is refused."""
    commands = [
        [
            "run.py",
            *run.overrides,
            f"model.name={run.base_folder(settings)}",
            f"num_steps={run.steps}",
            f"seed={run.seed}",
            f"run_dir={run.folder(settings)}",
            "resume=auto",
            "tracker=none",
            "eval.every=0",
        ]
        for run in runs
    ]
    require_all(commands, settings.workers)
    return [read_summary(run.folder(settings)) for run in runs]


def from_length(summary: dict, shortest: int, prefix: str = "final") -> float:
    """Mean exact accuracy over the test lengths from ``shortest`` on."""
    return mean(summary[f"{prefix}/accuracy/length_{n}"] for n in range(shortest, 9))


def methods_text(rows: dict[Run, dict]) -> str:
    """Markdown: a line a variant, then paired differences."""
    variants = list(dict.fromkeys(run.variant for run in rows))
    lines = [
        "| | exact accuracy | lengths 5-8 | greedy | wins / ties / losses | valid queries"
        " | distinct | argument length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = list({(run.base, run.decay): summary for run, summary in rows.items()}.values())
    lines.append(
        f"| base | {spread([s['base/accuracy'] for s in base])}"
        f" | {spread([from_length(s, 5, 'base') for s in base])}"
        f" | {spread([s['base/greedy_accuracy'] for s in base])} | "
        f" | {spread([s['base/valid_query_frac'] for s in base], 2)}"
        f" | {spread([s['base/distinct_query_frac'] for s in base], 2)}"
        f" | {spread([s['base/argument_length'] for s in base], 1)} |"
    )
    for variant in variants:
        own = [summary for run, summary in rows.items() if run.variant == variant]
        record = [mean(s[f"final/{key}"] for s in own) for key in ("wins", "ties", "losses")]
        lines.append(
            f"| {variant} | {spread([s['final/accuracy'] for s in own])}"
            f" | {spread([from_length(s, 5) for s in own])}"
            f" | {spread([s['final/greedy_accuracy'] for s in own])}"
            f" | {record[0]:.0f} / {record[1]:.0f} / {record[2]:.0f}"
            f" | {spread([s['final/valid_query_frac'] for s in own], 2)}"
            f" | {spread([s['final/distinct_query_frac'] for s in own], 2)}"
            f" | {spread([s['final/argument_length'] for s in own], 1)} |"
        )
    lines += ["", "Paired differences in exact accuracy, over the same seeds and bases:", ""]
    lines += ["| | mean | 95 % bootstrap interval | positive |", "|---|---|---|---|"]
    for one, other in (
        ("lsp", "grpo"),
        ("lsp", "lsp_zero"),
        ("lsp", "untrained_challenger"),
        ("lsp", "frozen_challenger"),
        ("lsp_zero", "frozen_challenger"),
        ("grpo", "frozen_challenger"),
    ):
        differences = paired(rows, one, other, 1)
        if differences:
            low, high = bootstrap_interval(differences)
            positive = sum(d > 0 for d in differences)
            lines.append(
                f"| {one} - {other} | {mean(differences):+.3f} | {low:+.3f} to {high:+.3f}"
                f" | {positive} of {len(differences)} |"
            )
    return "\n".join(lines) + "\n"


def signs_text(rows: dict[Run, dict]) -> str:
    """Markdown: a learning Challenger against each control, by decay, steps and test length."""
    lines = [
        "| base Challenger's decay (mean length) | steps | learning Challenger | control"
        " | all lengths | lengths 5-8 | lengths 7-8 |",
        "|---|---|---|---|---|---|---|",
    ]
    places = list(dict.fromkeys((run.decay, run.steps) for run in rows))
    learners = [variant for variant in SIGNS if variant not in CONTROLS]
    for decay, steps in places:
        here = {r: s for r, s in rows.items() if (r.decay, r.steps) == (decay, steps)}
        length = mean(s["base/argument_length"] for s in here.values())
        for learner in learners:
            for control in CONTROLS:
                cells = []
                for shortest in (1, 5, 7):
                    differences = paired(here, learner, control, shortest)
                    low, high = bootstrap_interval(differences)
                    sign = "+" if low > 0 else "-" if high < 0 else "0"
                    cells.append(f"{sign} ({mean(differences):+.3f})")
                lines.append(
                    f"| {decay:g} ({length:.1f}) | {steps} | {learner} | {control} | "
                    + " | ".join(cells)
                    + " |"
                )
    lines += ["", "Sign: of the 95 % bootstrap interval over seeds and bases; 0 holds zero."]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """mean ± standard deviation (ddof 1)."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def paired(rows: dict[Run, dict], one: str, other: str, shortest: int) -> list[float]:
    """Differences in exact accuracy on lengths from ``shortest``, same seed and base."""
    found = {
        (run.variant, run.base, run.decay, run.steps, run.seed): from_length(summary, shortest)
        for run, summary in rows.items()
    }
    return [
        value - found[(other, *place)]
        for (variant, *place), value in found.items()
        if variant == one and (other, *place) in found
    ]


def bootstrap_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean; resampling is seeded."""
    sample = np.random.default_rng(0).choice(np.asarray(values), (draws, len(values)))
    low, high = np.percentile(sample.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def draw_queries(runs: Sequence[Run], settings: CompareSettings) -> Path:
    """The Challenger's queries over steps, LSP-Zero beside LSP: the first base's first seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 5.6), sharex=True, layout="constrained")
    titles = {"lsp_zero": "LSP-Zero", "lsp": "LSP"}
    for column, (variant, title) in enumerate(titles.items()):
        run = next(run for run in runs if run.variant == variant)
        queries = read_index(run.folder(settings), None).queries
        for axis, by in zip(axes[:, column], ("family", "length"), strict=True):
            draw_river(axis, queries, by)
            axis.set_title(f"{title}: the Challenger's queries by {by}", fontsize=10)
            if column == 0:
                axis.set_ylabel("share of queries")
            else:
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, reverse=True)
    axes[0, 0].set_xlabel("")
    axes[0, 1].set_xlabel("")
    path = Path(settings.folder) / "queries.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
