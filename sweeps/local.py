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
from collections.abc import Iterable, Sequence
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

Outcome = tuple[dict[str, Any], float]
"""A point of the sweep, and the metric of its run."""
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file. ``swept`` are the parameters with more than one value."""

    name: str
    metric: str
    goal: str
    method: str
    parameters: dict[str, dict[str, Any]]

    @property
    def swept(self) -> list[str]:
        return [name for name, spec in self.parameters.items() if "value" not in spec]


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
    if "value" in spec:
        return
    if "values" in spec:
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise RunError(f"{where} has no list of values")
        return
    if method == "grid":
        raise RunError(f"{where} has no values, and a grid needs them; or choose method: random")
    kind = spec.get("distribution", "uniform")
    if kind not in DISTRIBUTIONS:
        raise RunError(f"{where}: distribution={kind} is none of {', '.join(DISTRIBUTIONS)}")
    low, high = spec.get("min"), spec.get("max")
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    if not numbers or low > high:
        raise RunError(f"{where} needs numbers min <= max, and has min={low}, max={high}")
    if kind == "log_uniform_values" and low <= 0:
        raise RunError(f"{where}: a log scale needs min above 0, and has min={low}")


def points(sweep: Sweep, count: int | None, seed: int) -> list[dict[str, Any]]:
    """Every point of a grid, or ``count`` random ones (the same ones for the same seed)."""
    if sweep.method == "grid":
        options = [[s["value"]] if "value" in s else s["values"] for s in sweep.parameters.values()]
        return [
            dict(zip(sweep.parameters, values, strict=True))
            for values in itertools.product(*options)
        ]
    if count is None:
        raise RunError("a random sweep has no end: say count=<number of points>")
    source = random.Random(f"sweep {seed}")
    drawn: list[dict[str, Any]] = []
    for _ in range(1000 * count):  # a point drawn before is drawn again
        point = {name: _draw(spec, source) for name, spec in sweep.parameters.items()}
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
    match spec.get("distribution", "uniform"):
        case "log_uniform_values":
            return math.exp(source.uniform(math.log(low), math.log(high)))
        case "int_uniform":
            return source.randint(low, high)
    return source.uniform(low, high)


def arguments_of(point: dict[str, Any]) -> list[str]:
    """``key=value`` as W&B's agent passes them for ``${args_no_hyphens}``."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    command = {"args": {name: {"value": value} for name, value in point.items()}}
    return create_sweep_command_args(command)["args_no_hyphens"]


def main(arguments: Sequence[str]) -> None:
    try:
        ours, overrides = split_settings(LocalSettings, arguments)
        files, settings = read_command(LocalSettings, ours)
        if len(files) != 1:
            raise RunError("name one sweep: python -m sweeps.local sweeps/beta.yaml [workers=2 …]")
        sweep = read_sweep(Path(files[0]))
        drawn = points(sweep, settings.count, settings.draw_seed)
    except RunError as error:
        sys.exit(f"error: {error}")
    folder = Path(settings.folder or f"outputs/sweep-{sweep.name}")
    folders = [folder / _slug(point, sweep.swept) for point in drawn]
    commands = [
        ["run.py", *arguments_of(point), *overrides, f"run_dir={place}", "resume=auto"]
        for point, place in zip(drawn, folders, strict=True)
    ]
    ends = run_all(commands, settings.workers)
    failures = [end for end in ends if end is not None]
    trained = [
        (x, place) for x, place, end in zip(drawn, folders, ends, strict=True) if end is None
    ]
    values = [(x, read_summary(place).get(f"last/{sweep.metric}")) for x, place in trained]
    outcomes = [(x, value) for x, value in values if value is not None]
    if not outcomes:
        sys.exit(f"error: no run gave {sweep.metric}" + "".join(f"\n{text}" for text in failures))
    table = outcome_table(sweep, outcomes)
    write_text(folder / "outcome.md", table)
    write_json(folder / "outcome.json", outcomes)
    print(table)
    print(f"table: {folder / 'outcome.md'}\nplot: {draw(sweep, outcomes, folder)}")
    if failures:
        sys.exit(f"error: {len(failures)} runs failed; the first said:\n{failures[0]}")


def _slug(point: dict[str, Any], swept: Sequence[str]) -> str:
    text = "_".join(f"{name.rpartition('.')[2]}-{point[name]}" for name in swept) or "only"
    return text.replace(os.sep, "-")


def outcome_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each combination of swept values, over its seeds; the best is marked."""
    keys = [name for name in sweep.swept if name != "seed"]
    values_of = grouped((tuple(point[key] for key in keys), value) for point, value in outcomes)
    pick = min if sweep.goal == "minimize" else max
    best = pick(values_of, key=lambda combination: mean(values_of[combination]))
    lines = []
    for combination, values in values_of.items():
        cells = [f"{x:g}" if isinstance(x, float) else str(x) for x in combination]
        deviation = f"{stdev(values):.4f}" if len(values) > 1 else ""
        mark = "best" if combination == best else ""
        lines.append([*cells, f"{mean(values):.4f}", deviation, str(len(values)), mark])
    return markdown_table([*keys, sweep.metric, "standard deviation", "runs", ""], lines)


def grouped(pairs: Iterable[tuple[Any, float]]) -> dict[Any, list[float]]:
    """The values under each key."""
    values_of: dict[Any, list[float]] = {}
    for key, value in pairs:
        values_of.setdefault(key, []).append(value)
    return values_of


def draw(sweep: Sweep, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """The metric over the first swept value: every run a point, the means a line."""
    keys = [name for name in sweep.swept if name != "seed"] or sweep.swept
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.add_subplot()
    if keys:
        xs = [point[keys[0]] for point, _ in outcomes]
        numeric = all(isinstance(x, (int, float)) for x in xs)
        xs = xs if numeric else list(map(str, xs))
        values = [value for _, value in outcomes]
        groups = list(grouped(zip(xs, values, strict=True)).items())
        groups = sorted(groups) if numeric else groups
        axis.plot(xs, values, "o", color="#1f6fb4", alpha=0.5)
        axis.plot([x for x, _ in groups], [mean(group) for _, group in groups], color="#1f6fb4")
        if numeric and min(xs) > 0 and max(xs) / min(xs) >= 20:
            axis.set_xscale("log")
        axis.set_xlabel(keys[0])
    axis.set_ylabel(sweep.metric)
    path = folder / "outcome.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
