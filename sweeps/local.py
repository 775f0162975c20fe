"""A W&B sweep file goes in, its points run here without a server, a table and a plot come out.

    python -m sweeps.local sweeps/beta.yaml workers=2
    python -m sweeps.local sweeps/beta.yaml num_steps=50 folder=outputs/quick

``workers``, ``folder``, ``count`` (points of a random sweep) and ``draw_seed`` are this command's;
everything else goes to every run. Points become arguments by the same function that W&B's agent
uses. Each point has its own run folder and ``resume=auto``: a finished one ends at once, one that
was stopped goes on, and one that was run with other settings is refused.
"""

import itertools
import math
import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from matplotlib.figure import Figure

from lsp.errors import RunError
from lsp.files import write_json, write_text
from lsp.settings.command import read_command, split_settings
from lsp.settings.schema import setting, settings
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_summary
from sweeps.parallel import run_all

Point = dict[str, Any]
Outcome = tuple[Point, float]
"""A point of the sweep, and the metric of its run."""
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file. ``swept``: parameters of several values; ``settings``: no seed."""

    name: str
    metric: str
    goal: str
    method: str
    parameters: dict[str, dict[str, Any]]

    @property
    def swept(self) -> list[str]:
        return [name for name, spec in self.parameters.items() if "value" not in spec]

    @property
    def settings(self) -> list[str]:
        return [name for name in self.swept if name != "seed"]


@settings
class LocalSettings:
    """This command's own settings, beside those that go to every run."""

    workers: int = setting("runs at once", default=1, ge=1, le=1024)
    folder: str | None = setting("of runs; null: outputs/sweep-<name>", default=None)
    count: int | None = setting("points of a random sweep", default=None, ge=1, le=100_000)
    draw_seed: int = setting("of a random sweep's points", default=0, ge=0, le=2**32 - 1)


def read_sweep(path: Path) -> Sweep:
    """A sweep file in W&B's format. Raises RunError."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"there is no file {path}; sweep files are in sweeps/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("parameters"), dict):
        raise RunError(f"{path} has no 'parameters'; see sweeps/beta.yaml for one that works")
    method = tree.get("method")
    if method not in ("grid", "random"):
        more = "; bayes needs W&B's server: wandb sweep, wandb agent" if method == "bayes" else ""
        raise RunError(f"{path}: method={method} is neither grid nor random{more}")
    metric = tree.get("metric")
    if not isinstance(metric, dict) or not metric.get("name"):
        raise RunError(f"{path} has no metric.name; for instance eval/pocket/win_rate")
    if tree.get("program") != "run.py":
        raise RunError(f"{path}: program={tree.get('program')}; runs here are of run.py")
    for name, spec in tree["parameters"].items():
        _check_parameter(path, method, name, spec)
    goal = metric.get("goal", "minimize")
    return Sweep(tree.get("name", path.stem), metric["name"], goal, method, tree["parameters"])


def _check_parameter(path: Path, method: str, name: str, spec: Any) -> None:
    where = f"{path}: parameter {name}"
    if not isinstance(spec, dict):
        raise RunError(f"{where} is {spec!r}; write 'value: …', 'values: […]' or 'min', 'max'")
    if "value" in spec or (isinstance(spec.get("values"), list) and spec["values"]):
        return
    if "values" in spec:
        raise RunError(f"{where} has no list of values")
    if method == "grid":
        raise RunError(f"{where} has no values, and a grid needs them; or choose method: random")
    kind = spec.get("distribution", "uniform")
    if kind not in DISTRIBUTIONS:
        raise RunError(f"{where}: distribution={kind} is none of {', '.join(DISTRIBUTIONS)}")
    low, high = spec.get("min"), spec.get("max")
    if not {type(low), type(high)} <= {int, float} or low > high:
        raise RunError(f"{where} needs numbers min <= max, and has min={low}, max={high}")
    if kind == "log_uniform_values" and low <= 0:
        raise RunError(f"{where}: a log scale needs min above 0, and has min={low}")


def points(sweep: Sweep, count: int | None, seed: int) -> list[Point]:
    """Every point of a grid, or ``count`` random ones (the same ones for the same seed)."""
    specs = sweep.parameters
    if sweep.method == "grid":
        options = [[s["value"]] if "value" in s else s["values"] for s in specs.values()]
        return [dict(zip(specs, values, strict=True)) for values in itertools.product(*options)]
    if count is None:
        raise RunError("a random sweep has no end: say count=<number of points>")
    source = random.Random(f"sweep {seed}")
    drawn: list[Point] = []
    for _ in range(1000 * count):  # a point drawn before is drawn again
        point = {name: _draw(spec, source) for name, spec in specs.items()}
        if point not in drawn:
            drawn.append(point)
        if len(drawn) == count:
            return drawn
    raise RunError(f"the sweep has {len(drawn)} different points, fewer than count={count}")


def _draw(spec: dict[str, Any], source: random.Random) -> Any:
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return source.choice(spec["values"])
    low, high = spec["min"], spec["max"]
    match spec.get("distribution"):
        case "log_uniform_values":
            return math.exp(source.uniform(math.log(low), math.log(high)))
        case "int_uniform":
            return source.randint(low, high)
    return source.uniform(low, high)


def arguments_of(point: Point) -> list[str]:
    """``key=value`` as W&B's agent passes them for ``${args_no_hyphens}``."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    command = {"args": {name: {"value": value} for name, value in point.items()}}
    return create_sweep_command_args(command)["args_no_hyphens"]


