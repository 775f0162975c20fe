"""A W&B sweep file goes in, its points run here without a server, page, table and plot come out.

    lsp sweep sweeps/beta.yaml workers=2
    lsp sweep sweeps/beta.yaml num_steps=50 folder=outputs/quick

``workers``, ``folder``, ``count`` and ``draw_seed`` are this command's; everything else goes to
every run. All points are checked before the first begins. Each has its own run folder and
``resume=auto``: a finished one ends at once, one that was stopped goes on, and one that was run
with other settings is refused.
"""

import hashlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from lsp.cli.main import run
from lsp.errors import ConfigError, RunError
from lsp.files import write_json, write_text
from lsp.settings.command import read_command, split_settings
from lsp.settings.compose import compose
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat, at
from lsp.tools.places import shipped
from lsp.tools.text import markdown_table
from sweeps.outcome import ended
from sweeps.parallel import run_all
from sweeps.space import OURS, Point, Sweep, hydra_value, points, read_sweep, words_of

Outcome = tuple[Point, float]
"""A point of the sweep, and the metric of its run."""
LONGEST_NAME = 120
PAGE = "outcome.html"


@settings
class LocalSettings:
    """This command's own settings, beside those that go to every run."""

    workers: int = setting("runs at once", default=1, ge=1, le=1024)
    folder: str | None = setting("of runs; null: outputs/sweep-<name>", default=None)
    count: int | None = setting(
        "points: so many of a random sweep, the first of a grid; null: run_cap, or all of a grid",
        default=None,
        ge=1,
        le=100_000,
    )
    draw_seed: int = setting("of a random sweep's points", default=0, ge=0, le=2**32 - 1)


def main(arguments: Sequence[str]) -> None:
    try:
        words, overrides = split_settings(LocalSettings, arguments)
        files, settings = read_command(LocalSettings, words)
        if len(files) != 1:
            raise RunError("name one sweep: lsp sweep sweeps/beta.yaml [workers=2 …]")
        sweep = read_sweep(shipped(files[0]))
        folder = Path(settings.folder or f"outputs/sweep-{_as_name(sweep.name)}")
        drawn = points(sweep, settings.count, settings.draw_seed)
        folders = [folder / name for name in folder_names(sweep, drawn)]
        lines = command_lines(sweep, drawn, overrides, folders)
    except RunError as error:
        sys.exit(f"error: {error}")
    from sweeps.page import write_sweep  # scipy, which `--help` need not wait for

    ends: list[str | None] = [None] * len(lines)
    try:
        ends = run_all([["run.py", *line] for line in lines], settings.workers)
    finally:  # also of a sweep that was stopped, with what had ended
        parts = zip(drawn, folders, ends, strict=True)
        runs = [ended(sweep, point, place, failure) for point, place, failure in parts]
        page = write_sweep(sweep, runs, folder / PAGE)
        print(f"page: {page}")
    failures = [failure for failure in ends if failure is not None]
    outcomes = [(run.point, run.value) for run in runs if run.value is not None]
    if not outcomes:
        sys.exit(f"error: no run gave {sweep.metric}" + "".join(f"\n{text}" for text in failures))
    table = outcome_table(sweep, outcomes)
    write_text(folder / "outcome.md", table)
    write_json(folder / "outcome.json", outcomes)
    print(table)
    print(f"table: {folder / 'outcome.md'}\nplot: {draw(sweep, outcomes, folder)}")
    if failures:
        sys.exit(f"error: {len(failures)} runs failed; the first said:\n{failures[0]}")


def command_lines(
    sweep: Sweep, drawn: Sequence[Point], overrides: Sequence[str], folders: Sequence[Path]
) -> list[list[str]]:
    """What each run is started with. Raises RunError where one of them could not run: composed and
    checked as a run's own, all of them before any begins."""
    names = [*OURS, *(parameter.name for parameter in sweep.parameters)]
    for word in (*sweep.words, *overrides):
        if (key := word.partition("=")[0].lstrip("+")) in names:
            raise RunError(f"{word}: {key} is the sweep's own, for each run; leave it out")
    lines = []
    for point, place in zip(drawn, folders, strict=True):
        ours = [f"run_dir={hydra_value(str(place))}", "resume=auto"]
        lines.append([*words_of(point), *sweep.words, *overrides, *ours])
    print(f"checking {len(lines)} points", file=sys.stderr, flush=True)
    wrong = []
    with Heartbeat("checking the points"):
        for number, line in enumerate(lines):
            at(f"{number} of {len(lines)}")
            try:
                compose(line)
            except ConfigError as error:
                wrong.append(f"{' '.join(line)}\n{error}")
    if wrong:
        count = f"{len(wrong)} of {len(lines)} points cannot run, so none was started"
        raise RunError(f"{count}; the first: {wrong[0]}")
    return lines


