"""From a command line to a finished run: check, plan, resume or create, train."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from lsp.compose import compose
from lsp.config import Config
from lsp.init import Init, NoEarlierRun, resolve_init
from lsp.memory import refuse_impossible
from lsp.plan import plan
from lsp.provenance import code_diff, provenance
from lsp.resume import LEAVES_THE_GAME, Resumed, find_resumed, supersede
from lsp.rules import warnings
from lsp.runs import (
    Interrupted,
    RunError,
    base_identity,
    create_run,
    lock_run,
    read_run,
    resume_hint,
    save_config,
    update_run,
)
from lsp.schema import ConfigError
from lsp.tracking.reader import read_summary
from lsp.world import World, is_lost


def start(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Run what a command line asks for; the summary, or None for a dry run.

    Raises ConfigError or RunError, whose texts are for the user, before anything heavy loads.
    """
    world = World.from_environment()
    try:
        config = compose(overrides)
    except ConfigError:
        world.let_the_first_speak()
        raise
    if not world.first:
        if not config.dry_run:
            follow(world)
        return None
    config.tracker.announcement()  # an unknown WANDB_MODE is refused here
    resumed = find_resumed(config, overrides) if config.resume else None
    if not config.dry_run:
        world.check_launch(resumed.config if resumed else config)
    if config.dry_run:
        print(plan(resumed.config if resumed else config))
        if resumed:
            print(f"  goes on   with {resumed.folder} from step {resumed.step}")
    refuse_impossible(resumed.config if resumed else config)
    if config.dry_run:
        return None
    try:
        summary = go_on(resumed) if resumed else begin(config, overrides)
    except Interrupted:
        world.dismiss()
        raise
    world.dismiss()
    return summary


def follow(world: World) -> None:
    """What a process beside the first does: the runs that it is told of (an earlier one that is
    made first, and the one asked for), until it is dismissed. Where the first one fails, this one's
    next word to it fails too, and it ends without a word of its own."""
    thread_environment()
    try:
        world.start()
        while (told := world.share(None)) is not None:
            _follow(world, *told)
        world.part_ways()
    except RuntimeError as error:
        if not is_lost(error):
            raise
        sys.exit(1)


def _follow(
    world: World, config: Config, run_id: str, init: Init, checkpoint: Path | None, step: int
) -> None:
    from lsp.follower import Follower
    from lsp.out_of_memory import OutOfMemory, memory_of
    from lsp.train import train

    try:
        with memory_of("loading"):
            follower = Follower(config, run_id, init, checkpoint, step, world)
        train(config, follower)
    except ValueError as error:
        raise RunError(f"process {world.rank}: {error}") from error
    except OutOfMemory as error:
        raise RunError(f"process {world.rank}: {error.advice(config)}") from error


def begin(config: Config, overrides: Sequence[str]) -> dict[str, Any]:
    """A new run of a valid config."""
    try:
        init = resolve_init(config)
    except NoEarlierRun:
        if config.world != "pocket":
            raise
        init = _make_earlier_run(config, overrides)
    record = {
        "method": config.method.label,
        "world": config.world,
        "model": config.model.name,
        "base": base_identity(config),
        "init": init.record(),
        "seed": config.seed,
        "started": time.time(),
        **provenance(
            f"{World.from_environment().launcher} run.py {shlex.join(overrides)}".rstrip()
        ),
    }
    diff = code_diff()
    run_id, folder, lock = create_run(config, record)
    (folder / "code.diff").write_text(diff, encoding="utf-8")
    announce(config, folder, init)
    return run(config, run_id, folder, init, lock)


def go_on(resumed: Resumed) -> dict[str, Any]:
    """A run that was there before."""
    if resumed.finished:
        print(f"the run {resumed.folder} is finished ({resumed.step} steps); nothing to do")
        return read_summary(resumed.folder)
    lock = lock_run(resumed.folder)
    if resumed.changed:
        save_config(resumed.config, resumed.folder)
    announce(resumed.config, resumed.folder, resumed.init)
    moved = supersede(resumed.folder, resumed.step)
    print(f"resumed at step {resumed.step}" + (f"; later rows are in {moved}" if moved else ""))
    return run(
        resumed.config,
        resumed.run_id,
        resumed.folder,
        resumed.init,
        lock,
        resumed.checkpoint,
        resumed.step,
    )


