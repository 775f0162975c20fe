"""Where a run is to be kept goes in; a folder that this process holds comes out, or RunError where
it cannot be."""

import errno
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from lsp.errors import RunError
from lsp.files import write_json, write_text
from lsp.run.commands import go_on_command
from lsp.run.folder import held, is_held, lock_run, read_run, save_config
from lsp.settings.config import Config
from lsp.tracking.reader import METRICS, RUN_FILE

NAME_BYTES, PATH_BYTES = 255, 3_500
"""The longest name that file systems take, and the longest path that leaves a run's own files room
within the kernel's 4,096."""
KERNEL_FOLDERS = ("/proc", "/sys")
"""Where root may write by its rights, and nothing can be made."""


def check_place(config: Config) -> None:
    """Raises RunError where ``create_run`` could not make a run's folder; makes nothing."""
    folder = Path(config.run_dir or config.runs_root)
    try:
        if config.run_dir:
            check_free(folder)
            if is_held(folder):
                raise held(folder)
        _check_writable(folder)
    except OSError as error:
        raise not_writable(folder, error) from error


def check_resumed_place(folder: Path) -> None:
    """Raises RunError where a run's folder cannot be written to; who holds it was looked at before
    its record was (lsp/run/resume.py)."""
    try:
        _check_writable(folder)
    except OSError as error:
        raise not_writable(folder, error) from error


def _check_writable(folder: Path) -> None:
    """Raises the OSError of a folder that could not be made there, or written to."""
    names = [len(os.fsencode(name)) for name in folder.absolute().parts]
    if max(names) > NAME_BYTES or sum(names) + len(names) > PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    of_kernel = any(there.resolve().is_relative_to(root) for root in KERNEL_FOLDERS)
    if of_kernel or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def check_free(folder: Path) -> None:
    """Whether a run may begin here: nothing there, or only what a start left behind."""
    if not folder.exists():
        return
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()} - {".lock"}
        if not names or (RUN_FILE in names and read_run(folder).get("status") == "starting"):
            return
    fix = "give another run_dir"
    if (folder / RUN_FILE).is_file():
        fix += f", or go on with the run in it: {go_on_command(folder)}"
    raise RunError(f"run_dir={folder} exists and is not empty; {fix}")


def new_run_id(config: Config) -> str:
    """Readable and unique: method, seed, time and four random characters. Under W&B's sweep agent
    it is the id that the agent gave."""
    if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{config.method.label}-s{config.seed}-{stamp}-{secrets.token_hex(2)}"


class NewRun(NamedTuple):
    """A run that was just made and is held. ``made``: its folder was not there before."""

    run_id: str
    folder: Path
    lock: IO[str]
    made: bool


def create_run(config: Config, record: dict[str, Any], code_diff: str = "") -> NewRun:
    """Make the folder of a new run and hold it. ``record`` goes into its ``run.json`` with status
    ``starting`` until the run has begun; a folder that was left in that state (a kill while
    loading) holds nothing and is taken over. ``code_diff``: what differs from the commit, without
    secrets. Raises RunError where something else is there, another process holds it, or nothing can
    be written."""
    run_id = new_run_id(config)
    folder = Path(config.run_dir) if config.run_dir else Path(config.runs_root) / run_id
    check_free(folder)
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_run(folder)
        check_free(folder)
        entries = {"id": run_id, "status": "starting", **record}
        write_json(folder / RUN_FILE, entries, durable=True)
        save_config(config, folder)
        write_text(folder / "code.diff", code_diff)
    except OSError as error:
        raise not_writable(folder, error) from error
    return NewRun(run_id, folder, lock, made)


def remove_start(run: NewRun) -> None:
    """Take away what a start made that did not come to a run, and nothing else: its name is free
    again, and what a user put beside it stays."""
    folder = run.folder
    for name in ("code.diff", "config.yaml", RUN_FILE, ".lock"):
        (folder / name).unlink(missing_ok=True)
    metrics, trace, wandb = folder / METRICS, folder / "trace", folder / "wandb"
    if metrics.is_file() and not metrics.stat().st_size:
        metrics.unlink()
    if trace.is_dir() and not any(trace.iterdir()):
        trace.rmdir()
    if wandb.is_dir() and not wandb.is_symlink():  # a folder where a run may begin has none
        shutil.rmtree(wandb)
    if run.made and not any(folder.iterdir()):
        folder.rmdir()


def not_writable(folder: Path, error: OSError) -> RunError:
    reason, fix = error.strerror, "choose another with run_dir=… or runs_root=…"
    return RunError(f"cannot write to the run folder {folder}: {reason}; {fix}")
