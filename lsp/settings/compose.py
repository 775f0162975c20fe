"""A command line goes in, settings come out: Hydra composes, every mistake is reported at once."""

import difflib
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lsp.errors import ConfigError, Problem
from lsp.settings.config import Config
from lsp.settings.reader import Rules, check_tree, unknown_key
from lsp.settings.rules import config_rules
from lsp.settings.schema import Settings, flat_tree
from lsp.tools.addresses import without_addresses
from lsp.tools.places import CONF, train_command
from lsp.tools.secrets import scrub

MOST_JOBS = 10_000
"""Of one setting in a multirun: a range without an end would be listed for ever."""


def compose(overrides: Sequence[str], multirun: bool = False) -> Config:
    """The config of a command line such as ``["method=lsp", "seed=1"]``, or one ConfigError. In a
    multirun the first of a setting's values (``seed=0,1``) stands for all."""
    return compose_as(Config, CONF, overrides, config_rules, multirun)


def compose_as(
    kind: type[Settings],
    root: Path,
    overrides: Sequence[str],
    rules: Rules[Settings],
    multirun: bool = False,
) -> Settings:
    """``compose`` for any class of settings over any folder with a ``config.yaml``."""
    try:
        return _checked(kind, root, overrides, rules, multirun)
    except ConfigError as error:
        raise ConfigError([_without_secrets(problem) for problem in error.problems]) from error


def _without_secrets(problem: Problem) -> Problem:
    """What a message may show: a key that was put in a wrong place is not in it."""
    return replace(
        problem,
        key=scrub(problem.key),
        value=problem.value if problem.value is None else scrub(str(problem.value)),
        reason=scrub(problem.reason),
        fix=scrub(problem.fix),
    )


def _checked(
    kind: type[Settings],
    root: Path,
    overrides: Sequence[str],
    rules: Rules[Settings],
    multirun: bool,
) -> Settings:
    problems: list[Problem] = []
    each = ""
    if root == CONF:  # each run of a multirun has a folder of its own
        words = [text for text in overrides if not text.startswith("run_dir=")]
        each = f"{train_command()} -m {shlex.join(words)}"
    sweeper = any(text.startswith("hydra/sweeper=") for text in overrides)
    sweep = _Sweep(root, by_plug_in=sweeper) if multirun else None
    parsed = [_parse(text, root, sweep, each, problems) for text in overrides]
    # Hydra's own settings (launcher, sweep folder) are for hydra.main, not for the run.
    ours = [o for o in parsed if o and not o.key_or_group.startswith(("hydra.", "hydra/"))]
    groups = [o for o in ours if (root / o.key_or_group).is_dir()]
    values = [o for o in ours if o not in groups]
    groups = [o for o in groups if _group_exists(o, root, problems)]
    chosen = _compose(root, _lines(groups), problems)
    values = [o for o in values if _key_exists(o, chosen, problems)]
    tree = _compose(root, _lines([*groups, *values]), problems) if values else chosen
    try:
        config = check_tree(kind, tree, written(_lines(values)), rules)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if isinstance(config, Config):
        problems += _false_name(chosen["method"]["self_reward_weight"], config)
    if problems:
        raise ConfigError(problems)
    return config


def _as_group(text: str, root: Path) -> str:
    """``rollout.engine=mine`` names a file of conf/rollout/engine, as ``rollout/engine=mine``."""
    key, separator, value = text.partition("=")
    place = key.replace(".", "/")
    return f"{place}{separator}{value}" if "." in key and (root / place).is_dir() else text


def _lines(overrides: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in overrides]