def main(arguments: Sequence[str]) -> None:
    try:
        words, overrides = split_settings(LocalSettings, arguments)
        files, settings = read_command(LocalSettings, words)
        if len(files) != 1:
            raise RunError("name one sweep: python -m sweeps.local sweeps/beta.yaml [workers=2 …]")
        sweep = read_sweep(Path(files[0]))
        drawn = points(sweep, settings.count, settings.draw_seed)
    except RunError as error:
        sys.exit(f"error: {error}")
    folder = Path(settings.folder or f"outputs/sweep-{sweep.name}")
    folders, commands = [], []
    for point in drawn:
        values = (f"{name.rpartition('.')[2]}-{point[name]}" for name in sweep.swept)
        folders.append(folder / ("_".join(values) or "only").replace(os.sep, "-"))
        where = [f"run_dir={folders[-1]}", "resume=auto"]
        commands.append(["run.py", *arguments_of(point), *overrides, *where])
    ends = run_all(commands, settings.workers)
    outcomes, failures = [], []
    for point, place, failure in zip(drawn, folders, ends, strict=True):
        if failure is not None:
            failures.append(failure)
        elif (value := read_summary(place).get(f"last/{sweep.metric}")) is not None:
            outcomes.append((point, value))
    if not outcomes:
        sys.exit(f"error: no run gave {sweep.metric}" + "".join(f"\n{text}" for text in failures))
    table = outcome_table(sweep, outcomes)
    write_text(folder / "outcome.md", table)
    write_json(folder / "outcome.json", outcomes)
    print(table)
    print(f"table: {folder / 'outcome.md'}\nplot: {draw(sweep, outcomes, folder)}")
    if failures:
        sys.exit(f"error: {len(failures)} runs failed; the first said:\n{failures[0]}")


def outcome_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each combination of swept values, over its seeds; the best is marked."""
    values_of = grouped(outcomes, sweep.settings)
    pick = min if sweep.goal == "minimize" else max
    best = pick(values_of, key=lambda combination: mean(values_of[combination]))
    lines = []
    for combination, values in values_of.items():
        cells = [f"{x:g}" if isinstance(x, float) else str(x) for x in combination]
        deviation = f"{stdev(values):.4f}" if len(values) > 1 else ""
        mark = "best" if combination == best else ""
        lines.append([*cells, f"{mean(values):.4f}", deviation, str(len(values)), mark])
    return markdown_table([*sweep.settings, sweep.metric, "standard deviation", "runs", ""], lines)


def grouped(outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[tuple, list[float]]:
    """The metrics of each combination of values under these names."""
    values_of = defaultdict(list)
    for point, value in outcomes:
        values_of[tuple(point[name] for name in names)].append(value)
    return values_of


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
        numeric = all(isinstance(x, (int, float)) for (x,) in values_of)
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
    values = {point[name] for point, _ in outcomes}
    return len(values) > 1 and all(type(value) in (int, float) for value in values)


def _draw_maps(
    sweep: Sweep, numbers: Sequence[str], outcomes: Sequence[Outcome], folder: Path
) -> Path:
    """Means over seeds as cells, their numbers written in them; all maps share one scale."""
    others = [name for name in sweep.settings if name not in numbers]
    maps = {combination: [] for combination in grouped(outcomes, others)}
    for point, value in outcomes:
        maps[tuple(point[name] for name in others)].append((point, value))
    means = [mean(values) for values in grouped(outcomes, [*others, *numbers]).values()]
    figure = Figure(figsize=(1 + 4.5 * len(maps), 4), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    xs, ys = (sorted({point[name] for point, _ in outcomes}) for name in numbers)
    for axis, (combination, found) in zip(axes, maps.items(), strict=True):
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
        axis.set_title(", ".join(map(str, combination)) or sweep.metric)
    figure.suptitle(sweep.metric)
    path = folder / "outcome.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