def folder_names(sweep: Sweep, drawn: Sequence[Point]) -> list[str]:
    """A name for each point, of its swept values; with a hash where that would not tell it."""
    texts = [
        "_".join(f"{name.rpartition('.')[2]}-{point[name]}" for name in sweep.swept) or "only"
        for point in drawn
    ]
    counts, names = Counter(map(_as_name, texts)), []
    for point, text in zip(drawn, texts, strict=True):
        name = _as_name(text)
        if name != text or len(name) > LONGEST_NAME or counts[name] > 1:
            digest = hashlib.sha256(json.dumps(point).encode()).hexdigest()[:8]
            name = f"{name[:LONGEST_NAME]}-{digest}"
        names.append(name)
    return names


def _as_name(text: str) -> str:
    """Without what a path or a shell would read."""
    return re.sub(r"[^\w.+-]", "-", text)


def outcome_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each combination of swept values, over its seeds; the best is marked."""
    values_of = grouped(outcomes, sweep.settings)
    pick = min if sweep.goal == "minimize" else max
    best = pick(values_of, key=lambda key: mean(values_of[key]))
    lines = []
    for key, values in values_of.items():
        cells = [f"{x:g}" if isinstance(x, float) else str(x) for x in key]
        deviation = f"{stdev(values):.4f}" if len(values) > 1 else ""
        mark = "best" if key == best else ""
        lines.append([*cells, f"{mean(values):.4f}", deviation, str(len(values)), mark])
    return markdown_table([*sweep.settings, sweep.metric, "standard deviation", "runs", ""], lines)


def grouped(outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[tuple, list[float]]:
    """The metrics of each combination of values under these names."""
    values_of = defaultdict(list)
    for point, value in outcomes:
        values_of[combination(point, names)].append(value)
    return values_of


def combination(point: Point, names: Sequence[str]) -> tuple:
    """A point's values under these names; a list or group as its text, null as "null"."""
    values = (point[name] for name in names)
    return tuple(hydra_value(x) if x is None or isinstance(x, (list, dict)) else x for x in values)


def draw(sweep: Sweep, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Where two numbers were swept a map of the metric over both, one for each combination of the
    others; else the metric over the first swept value: every run a point, the means a line."""
    numbers = [name for name in sweep.settings if _numeric(outcomes, name)]
    if len(numbers) == 2:
        return _draw_maps(sweep, numbers, outcomes, folder)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.add_subplot()
    for name in (sweep.settings or sweep.swept)[:1]:
        values_of = grouped(outcomes, [name])
        numeric = all(type(x) in (int, float) for (x,) in values_of)
        groups = sorted(values_of.items()) if numeric else list(values_of.items())
        xs = [x if numeric else str(x) for (x,), _ in groups]
        for x, (_, values) in zip(xs, groups, strict=True):
            axis.plot([x] * len(values), values, "o", color="#1f6fb4", alpha=0.5)
        axis.plot(xs, [mean(values) for _, values in groups], color="#1f6fb4")
        if numeric and min(xs) > 0 and max(xs) / min(xs) >= 20:
            axis.set_xscale("log")
        axis.set_xlabel(name)
    axis.set_ylabel(sweep.metric)
    path = folder / "outcome.png"
    figure.savefig(path, dpi=110)
    return path


def _numeric(outcomes: Sequence[Outcome], name: str) -> bool:
    values = [x for (x,) in grouped(outcomes, [name])]
    return len(values) > 1 and all(type(value) in (int, float) for value in values)


def _draw_maps(
    sweep: Sweep, numbers: Sequence[str], outcomes: Sequence[Outcome], folder: Path
) -> Path:
    """Means over seeds as cells, their numbers written in them; all maps share one scale."""
    others = [name for name in sweep.settings if name not in numbers]
    maps = {title: [] for title in grouped(outcomes, others)}
    for point, value in outcomes:
        maps[combination(point, others)].append((point, value))
    means = [mean(values) for values in grouped(outcomes, [*others, *numbers]).values()]
    figure = Figure(figsize=(1 + 4.5 * len(maps), 4), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    xs, ys = (sorted({point[name] for point, _ in outcomes}) for name in numbers)
    for axis, (title, found) in zip(axes, maps.items(), strict=True):
        cells = grouped(found, numbers)
        grid = [[mean(cells.get((x, y), [math.nan])) for x in xs] for y in ys]
        axis.imshow(grid, origin="lower", vmin=min(means), vmax=max(means), cmap="viridis")
        for row, line in enumerate(grid):
            for column, value in enumerate(line):
                if not math.isnan(value):
                    place = {"ha": "center", "va": "center", "color": "white", "fontsize": 9}
                    axis.text(column, row, f"{value:.3f}", **place)
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axis.set_xlabel(numbers[0])
        axis.set_ylabel(numbers[1])
        axis.set_title(", ".join(map(str, title)) or sweep.metric)
    figure.suptitle(sweep.metric)
    path = folder / "outcome.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    sys.exit(run("sweep", sys.argv[1:]))
