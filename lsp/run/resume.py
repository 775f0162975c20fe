"""``resume=<run folder or id>`` or ``resume=auto`` goes in, the run to go on with comes out.

The saved config is the config: only keys given on the command line are compared with it, and a
difference is refused, but for ``num_steps``, which may grow, and what ``may_change``. Everything
past the checkpoint moves to ``superseded-K/``, so ``trace/``, ``metrics.jsonl`` and
``alerts.jsonl`` are always one line of history; damage before it needs consent (``accept_gap``).
All randomness is a function of (seed, step), so the rows that follow are those of a run that was
never stopped, to the last bit under the same conditions (lsp/run/conditions.py).
"""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lsp.errors import ConfigError, RunError
from lsp.files import next_free, sync, write_text
from lsp.run.checkpoint import checkpoint_folders, checkpoint_state, checkpoint_step, verified
from lsp.run.commands import (
    begin_command,
    code_named_in,
    go_on_command,
    key_of,
    start_again_command,
)
from lsp.run.folder import (
    RUN_FILE,
    base_identity,
    find_run,
    held,
    is_held,
    outcome,
    read_run,
    saved_tree,
)
from lsp.run.init import Init
from lsp.run.spec import RunSpec
from lsp.settings.compose import CONF, written
from lsp.settings.config import Config
from lsp.settings.rules import config_rules, from_tree
from lsp.settings.schema import flat, with_value
from lsp.tracking.continuity import Gap, scan, write_manifest
from lsp.tracking.reader import (
    ALERTS,
    MANIFEST,
    METRICS,
    SUMMARY,
    DamagedFile,
    GapEntries,
    alert_lines,
)

MAY_CHANGE_ON_RESUME = (
    "rollout.max_rows",
    "rollout.max_tokens",
    "optim.micro_batch_tokens",
    "optim.gradient_checkpointing",
    "hardware.offload",
    "hardware.parallel",
    "hardware.gpus",
)
"""How a step's work is cut into parts and shared out: a resumed run may change it. Sums are then
rounded in another order; nothing else changes."""


def may_change(config: Config) -> tuple[str, ...]:
    """Keys that a resumed run may have otherwise, beside ``num_steps``."""
    parts = {"reward": config.reward, "rollout.engine": config.rollout.engine}
    own = (f"{key}.{name}" for key, part in parts.items() for name in part.may_change())
    return (*MAY_CHANGE_ON_RESUME, "rollout.url", *own)


FREE_KEYS = ("resume", "run_dir", "runs_root", "dry_run", "accept_gap")
"""Given on the command line to find the run and to go on with it, not to change it."""


@dataclass(frozen=True)
class Resumed:
    """A run to go on with; its ``spec`` has no checkpoint where it was stopped before the first
    one. ``finished``: nothing is left to do; ``changed``: the config is not what was saved;
    ``ended``: how it ended, and why."""

    spec: RunSpec
    folder: Path
    finished: bool
    changed: bool
    ended: str


def find_resumed(config: Config, overrides: Sequence[str]) -> Resumed | None:
    """The run that ``resume`` names; None where ``resume=auto`` has none to go on with. Raises
    RunError where it cannot be found, differs, or its newest checkpoint is damaged."""
    auto = config.resume == "auto"
    if auto and config.run_dir is None:
        raise RunError("resume=auto needs run_dir=…, to know which run to go on with")
    if auto and not (Path(config.run_dir) / RUN_FILE).is_file():
        return None
    folder = Path(config.run_dir) if auto else find_run(config.resume, config.runs_root)
    if is_held(folder):
        raise held(folder)
    run = read_run(folder)
    if run["status"] == "starting":
        if auto:
            return None
        raise RunError(f"the run {folder} never began; start it: {begin_command(folder)}")
    saved = saved_config(folder, written(overrides))
    agreed = _agreed(saved, config, overrides, folder)
    checkpoints = checkpoint_folders(folder)
    checkpoint = verified(checkpoints[-1]) if checkpoints else None
    step = checkpoint_step(checkpoint) if checkpoint else 0
    told = run.get("self_reward_weight")
    weight = told["weight"] if told and told["step"] <= step else None  # else it is told anew
    state = checkpoint_state(checkpoint) if checkpoint else {}
    baseline = state.get("challenger_baseline", 0.0)
    if gaps := scan(folder, step).gaps:
        _accept(gaps, folder, config.accept_gap)
    init = Init(**run["init"])
    spec = RunSpec(agreed, run["id"], init, checkpoint, step, weight, baseline, folder)
    status, reason = outcome(folder, run)
    ended = f"{status} ({reason})" if reason else status
    finished = status == "finished" and (folder / SUMMARY).is_file() and step >= agreed.num_steps
    return Resumed(spec, folder, finished, agreed != saved, ended)