def written(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value of what stands on a command line, of groups given as one value too:
    what the user trusts, where it names code."""
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        values |= flat_tree({override.key_or_group: override.value()})
    return values


@dataclass(frozen=True)
class _Sweep:
    """A multirun over the files of ``root``. ``by_plug_in``: by another sweeper than Hydra's own,
    which lists values and draws none."""

    root: Path
    by_plug_in: bool

    def first(self, text: str) -> str:
        """The first job's value of an override with several, as Hydra writes it. Raises ValueError
        where there is none, or no end."""
        with _hydra(self.root):
            loader = GlobalHydra.instance().config_loader()
            (override,) = OverridesParser.create(loader).parse_overrides([text])
            if override.is_interval_sweep():
                if self.by_plug_in:
                    return str(cast(IntervalSweep, override.value()).start)
                raise ValueError("is an interval, of which only a sweeper that optimises can draw")
            try:
                values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
            except (HydraException, ArithmeticError, ValueError) as error:
                raise ValueError(f"cannot be listed ({error})") from error
        if not values:
            raise ValueError("has no value: no file fits, or the range is empty")
        if len(values) > MOST_JOBS:
            raise ValueError(f"has more than {MOST_JOBS:,} values")
        return values[0]


def number_of_jobs(overrides: Sequence[str]) -> int:
    """Of a multirun by Hydra's own sweeper: one for each combination of what has several values.
    The command line has been composed already."""
    counts: dict[str, int] = {}
    with _hydra(CONF):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        for override in parser.parse_overrides(list(overrides)):
            several = override.is_sweep_override()
            values = override.sweep_string_iterator() if several else [""]
            counts[override.get_key_element()] = sum(1 for _ in values)
    return math.prod(counts.values())


def _parse(
    text: str, root: Path, sweep: _Sweep | None, each: str, problems: list[Problem]
) -> Override | None:
    """One override, or None with its problem noted. ``each``: the command for a run of each of
    several values; empty where there is none."""
    parser = OverridesParser.create()
    try:
        override = parser.parse_override(_as_group(text, root))
    except HydraException as error:
        shown, reason = without_addresses(text), str(error).splitlines()[0].rstrip(".")
        if shown != text:  # Hydra's words may show a part of it
            reason = "is no value as it stands"
        fix = "write key=value, quoted where it needs to be"
        problems.append(Problem(shown, None, reason, fix))
        return None
    if not override.key_or_group:
        problems.append(Problem(text, None, "names no setting", "write key=value"))
        return None
    if not override.is_sweep_override() or (sweep and override.is_hydra_override()):
        return override
    if sweep:
        try:
            return parser.parse_override(f"{override.get_key_element()}={sweep.first(text)}")
        except ValueError as error:
            fix = "list them, a,b,c, choice(a,b), range(1,4) or glob(*) of a group's files"
            problems.append(Problem(text, None, str(error), fix))
            return None
    fix = f"add -m for a run of each: {each}" if each else "choose one, in quotes if it has a comma"
    problems.append(Problem(override.key_or_group, text, "is several values", fix))
    return None


def _group_exists(override: Override, root: Path, problems: list[Problem]) -> bool:
    """Whether a group override names a file of ours."""
    group, choice = override.key_or_group, override.value()
    files = (root / group).rglob("*.yaml")
    names = sorted(path.relative_to(root / group).with_suffix("").as_posix() for path in files)
    if choice in names:
        return True
    close = difflib.get_close_matches(str(choice), names, n=1)
    fix = f"did you mean {group}={close[0]}" if close else f"choose one of {', '.join(names)}"
    folder = f"{'' if root == CONF else 'conf/'}{root.name}/{group}"
    problems.append(Problem(group, choice, f"there is no {folder}/{choice}.yaml", fix))
    return False


def _key_exists(override: Override, tree: dict[str, Any], problems: list[Problem]) -> bool:
    """Whether a value override names a setting. One that ``+`` adds to a group is left to the
    schema, which knows the groups whose members the user names."""
    key = override.key_or_group
    if override.is_delete():
        fix = f"leave ~{key} out, or set it"
        problems.append(Problem(f"~{key}", None, "a setting cannot be deleted", fix))
        return False
    node: Any = tree
    for part in key.split("."):
        if isinstance(node, dict) and part not in node and override.is_add():
            return True
        if not isinstance(node, dict) or part not in node:
            value = override.value()
            shown = without_addresses(value) if isinstance(value, str) else value
            problems.append(unknown_key(key, shown, _dotted(tree)))
            return False
        node = node[part]
    return True


def _dotted(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        inner = _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        keys += [f"{prefix}{key}", *inner]
    return keys


@contextmanager
def _hydra(root: Path) -> Iterator[None]:
    """Hydra over a folder, or as ``hydra.main`` has set it up."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(root), version_base=None):
            yield


def _compose(root: Path, overrides: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Hydra's composition as a plain tree. Raises ConfigError where Hydra refuses, with its reason
    after the ``problems`` that were there before."""
    try:
        with _hydra(root):
            node = hydra_compose("config", overrides)
        return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        problem = Problem("command line", None, reason, "correct that setting")
        raise ConfigError([*problems, problem]) from error


def _false_name(chosen_weight: float | str, config: Config) -> list[Problem]:
    """A method's file that no longer describes its values: the run would bear a false name.
    ``chosen_weight``: the self-reward's in the chosen files, before single settings."""
    if chosen_weight == 0 or config.method.label != "lsp_zero":
        return []
    fix = "say method=lsp_zero; a sweep over the weight starts from there too"
    reason = "LSP without its self-reward is LSP-Zero"
    return [Problem("method.self_reward_weight", config.method.self_reward_weight, reason, fix)]
