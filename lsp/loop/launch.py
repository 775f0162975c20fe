"""A command line goes in, a finished run comes out: check, plan, resume or create, load, train."""

from __future__ import annotations

import gc
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lsp.contracts import BuildContext, RunIdentity, build_part
from lsp.errors import ConfigError, Interrupted, RunError
from lsp.files import write_text
from lsp.loop.start_checks import check_start
from lsp.model.processes import Processes, is_collective_failure
from lsp.plan.memory import crowding
from lsp.plan.text import plan
from lsp.run.folder import (
    base_identity,
    create_run,
    display_name,
    go_on_command,
    key_of,
    lock_run,
    read_run,
    save_config,
    start_again_command,
    update_run,
)
from lsp.run.init import Init, NoEarlierRun, base_init, resolve_init
from lsp.run.provenance import code_diff, provenance
from lsp.run.resume import MAY_CHANGE_ON_RESUME, Resumed, find_resumed, supersede
from lsp.run.spec import RunSpec
from lsp.settings.compose import CONF, compose
from lsp.settings.config import Config
from lsp.settings.rules import warnings
from lsp.tracking.reader import read_summary

if TYPE_CHECKING:
    from lsp.learner import Learner
    from lsp.players import Players

OF_ONE_RUN = (
    *("method", "experiment", "init", "init.run", "resume"),
    *("run_dir", "run_name", "objective", "objective_goal", "dry_run"),
)
"""Settings that a run does not share with the earlier one that is made for it."""


