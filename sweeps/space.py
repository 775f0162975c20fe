"""A sweep file in W&B's format goes in, a checked ``Sweep``, its points and their words come out.

What needs W&B's server is refused with the way out. Values keep the types of the file: null is
null, and a text stays a text on Hydra's command line.
"""

import itertools
import json
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from lsp.errors import RunError
from lsp.tools.rows import read_text
from sweeps.distributions import distribution_of, draw, options, with_defaults

Point = dict[str, Any]
"""Dotted setting -> value."""
MOST_POINTS = 100_000
MOST_ITEMS = 1000
"""Of one value that is a list or a group."""
NEEDS_SERVER = {
    "early_terminate": "stops runs on the way",
    "scheduler": "draws points as others end",
    "metrics": "are for a scheduler",
    "controller": "says who draws the points",
    "job": "is W&B Launch's",
    "image_uri": "is W&B Launch's",
}
OF_THE_PAGE = ("description", "entity", "project", "apiVersion", "kind")
"""Keys of a sweep's page at W&B, of which a sweep without a server has none."""
KEYS = ("program", "name", "method", "metric", "parameters", "command", "run_cap")
OURS = ("run_dir", "resume")
"""Settings that ``sweeps.local`` gives each run."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as W&B's client reads it, with the numbers of 1.2 (``1e-6``). Dates are text, and a
    key that stands twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := [key for key in keys if isinstance(key, str) and keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Parameter:
    """A setting and where its values come from, as ``sweeps.distributions`` has it."""

    name: str
    kind: str
    numbers: Mapping[str, Any]

    @property
    def is_swept(self) -> bool:
        return self.kind != "constant"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file. ``words``: settings that its command gives every run; ``cap``: run_cap,
    at most so many points."""

    name: str
    metric: str
    goal: str
    method: str
    parameters: Sequence[Parameter]
    words: Sequence[str] = ()
    cap: int | None = None

    @property
    def swept(self) -> list[str]:
        """Names of several values."""
        return [parameter.name for parameter in self.parameters if parameter.is_swept]

    @property
    def settings(self) -> list[str]:
        """``swept`` without the seed."""
        return [name for name in self.swept if name != "seed"]


def read_sweep(path: Path) -> Sweep:
    """A sweep file in W&B's format. Raises RunError with its name."""
    if not os.path.exists(path):
        raise RunError(f"there is no file {path}; sweep files are in sweeps/")
    text = read_text(path)
    try:
        return _sweep(yaml.load(text, _Loader), path.stem)
    except RecursionError as error:
        raise RunError(f"{path} nests too deeply") from error
    except yaml.YAMLError as error:
        raise RunError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error


def _sweep(tree: Any, stem: str) -> Sweep:
    """Raises ValueError, as all that follow."""
    if not isinstance(tree, dict) or not isinstance(tree.get("parameters"), dict):
        raise ValueError("has no 'parameters'; see sweeps/beta.yaml for one that works")
    for key, what in NEEDS_SERVER.items():
        if key in tree:
            fix = "leave it out: every point runs to its end"
            raise ValueError(f"{key} {what}, which needs W&B's server (wandb agent); {fix}")
    if unknown := [key for key in tree if key not in (*KEYS, *OF_THE_PAGE)]:
        raise ValueError(f"{unknown[0]} is no key of a sweep; known: {', '.join(KEYS)}")
    method = tree.get("method")
    if method not in ("grid", "random"):
        more = "; bayes needs W&B's server: wandb sweep, wandb agent" if method == "bayes" else ""
        raise ValueError(f"method={method} is neither grid nor random{more}")
    name, metric, goal = tree.get("name", stem), *_metric(tree.get("metric"))
    if tree.get("program") != "run.py":
        raise ValueError(f"program={tree.get('program')}; runs here are of run.py")
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name} is no text")
    cap = tree.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise ValueError(f"run_cap={cap} is no whole number from 1")
    parameters = tuple(_parameters(tree["parameters"], method))
    names = [parameter.name for parameter in parameters]
    if wrong := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"parameter {wrong[0]} stands twice")
    if wrong := [name for name in names if name in OURS]:
        raise ValueError(f"parameter {wrong[0]}: every run has its own here; leave it out")
    return Sweep(name, metric, goal, method, parameters, _words(tree.get("command")), cap)


def _metric(metric: Any) -> tuple[str, str]:
    """(name, goal). What to impute is asked by bayes alone."""
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError("has no metric.name; for instance eval/pocket/win_rate")
    if "target" in metric:
        reason = "ends a sweep on the way, which needs W&B's server (wandb agent); leave it out"
        raise ValueError(f"metric.target {reason}")
    if unknown := [
        k for k in metric if k not in ("name", "goal", "impute", "impute_while_running")
    ]:
        raise ValueError(f"metric.{unknown[0]} is no key of a metric")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"metric.goal={goal} is neither minimize nor maximize")
    return metric["name"], goal


def _words(command: Any) -> tuple[str, ...]:
    """The settings of a command beside the point's; it must start run.py, as all runs here do."""
    if command is None:
        return ()
    words = [str(word) for word in command] if isinstance(command, list) else []
    words = words[1:] if words[:1] == ["${env}"] else words
    if (
        words[:1] not in (["python"], ["python3"], ["${interpreter}"])
        or words[1:2] not in (["run.py"], ["${program}"])
        or words.count("${args_no_hyphens}") != 1
    ):
        form = '["${env}", python, "${program}", "${args_no_hyphens}"]'
        raise ValueError(f"command does not give the point's settings to run.py; write {form}")
    more = [_with_variables(word) for word in words[2:] if word != "${args_no_hyphens}"]
    if strange := [word for word in more if "=" not in word or word.startswith("-")]:
        raise ValueError(f"command has {strange[0]}, which is no setting of run.py")
    return tuple(more)