def run(
    config: Config,
    run_id: str,
    folder: Path,
    init: Init,
    lock: IO[str],
    checkpoint: Path | None = None,
    step: int = 0,
) -> dict[str, Any]:
    """Load torch and train, from a checkpoint on where there is one, with the other processes where
    there are any. ``lock`` is held until the run ends, however it ends."""
    thread_environment()
    from lsp.out_of_memory import OutOfMemory, memory_of
    from lsp.progress import Progress
    from lsp.session import Session
    from lsp.train import train

    world = World.from_environment()
    world.start()
    world.share((config, run_id, init, checkpoint, step))
    progress = Progress(config.num_steps, step)
    try:
        with memory_of("loading"):
            session = Session(config, run_id, folder, init, lock, progress, checkpoint, step, world)
    except (ValueError, RunError, OSError, OutOfMemory) as error:
        progress.close()
        if read_run(folder)["status"] == "starting":  # it never began: its name stays free
            shutil.rmtree(folder)
        lock.close()
        text = error.advice(config) if isinstance(error, OutOfMemory) else str(error)
        raise RunError(text) from error
    update_run(folder, status="running")
    try:
        return train(config, session)
    except ValueError as error:
        session.fail()
        raise RunError(str(error)) from error
    except OutOfMemory as error:
        session.fail()
        raise RunError(
            f"{error.advice(config)}\neverything up to the last checkpoint is kept; go on with"
            f" {resume_hint(folder)}, beside which {', '.join(LEAVES_THE_GAME)} may be given anew;"
            f" with others changed, start from its weights by init=checkpoint init.run={folder}"
        ) from error
    except RuntimeError as error:
        if not is_lost(error):
            raise
        session.fail()
        raise RunError(
            f"another process of the run has ended, and says why; go on with {resume_hint(folder)}"
        ) from error
    except OSError as error:
        raise RunError(
            f"the run could not be written: {error}; everything up to the last checkpoint is kept;"
            f" go on with {resume_hint(folder)}"
        ) from error
    finally:
        session.close()


def thread_environment() -> None:
    """Idle threads of the OpenMP pool sleep instead of spinning; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def announce(config: Config, folder: Path, init: Init) -> None:
    """The first lines of a run: where it is tracked, where it lies, what it starts from."""
    print(config.tracker.announcement())
    print(f"run: {folder}")
    print(f"init: {init.text}", flush=True)
    for text in warnings(config):
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _make_earlier_run(config: Config, overrides: Sequence[str]) -> Init:
    """init=<method> in the pocket world with no run of it yet: make one, the settings the same."""
    method = config.init.source
    print(
        f"init={method}: no finished run of it from this base yet; training one first"
        f" (python run.py method={method}), kept under {config.runs_root}/",
        flush=True,
    )
    own = ("method", "init", "experiment", "run_dir", "run_name", "resume", "init.run", "objective",
           "objective_goal")  # fmt: skip
    kept = [
        text
        for text in overrides
        if text.partition("=")[0].lstrip("+") not in own and not text.startswith("method.")
    ]
    first = [*kept, f"method={method}", "init=base"]
    agent_id = os.environ.pop("WANDB_RUN_ID", None)  # a sweep agent's, meant for the run itself
    begin(compose(first), first)
    if agent_id is not None:
        os.environ["WANDB_RUN_ID"] = agent_id
    return resolve_init(config)


def objective_of(overrides: Sequence[str]) -> float | None:
    """``start``, and of its summary the metric that a sweeper wants."""
    summary = start(overrides)
    objective = compose(overrides).objective
    if summary is None or objective is None:
        return None
    return summary.get(f"last/{objective}")