def _accept(gaps: Sequence[Gap], folder: Path, consent: bool) -> None:
    """Raises RunError where part of a run's record is damaged or lost and nobody has consented."""
    shown = "; ".join(str(gap) for gap in gaps[:3])
    more = f"; and {len(gaps) - 3} steps more" if len(gaps) > 3 else ""
    what = f"the record of {folder} up to its checkpoint is damaged: {shown}{more}"
    if not consent:
        raise RunError(
            f"{what}. Restore it, or go on without what is missing, which moves aside what cannot"
            f" be used: {go_on_command(folder)} accept_gap=true"
        )
    print(f"accept_gap=true: {what}", file=sys.stderr, flush=True)


def saved_config(folder: Path, trusted: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The settings that a run was started with; ``trusted`` as in ``from_tree``. Raises RunError
    where they cannot be used, or where its base model is another by now."""
    run = read_run(folder)
    try:
        saved = from_tree(saved_tree(folder), trusted)
    except (DamagedFile, ValueError) as error:
        raise RunError(
            f"the settings of {folder} cannot be used: {error}\n{_trusting(folder)}restore its"
            " config.yaml or what that names, or start a new run from its weights:"
            f" {start_again_command(folder)}"
        ) from error
    if run["base"] != base_identity(saved):
        base = f"the base model of {folder} ({saved.model.name})"
        raise RunError(f"{base} has changed since the run began; restore it, or start a new run")
    if run.get("seeds") != saved.prompts.seeds_identity():
        seeds = f"the seeds of {folder} ({saved.prompts.challenger_seeds})"
        raise RunError(
            f"{seeds} have changed since the run began; restore them, or start a new run"
        )
    return saved


def _trusting(folder: Path) -> str:
    """How each command is told to trust the code that the run's command line named."""
    if not (named := code_named_in(folder)):
        return ""
    trust = shlex.quote(f"trust=[{','.join(named)}]")
    return (
        f"if you trust the code that they name, go on with: {go_on_command(folder)}\nlsp"
        f" play and lsp crossplay say {trust}; else "
    )


def _agreed(saved: Config, composed: Config, overrides: Sequence[str], folder: Path) -> Config:
    """The saved config, with what may change as given."""
    old_values, new_values = flat(saved), flat(composed)
    differences, changeable = [], may_change(saved)
    for text in overrides:
        key = key_of(text)
        if key in FREE_KEYS:
            continue
        names = [n for n in old_values | new_values if n == key or n.startswith(f"{key}.")]
        for name in names or ([key] if (CONF / key.replace(".", "/")).is_dir() else []):
            old, new = old_values.get(name), new_values.get(name)
            free = name in changeable and name in old_values
            if free or (name == "num_steps" and new >= old):
                saved = with_value(saved, name, new)
            elif old != new:
                differences.append(f"  {name}: the run has {old}, the command line says {new}")
    if differences:
        raise RunError(
            f"the run {folder} was started with other settings:\n"
            + "\n".join(dict.fromkeys(differences))
            + f"\nleave them out to go on with the run as it is ({go_on_command(folder)}), or start"
            f" a new run; only num_steps may grow, and {', '.join(changeable)} may change"
        )
    if problems := config_rules(saved):
        raise ConfigError(problems)
    return saved


def supersede(folder: Path, step: int) -> Path | None:
    """Move all that is not the record up to ``step`` to ``superseded-K/``: what lies past it, and
    what is damaged; the folder, or None where there was nothing. With ``step`` 0 everything moves.
    What was damaged and is gone on without (``accept_gap``) stands in the manifest."""
    found = scan(folder, step)
    alerts = alert_lines(folder)
    kept = [line for line in alerts if line.step is not None and step and line.step <= step]
    lines = {METRICS: found.lines, ALERTS: kept}
    strange = {METRICS: found.strange_lines, ALERTS: [x for x in alerts if x not in kept]}
    for leftover in (folder / "trace").glob(".*.tmp*"):  # half a shard, of a kill
        leftover.unlink()
    gaps: list[GapEntries] = [gap._asdict() for gap in (*found.accepted, *found.gaps)]
    target = None
    if found.strange_files or any(strange.values()):
        target = next_free(folder, "superseded")
        (target / "trace").mkdir(parents=True)
    # A kill between any two of these leaves what the next one finds and finishes: first what says
    # which damage was consented to, then lines, then shards.
    if folder / MANIFEST in found.strange_files:
        shutil.copy(folder / MANIFEST, target / MANIFEST)
    if gaps or (folder / MANIFEST).exists():
        write_manifest(folder, {"steps": found.entries, "gaps": gaps})
    for name, moved in strange.items():
        if moved:
            (target / name).write_bytes(b"".join(line.written for line in moved))
            sync(target / name)
            text = b"".join(line.written for line in lines[name]).decode()
            write_text(folder / name, text, durable=True)
    for path in found.strange_files:
        if path != folder / MANIFEST:
            shutil.move(path, target / "trace" / path.name)
    return target