def _with_variables(word: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"command needs the environment variable {match[1]}")
        return os.environ[match[1]]

    return re.sub(r"\$\{envvar:(\w+)\}", value, word)


def _parameters(tree: Any, method: str, prefix: str = "") -> Iterator[Parameter]:
    """Those of a file, and those nested in others under dotted names."""
    if not isinstance(tree, dict) or not tree or prefix.count(".") > 10:
        raise ValueError(f"parameter {prefix}parameters is no group of parameters")
    for key, spec in tree.items():
        name = f"{prefix}{key}"
        is_name = isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key)
        if not is_name or _read_by_hydra("0", key) != 0:
            raise ValueError(f"parameter {name!r:.80} is no name of a setting")
        if not isinstance(spec, dict):
            form = "write 'value: …', 'values: […]' or 'min', 'max'"
            raise ValueError(f"parameter {name} is {spec!r:.80}; {form}")
        if list(spec) == ["parameters"]:
            yield from _parameters(spec["parameters"], method, f"{name}.")
            continue
        try:
            yield _parameter(name, method, spec)
        except ValueError as error:
            raise ValueError(f"parameter {name}: {error}") from error


def _parameter(name: str, method: str, spec: Mapping[Any, Any]) -> Parameter:
    kind = distribution_of(spec)
    numbers = with_defaults(kind, spec)
    for value in numbers.get("values", [numbers.get("value")]):
        _check_plain(value)
    if method == "grid" and options(kind, numbers) is None:
        raise ValueError(f"{kind} lists no values, and a grid needs them; or choose method: random")
    return Parameter(name, kind, numbers)


def _check_plain(value: Any) -> None:
    """Whether Hydra's command line can have this value, in bounded time."""
    waiting, count = [value], 0
    while waiting:
        item, count = waiting.pop(), count + 1
        if count > MOST_ITEMS:
            raise ValueError(f"a value of more than {MOST_ITEMS:,} items")
        if isinstance(item, dict):
            if not all(map(_is_key, item)):
                raise ValueError(f"a group with a key that is no name: {list(item)!r:.80}")
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif not (item is None or isinstance(item, (bool, int, float, str))):
            raise ValueError(f"{item!r:.80} is no number, text, list or group")


def points(sweep: Sweep, count: int | None, seed: int) -> list[Point]:
    """The points of a grid, of which ``count`` or run_cap take the first, or so many random ones
    (the same ones for the same seed). Raises RunError."""
    if count is not None and sweep.cap is not None and count > sweep.cap:
        raise RunError(f"count={count} is more than the file's run_cap={sweep.cap}")
    most = count or sweep.cap
    try:
        return _grid(sweep, most) if sweep.method == "grid" else _random(sweep, count, most, seed)
    except ValueError as error:
        raise RunError(str(error)) from error


def _grid(sweep: Sweep, most: int | None) -> list[Point]:
    """In W&B's order: by names, the last one fastest."""
    values = {p.name: options(p.kind, p.numbers) or [] for p in sweep.parameters}
    total = math.prod(map(len, values.values()))
    if min(total, most or total) > MOST_POINTS:
        raise ValueError(f"a grid of {total:,} points, and at most {MOST_POINTS:,} are run")
    chosen = itertools.product(*(values[name] for name in sorted(values)))
    points = (dict(zip(sorted(values), point, strict=True)) for point in chosen)
    return [{name: point[name] for name in values} for point in itertools.islice(points, most)]


def _random(sweep: Sweep, count: int | None, most: int | None, seed: int) -> list[Point]:
    """Different ones: a point drawn before is drawn again."""
    if most is None:
        raise ValueError("a random sweep has no end: say count=<number of points>")
    source = random.Random(f"sweep {seed}")
    drawn: dict[str, Point] = {}
    for _ in range(1000 * most):
        point = {p.name: draw(p.kind, p.numbers, source) for p in sweep.parameters}
        drawn.setdefault(json.dumps(point), point)
        if len(drawn) == most:
            break
    if count is not None and len(drawn) < count:
        raise ValueError(f"the sweep has {len(drawn)} different points, fewer than count={count}")
    return list(drawn.values())


def words_of(point: Point) -> list[str]:
    """``key=value`` as Hydra reads it back, each value with its own type."""
    return [f"{name}={hydra_value(value)}" for name, value in point.items()]


def hydra_value(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides, where a text is quoted if it would be read
    as something else."""
    if isinstance(value, list):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra_value(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    if re.fullmatch(r"[A-Za-z0-9_./-]+", value) and _read_by_hydra(value) == value:
        return value
    # OmegaConf reads ${…} in a text; a backslash before it, and before its backslashes, stops that.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(literal, Quote.single).with_quotes()


def _read_by_hydra(text: str, key: str = "x") -> Any:
    """A value without quotes; None where there is none to be read, or null."""
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException:
        return None
    return None if override.is_sweep_override() else override.value()


def _is_key(value: Any) -> bool:
    """Whether Hydra reads this as itself where a group has its keys."""
    is_name = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value)
    return bool(is_name) and _read_by_hydra(f"{{{value}:0}}") == {value: 0}
