"""From a command line to a finished run: check, plan, resume or create, train."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsp.checkpoint import newest_checkpoint
from lsp.compose import compose
from lsp.config import Config, ConfigError
from lsp.init import Init, NoGrpoRun, resolve_init
from lsp.plan import plan
from lsp.runs import (
    RUN_FILE,
    RunError,
    base_identity,
    check_runnable,
    create_run,
    write_json,
)


def start(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Run what a command line asks for; the summary, or None for a dry run.

    Raises ConfigError or RunError, whose texts are for the user, before anything heavy loads.
    """
    config = compose(overrides)
    check_runnable(config)
    if config.dry_run:
        print(plan(config))
        return None
    return begin(config, overrides)


def begin(config: Config, overrides: Sequence[str]) -> dict[str, Any]:
    """A new run of a valid config."""
    try:
        init = resolve_init(config)
    except NoGrpoRun:
        if config.world != "pocket":
            raise
        init = _make_grpo_run(config, overrides)
    run_id, folder = create_run(config)
    write_json(
        folder / RUN_FILE,
        {
            "id": run_id,
            "status": "running",
            "method": config.method.label,
            "world": config.world,
            "model": config.model.name,
            "base": base_identity(config),
            "init": init.record(),
            "seed": config.seed,
            "started": time.time(),
            "command": shlex.join(["python", "run.py", *overrides]),
        },
    )
    announce(config, folder, init)
    return run(config, run_id, folder, init)


def run(config: Config, run_id: str, folder: Path, init: Init) -> dict[str, Any]:
    """Load torch and train."""
    from lsp.session import Session, thread_environment
    from lsp.train import train

    thread_environment()
    try:
        session = Session(config, run_id, folder, init)
    except ValueError as error:
        raise RunError(str(error)) from error
    return train(config, session)


def announce(config: Config, folder: Path, init: Init) -> None:
    """The first lines of a run: where it is tracked, where it lies, what it starts from."""
    if config.tracker is None:
        print("W&B: off (tracker=none); everything is kept in the run folder")
    else:
        mode, why = config.tracker.resolved_mode()
        print(f"W&B: {mode} ({why}), project {config.tracker.project}")
    print(f"run: {folder}")
    print(f"init: {init.text}", flush=True)


def _make_grpo_run(config: Config, overrides: Sequence[str]) -> Init:
    """init=grpo in the pocket world with no GRPO run yet: make one with the same settings."""
    print(
        "init=grpo: no finished GRPO run of this base yet; training one first"
        f" (python run.py method=grpo), kept under {config.runs_root}/",
        flush=True,
    )
    own = ("method", "init", "run_dir", "run_name", "resume", "init.run")
    kept = [
        text
        for text in overrides
        if text.partition("=")[0].lstrip("+") not in own and not text.startswith("method.")
    ]
    begin(compose([*kept, "method=grpo", "init=base"]), [*kept, "method=grpo", "init=base"])
    return resolve_init(config)


def main(overrides: Sequence[str]) -> float | None:
    """``start`` with errors as text; returns the objective for a sweeper."""
    try:
        summary = start(overrides)
    except (ConfigError, RunError) as error:
        sys.exit(f"error: {error}")
    if summary is None:
        return None
    objective = compose(overrides).objective
    return None if objective is None else summary.get(f"last/{objective}")
