"""A command line goes in, a finished run comes out: check, plan, resume or create, load, train."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lsp.contracts import BuildContext, RunIdentity, build_part
from lsp.errors import ConfigError, Interrupted, RunError
from lsp.loop.earlier_run import begun_earlier_run, command_line, overrides_of_earlier_run
from lsp.loop.progress import Progress
from lsp.loop.signals import StopRequests
from lsp.loop.start_checks import check_start
from lsp.model.processes import Processes, is_collective_failure
from lsp.plan.memory import crowding
from lsp.plan.text import plan
from lsp.run.checkpoint import checkpoint_folders
from lsp.run.folder import base_identity, display_name, lock_run, read_run, save_config, update_run
from lsp.run.init import Init, NoEarlierRun, base_init, resolve_init
from lsp.run.place import NewRun, create_run, remove_start
from lsp.run.provenance import code_diff, provenance
from lsp.run.resume import Resumed, find_resumed, supersede
from lsp.run.spec import RunSpec
from lsp.settings.compose import compose
from lsp.settings.config import Config
from lsp.settings.rules import warnings
from lsp.tools.heartbeat import Heartbeat, at
from lsp.tracking.reader import read_summary

if TYPE_CHECKING:
    from lsp.learner import Learner
    from lsp.players import Players

NOTHING_TO_DO = "nothing to do"


def start(overrides: Sequence[str], stop: StopRequests | None = None) -> dict[str, Any] | None:
    """Run what a command line asks for; the summary, or None for a dry run. Raises ConfigError or
    RunError, whose texts are for the user, before anything heavy loads. ``stop``: where the process
    does more than this."""
    return _start(_read(overrides), overrides, stop or StopRequests())


def _read(overrides: Sequence[str]) -> Config:
    try:
        return compose(overrides)
    except ConfigError:
        Processes.from_environment().wait_for_rank_0_error()
        raise


def _start(config: Config, overrides: Sequence[str], stop: StopRequests) -> dict[str, Any] | None:
    """``start`` for overrides that were read."""
    processes = Processes.from_environment()
    if not processes.is_first:
        if not config.dry_run:
            follow(processes)
        return None
    thread_environment()
    with stop:
        with Heartbeat("checking that the run can start"):
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
            summary = go_on(resumed, stop) if resumed else begin(config, overrides, stop)
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
    from lsp.algorithm import train
    from lsp.loop.follower import Follower
    from lsp.model.out_of_memory import OutOfMemory, memory_guard

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
    _leave_libraries_out_of_collections()
    at("the models")
    players = load_players(config, spec.init, spec.checkpoint, processes, spec.folder)
    at("the optimizer")
    learner = Learner(players, config)
    state = None
    if spec.checkpoint is not None:
        state = load_training_state(
            spec.checkpoint, players.policy, learner.named, learner.optimizer
        )
    return players, learner, state


@cache  # a process's first run does
def _leave_libraries_out_of_collections() -> None:
    """What is imported by now stays: Python's garbage collector looks at its 400,000 objects no
    more, each time that it runs (docs/performance.md). Models come and go with their runs."""
    gc.freeze()


def check_beginning(config: Config, overrides: Sequence[str]) -> None:
    """``check_start`` of a run that is to begin, and of the one that is made for it first."""
    if (init := init_of(config, overrides)) is None:
        first = overrides_of_earlier_run(config, overrides)
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
        first = command_line(overrides_of_earlier_run(config, overrides))
        raise RunError(f"{error}; make one with `{first}`, or name one with init.run=…") from error


def begin(config: Config, overrides: Sequence[str], stop: StopRequests) -> dict[str, Any]:
    init = init_of(config, overrides)
    if init is None:
        init = _make_earlier_run(config, overrides_of_earlier_run(config, overrides), stop)
    diff = code_diff()
    record = {
        "method": config.method.label,
        "world": config.world.name,
        "model": config.model.name,
        "base": base_identity(config),
        "init": asdict(init),
        "seed": config.seed,
        "seeds": config.prompts.seeds_identity(),
        "started": time.time(),
        "secrets_in_diff": diff.secrets,
        **provenance(command_line(overrides)),
    }
    new = create_run(config, record, diff.text)
    return run(
        RunSpec(config, new.run_id, init, folder=new.folder), new.lock, stop, new, diff.warning
    )


def go_on(resumed: Resumed, stop: StopRequests) -> dict[str, Any]:
    folder, spec = resumed.folder, resumed.spec
    if resumed.finished:
        print(f"the run {folder} is finished ({spec.step} steps); {NOTHING_TO_DO}")
        return read_summary(folder)
    lock = lock_run(folder)
    if checkpoint_folders(folder)[-1:] != [spec.checkpoint] * (spec.checkpoint is not None):
        raise RunError(f"another process went on with {folder} meanwhile; give the command again")
    if resumed.changed:
        save_config(spec.config, folder)
    moved = supersede(folder, spec.step)
    aside = f"; what is not of the record up to there is in {moved}" if moved else ""
    print(f"resumed at step {spec.step}, after it was {resumed.ended}{aside}")
    return run(spec, lock, stop)


def run(
    spec: RunSpec,
    lock: IO[str],
    stop: StopRequests,
    new: NewRun | None = None,
    warning: str = "",
) -> dict[str, Any]:
    """Load and train, together with the other processes; ``lock`` is held until the run ends,
    however it ends: run.json says how, and why. A ``new`` one that cannot be loaded leaves
    nothing."""
    config, folder, recorder = spec.config, spec.folder, None
    base, init_run_id = read_run(folder)["base"], spec.init.run_id
    identity = RunIdentity(spec.run_id, folder, display_name(config), base, init_run_id)
    processes = Processes.from_environment()
    progress = Progress(config.num_steps, spec.step, lock)
    try:
        announce(config, folder, spec.init, warning)
        from lsp.algorithm import train
        from lsp.loop.recorder import RunRecorder
        from lsp.model.out_of_memory import memory_guard

        processes.start()
        processes.broadcast(spec)
        with memory_guard("loading"):  # the tracker first, which may be refused within seconds
            at("the tracker")
            tracker = build_part(config.tracker, BuildContext(config, run=identity))
            players, learner, state = load(spec, processes)
            recorder = RunRecorder(spec, folder, progress, players, learner, tracker, state, stop)
        return train(spec, players, learner, recorder)
    except Interrupted:
        raise  # after all of it was recorded
    except BaseException as error:
        from lsp.loop.outcome import outcome_of, told

        status, reason = outcome_of(error, stop)
        try:
            if recorder is not None and not recorder.left:
                recorder.leave(status, reason)
            elif recorder is not None or new is None:
                if read_run(folder)["status"] != "finished":  # whose closing words failed
                    update_run(folder, status=status, reason=reason)
            else:
                remove_start(new)
        except OSError as second:  # on a full disk, say; the first error is what is raised
            progress.note(f"warning: how the run ended could not be written: {second}")
        shown = told(error, config, folder, began=recorder is not None)
        if shown is error:
            raise
        raise shown from error
    finally:
        stop.act_at_once()
        progress.close()
        lock.close()


def thread_environment() -> None:
    """Idle threads of the OpenMP pool sleep instead of spinning; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def announce(config: Config, folder: Path, init: Init, warning: str) -> None:
    print(config.tracker.announcement())
    print(f"run: {folder}\ninit: {init.text}", flush=True)
    for text in filter(None, (*warnings(config), *crowding(config), warning)):
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _make_earlier_run(config: Config, first: Sequence[str], stop: StopRequests) -> Init:
    """Make the run of init=<method> that is not there yet, by its overrides; with resume=auto go on
    with the one that an earlier start of this command began."""
    method = config.init.source
    if config.resume == "auto":
        first = [*first, *begun_earlier_run(config, first)]
    print(
        f"init={method}: no finished run of it from this base yet; training one first"
        f" ({command_line(first)}), kept under {config.runs_root}/",
        flush=True,
    )
    agent_id = os.environ.pop("WANDB_RUN_ID", None)  # a sweep agent's, meant for the run itself
    earlier = compose(first)
    if resumed := find_resumed(earlier, first) if earlier.resume else None:
        go_on(resumed, stop)
    else:
        begin(earlier, first, stop)
    if agent_id is not None:
        os.environ["WANDB_RUN_ID"] = agent_id
    if stop.reason:
        left = f"asked to stop ({stop.reason}) as the earlier run was ending, which is finished"
        raise Interrupted(f"{left}; the same command begins the run itself", stop.signals)
    return resolve_init(config)


def objective_of(overrides: Sequence[str], stop: StopRequests) -> tuple[float | None, float]:
    """``start``, and of its summary the metric that a sweeper wants, and the seconds that it took,
    those of earlier starts among them."""
    config = _read(overrides)
    summary = _start(config, overrides, stop) or {}
    return summary.get(f"last/{config.objective}"), summary.get("seconds", 0.0)