def start(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Run what a command line asks for; the summary, or None for a dry run. Raises ConfigError or
    RunError, whose texts are for the user, before anything heavy loads."""
    return _start(_read(overrides), overrides)


def _read(overrides: Sequence[str]) -> Config:
    try:
        return compose(overrides)
    except ConfigError:
        Processes.from_environment().wait_for_rank_0_error()
        raise


def _start(config: Config, overrides: Sequence[str]) -> dict[str, Any] | None:
    """``start`` for overrides that were read."""
    processes = Processes.from_environment()
    if not processes.is_first:
        if not config.dry_run:
            follow(processes)
        return None
    thread_environment()
    resumed = find_resumed(config, overrides) if config.resume else None
    dry_run, config = config.dry_run, resumed.spec.config if resumed else config
    if dry_run:
        print(plan(config), flush=True)
        if resumed:
            print(f"  goes on   with {resumed.folder} from step {resumed.spec.step}")
    if resumed is None:
        check_beginning(config, overrides)
    elif not resumed.finished:
        check_start(config, resumed.spec.init, resumed)
    if dry_run:
        return None
    try:
        summary = go_on(resumed) if resumed else begin(config, overrides)
    except Interrupted:
        processes.dismiss()
        raise
    processes.dismiss()
    return summary


def follow(processes: Processes) -> None:
    """What a process beside the first does: the runs that the first one begins (an earlier one that
    is made first, and the one of the command line), until it is dismissed. Where the first one
    fails, this one's next exchange with it fails too, and it ends without a message of its own."""
    thread_environment()
    from lsp.loop.follower import Follower
    from lsp.model.out_of_memory import OutOfMemory, memory_guard
    from lsp.train import train

    try:
        processes.start()
        while (spec := processes.broadcast(None)) is not None:
            with memory_guard("loading"):
                players, learner, _ = load(spec, processes)
            train(spec, players, learner, Follower(players, learner))
        processes.leave()
    except ValueError as error:
        raise RunError(f"process {processes.rank}: {error}") from error
    except OutOfMemory as error:
        raise RunError(f"process {processes.rank}: {error.advice(spec.config)}") from error
    except RuntimeError as error:
        if not is_collective_failure(error):
            raise
        sys.exit(1)


def load(spec: RunSpec, processes: Processes) -> tuple[Players, Learner, dict[str, Any] | None]:
    """Everything that plays and learns, in every process alike; and, where the run goes on from a
    checkpoint, what that kept of its record."""
    import torch

    from lsp.learner import Learner
    from lsp.players import load_players
    from lsp.run.checkpoint import load_training_state

    config = spec.config
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    torch.manual_seed(config.seed)
    players = load_players(config, spec.init, spec.checkpoint, processes, spec.folder)
    learner = Learner(players, config)
    state = None
    if spec.checkpoint is not None:
        state = load_training_state(
            spec.checkpoint, players.policy, learner.named, learner.optimizer
        )
    _leave_out_of_collections()
    return players, learner, state


def _leave_out_of_collections() -> None:
    """What is loaded by now stays: Python's garbage collector looks at a million objects of
    libraries no more, each time that it runs (docs/performance.md). An earlier run's go first."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def check_beginning(config: Config, overrides: Sequence[str]) -> None:
    """``check_start`` of a run that is to begin, and of the one that is made for it first."""
    if (init := init_of(config, overrides)) is None:
        first = _overrides_of_earlier_run(config, overrides)
        check_beginning(compose(first), first)
        init = base_init(config)
    check_start(config, init)


def init_of(config: Config, overrides: Sequence[str]) -> Init | None:
    """What a run starts from; None: an earlier run that is made first. Raises RunError where there
    is neither."""
    try:
        return resolve_init(config)
    except NoEarlierRun as error:
        if config.world.makes_earlier_runs:
            return None
        first = _command_line(_overrides_of_earlier_run(config, overrides))
        raise RunError(f"{error}; make one with `{first}`, or name one with init.run=…") from error


def begin(config: Config, overrides: Sequence[str]) -> dict[str, Any]:
    init = init_of(config, overrides)
    if init is None:
        init = _make_earlier_run(config, _overrides_of_earlier_run(config, overrides))
    record = {
        "method": config.method.label,
        "world": config.world.name,
        "model": config.model.name,
        "base": base_identity(config),
        "init": asdict(init),
        "seed": config.seed,
        "seeds": config.prompts.seeds_identity(),
        "started": time.time(),
        **provenance(_command_line(overrides)),
    }
    run_id, folder, lock = create_run(config, record)
    write_text(folder / "code.diff", code_diff())
    announce(config, folder, init)
    return run(RunSpec(config, run_id, init, folder=folder), folder, lock)


def go_on(resumed: Resumed) -> dict[str, Any]:
    folder, spec = resumed.folder, resumed.spec
    if resumed.finished:
        print(f"the run {folder} is finished ({spec.step} steps); nothing to do")
        return read_summary(folder)
    lock = lock_run(folder)
    if resumed.changed:
        save_config(spec.config, folder)
    announce(spec.config, folder, spec.init)
    moved = supersede(folder, spec.step)
    print(f"resumed at step {spec.step}" + (f"; later rows are in {moved}" if moved else ""))
    return run(spec, folder, lock)


def run(spec: RunSpec, folder: Path, lock: IO[str]) -> dict[str, Any]:
    """Load and train, together with the other processes; ``lock`` is held until the run ends."""
    thread_environment()
    from lsp.loop.progress import Progress
    from lsp.loop.recorder import RunRecorder
    from lsp.model.out_of_memory import OutOfMemory, memory_guard
    from lsp.train import train

    config = spec.config
    processes = Processes.from_environment()
    processes.start()
    processes.broadcast(spec)
    progress = Progress(config.num_steps, spec.step)
    base, init_run_id = read_run(folder)["base"], spec.init.run_id
    identity = RunIdentity(spec.run_id, folder, display_name(config), base, init_run_id)
    try:
        with memory_guard("loading"):  # the tracker first, which may be refused within seconds
            tracker = build_part(config.tracker, BuildContext(config, run=identity))
            players, learner, state = load(spec, processes)
            recorder = RunRecorder(spec, folder, progress, players, learner, tracker, state)
    except (ValueError, RunError, OSError, OutOfMemory) as error:
        progress.close()
        if read_run(folder)["status"] == "starting":  # it never began: its name stays free
            shutil.rmtree(folder)
        lock.close()
        text = error.advice(config) if isinstance(error, OutOfMemory) else str(error)
        raise RunError(text) from error
    update_run(folder, status="running")
    way_on = f"go on with: {go_on_command(folder)}"
    try:
        return train(spec, players, learner, recorder)
    except ValueError as error:
        recorder.fail()
        raise RunError(f"{error}\n{way_on}") from error
    except OutOfMemory as error:
        recorder.fail()
        raise RunError(
            f"{error.advice(config)}\neverything up to the last checkpoint is kept; with"
            f" {', '.join(MAY_CHANGE_ON_RESUME)} written behind it, go on with:"
            f" {go_on_command(folder, 'reward')}\nwith others changed, start again from its"
            f" weights: {start_again_command(folder)}"
        ) from error
    except RuntimeError as error:
        if not is_collective_failure(error):
            raise
        recorder.fail()
        reason = "another process of the run has ended, and reports why"
        raise RunError(f"{reason}; {way_on}") from error
    except OSError as error:
        kept = "everything up to the last checkpoint is kept"
        raise RunError(f"the run could not be written: {error}; {kept}; {way_on}") from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(way_on) from error
    finally:
        recorder.close()
        lock.close()


def thread_environment() -> None:
    """Idle threads of the OpenMP pool sleep instead of spinning; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def announce(config: Config, folder: Path, init: Init) -> None:
    print(config.tracker.announcement())
    print(f"run: {folder}\ninit: {init.text}", flush=True)
    for text in (*warnings(config), *crowding(config)):
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _command_line(overrides: Sequence[str]) -> str:
    return f"{Processes.from_environment().launcher} run.py {shlex.join(overrides)}".rstrip()


def _overrides_of_earlier_run(config: Config, overrides: Sequence[str]) -> list[str]:
    """Those of a run of ``init=<method>`` for another run, whose other settings are the same; the
    method's own experiment of the same group, where there is one."""
    method = config.init.source
    chosen = [text.partition("=")[2] for text in overrides if key_of(text) == "experiment"]
    own = [f"{name.partition('/')[0]}/{method}" for name in chosen[-1:]]
    standing = [
        f"experiment={name}" for name in own if (CONF / f"experiment/{name}.yaml").is_file()
    ]
    if chosen and not standing:
        standing = [f"world={config.world.name}"]
    shared = [
        text
        for text in overrides
        if not text.startswith("method.") and key_of(text) not in OF_ONE_RUN
    ]
    return [*standing, *shared, f"method={method}", "init=base"]


def _make_earlier_run(config: Config, first: Sequence[str]) -> Init:
    """Make the run of init=<method> that is not there yet, by its overrides."""
    method = config.init.source
    print(
        f"init={method}: no finished run of it from this base yet; training one first"
        f" ({_command_line(first)}), kept under {config.runs_root}/",
        flush=True,
    )
    agent_id = os.environ.pop("WANDB_RUN_ID", None)  # a sweep agent's, meant for the run itself
    begin(compose(first), first)
    if agent_id is not None:
        os.environ["WANDB_RUN_ID"] = agent_id
    return resolve_init(config)


def objective_of(overrides: Sequence[str]) -> float | None:
    """``start``, and of its summary the metric that a sweeper wants."""
    config = _read(overrides)
    summary = _start(config, overrides)
    if summary is None or config.objective is None:
        return None
    return summary.get(f"last/{config.objective}")
