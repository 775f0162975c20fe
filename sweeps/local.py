"""A W&B sweep file without a server: the same points, run here, ending in a table and a plot.

    python -m sweeps.local sweeps/beta.yaml workers=2
    python -m sweeps.local sweeps/beta.yaml num_steps=50 folder=outputs/quick

``workers``, ``folder``, ``count`` (points of a random sweep) and ``draw_seed`` are this command's;
everything else goes to every run. Points become arguments by the same function that W&B's agent
uses. Each point has its own run folder and ``resume=auto``: a finished one ends at once, one that
was stopped goes on, and one that was run with other settings is refused.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from lsp.tracking.reader import read_summary
from sweeps.parallel import run_all

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")


class SweepError(ValueError):
    """A sweep file or command line that cannot be run; the text says why and what instead."""


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


@dataclass
class LocalSettings:
    """This command's own settings, and the overrides that go to every run."""

    file: str
    workers: int = 1
    folder: str | None = None
    count: int | None = None
    draw_seed: int = 0
    overrides: list[str] = field(default_factory=list)


def read_sweep(path: Path) -> Sweep:
    """A sweep file in W&B's format. Raises SweepError."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SweepError(f"there is no file {path}; sweep files are in sweeps/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("parameters"), dict):
        raise SweepError(f"{path} has no 'parameters'; see sweeps/beta.yaml for one that works")
    method = tree.get("method")
    if method not in ("grid", "random"):
        more = "; bayes needs W&B's server: wandb sweep, wandb agent" if method == "bayes" else ""
        raise SweepError(f"{path}: method={method} is neither grid nor random{more}")
    metric = tree.get("metric")
    if not isinstance(metric, dict) or not metric.get("name"):
        raise SweepError(f"{path} has no metric.name; for instance eval/pocket/win_rate")
    if tree.get("program") != "run.py":
        raise SweepError(f"{path}: program={tree.get('program')}; runs here are of run.py")
    for name, spec in tree["parameters"].items():
        _check_parameter(path, method, name, spec)
    goal = metric.get("goal", "minimize")
    return Sweep(tree.get("name", path.stem), metric["name"], goal, method, tree["parameters"])


def _check_parameter(path: Path, method: str, name: str, spec: Any) -> None:
    where = f"{path}: parameter {name}"
    if not isinstance(spec, dict):
        raise SweepError(f"{where} is {spec!r}; write 'value: …', 'values: […]' or 'min', 'max'")
    if "value" in spec:
        return
    if "values" in spec:
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise SweepError(f"{where} has no list of values")
        return
    if method == "grid":
        raise SweepError(f"{where} has no values, and a grid needs them; or choose method: random")
    kind = spec.get("distribution", "uniform")
    if kind not in DISTRIBUTIONS:
        raise SweepError(f"{where}: distribution={kind} is none of {', '.join(DISTRIBUTIONS)}")
    low, high = spec.get("min"), spec.get("max")
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    if not numbers or low > high:
        raise SweepError(f"{where} needs numbers min <= max, and has min={low}, max={high}")
    if kind == "log_uniform_values" and low <= 0:
        raise SweepError(f"{where}: a log scale needs min above 0, and has min={low}")


def points(sweep: Sweep, count: int | None, seed: int) -> list[dict[str, Any]]:
    """Every point of a grid, or ``count`` random ones (the same ones for the same seed)."""
    if sweep.method == "grid":
        options = [[s["value"]] if "value" in s else s["values"] for s in sweep.parameters.values()]
        return [
            dict(zip(sweep.parameters, values, strict=True))
            for values in itertools.product(*options)
        ]
    if count is None:
        raise SweepError("a random sweep has no end: say count=<number of points>")
    source = random.Random(f"sweep {seed}")
    found: list[dict[str, Any]] = []
    for _ in range(1000 * count):  # a point drawn before is drawn again
        point = {name: _draw(spec, source) for name, spec in sweep.parameters.items()}
        if point not in found:
            found.append(point)
        if len(found) == count:
            return found
    raise SweepError(f"the sweep has {len(found)} different points, fewer than count={count}")


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


def read_command_line(arguments: Sequence[str]) -> LocalSettings:
    if not arguments or "=" in arguments[0]:
        raise SweepError("say which sweep: python -m sweeps.local sweeps/beta.yaml [workers=2 …]")
    settings = LocalSettings(arguments[0])
    for text in arguments[1:]:
        key, separator, value = text.partition("=")
        if not separator:
            raise SweepError(f"{text!r} is no setting; write key=value")
        if key in ("workers", "count", "draw_seed"):
            if not value.isdigit() or (key != "draw_seed" and int(value) == 0):
                raise SweepError(f"{key}={value} must be a whole number, 1 or more")
            setattr(settings, key, int(value))
        elif key == "folder":
            settings.folder = value
        else:
            settings.overrides.append(text)
    return settings


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_command_line(arguments)
        sweep = read_sweep(Path(settings.file))
        drawn = points(sweep, settings.count, settings.draw_seed)
    except SweepError as error:
        sys.exit(f"error: {error}")
    folder = Path(settings.folder or f"outputs/sweep-{sweep.name}")
    folders = [folder / _slug(point, sweep.swept) for point in drawn]
    commands = [
        ["run.py", *arguments_of(point), *settings.overrides, f"run_dir={place}", "resume=auto"]
        for point, place in zip(drawn, folders, strict=True)
    ]
    ends = run_all(commands, settings.workers)
    failures = [text for text in ends if text]
    outcomes = [
        (point, read_summary(place).get(f"last/{sweep.metric}"))
        for point, place, failure in zip(drawn, folders, ends, strict=True)
        if failure is None
    ]
    outcomes = [(point, value) for point, value in outcomes if value is not None]
    if not outcomes:
        sys.exit(f"error: no run gave {sweep.metric}" + "".join(f"\n{text}" for text in failures))
    table = outcome_table(sweep, outcomes)
    (folder / "outcome.md").write_text(table, encoding="utf-8")
    (folder / "outcome.json").write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    print(table)
    print(f"table: {folder / 'outcome.md'}\nplot: {draw(sweep, outcomes, folder)}")
    if failures:
        sys.exit(f"error: {len(failures)} runs failed; the first said:\n{failures[0]}")


def _slug(point: dict[str, Any], swept: Sequence[str]) -> str:
    text = "_".join(f"{name.rpartition('.')[2]}-{point[name]}" for name in swept) or "only"
    return text.replace(os.sep, "-")


def by_setting(
    sweep: Sweep, outcomes: Sequence[tuple[dict[str, Any], float]]
) -> dict[tuple, list[float]]:
    """Outcomes over seeds, for each combination of the other swept values."""
    keys = [name for name in sweep.swept if name != "seed"]
    found: dict[tuple, list[float]] = {}
    for point, value in outcomes:
        found.setdefault(tuple(point[key] for key in keys), []).append(value)
    return found


def outcome_table(sweep: Sweep, outcomes: Sequence[tuple[dict[str, Any], float]]) -> str:
    """Markdown: a line a setting, the best one marked."""
    keys = [name for name in sweep.swept if name != "seed"]
    rows = by_setting(sweep, outcomes)
    pick = min if sweep.goal == "minimize" else max
    best = pick(rows, key=lambda setting: mean(rows[setting]))
    lines = [
        f"| {' | '.join(keys)} | {sweep.metric} | standard deviation | runs | |",
        "|---" * (len(keys) + 4) + "|",
    ]
    for setting, values in rows.items():
        spread = f"{stdev(values):.4f}" if len(values) > 1 else ""
        cells = " | ".join(f"{value:g}" if isinstance(value, float) else str(value)
                           for value in setting)  # fmt: skip
        mark = "best" if setting == best else ""
        lines.append(f"| {cells} | {mean(values):.4f} | {spread} | {len(values)} | {mark} |")
    return "\n".join(lines) + "\n"


def draw(sweep: Sweep, outcomes: Sequence[tuple[dict[str, Any], float]], folder: Path) -> Path:
    """The metric over the first swept value: every run a point, the means a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [name for name in sweep.swept if name != "seed"] or sweep.swept
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    if keys:
        pairs = [(point[keys[0]], value) for point, value in outcomes]
        numeric = all(isinstance(x, (int, float)) for x, _ in pairs)
        xs = [x if numeric else str(x) for x, _ in pairs]
        axis.plot(xs, [value for _, value in pairs], "o", color="#1f6fb4", alpha=0.5)
        means: dict[Any, list[float]] = {}
        for x, (_, value) in zip(xs, pairs, strict=True):
            means.setdefault(x, []).append(value)
        ordered = sorted(means) if numeric else list(means)
        axis.plot(ordered, [mean(means[x]) for x in ordered], "-", color="#1f6fb4")
        positive = numeric and min(xs) > 0
        if positive and max(xs) / min(xs) >= 20:
            axis.set_xscale("log")
        axis.set_xlabel(keys[0])
    axis.set_ylabel(sweep.metric)
    path = folder / "outcome.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
