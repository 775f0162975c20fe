"""Run folders: their names, what lies in them, and how to find one.

<run>/config.yaml      the resolved settings
<run>/run.json         id, status, base, init, provenance
<run>/metrics.jsonl    one object a step
<run>/trace/           step-NNNNNN.parquet, one row a (query, answer) pair
<run>/checkpoints/     step-NNNNNN/
<run>/summary.json     written at the end
<run>/curves.png, report.html   written at the end
<run>/wandb/           everything of W&B
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from lsp.config import Config, local_model_folder
from lsp.schema import to_tree

RUN_FILE = "run.json"
RUN_KEYS = {"id", "status", "method", "model", "base", "init", "started"}


class RunError(Exception):
    """Something about a run that the user has to settle; its text says what and how."""


class Interrupted(Exception):
    """The run was asked to stop and did, with everything saved; the text says how to go on.
    ``signals`` are those that asked, in their order."""

    def __init__(self, text: str, signals: Sequence[signal.Signals] = ()):
        super().__init__(text)
        self.signals = signals


def new_run_id(config: Config) -> str:
    """Readable and unique: method, seed, time and four random characters. Under W&B's sweep agent
    it is the id that the agent gave."""
    if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{config.method.label}-s{config.seed}-{stamp}-{secrets.token_hex(2)}"


def display_name(config: Config) -> str:
    """What W&B shows: method, init, beta with its estimator, weight, seed."""
    method = config.method
    return config.run_name or (
        f"{method.label} from {config.init.source} beta={method.beta:g}·{method.kl_estimator}"
        f" w={method.self_reward_weight:g} seed={config.seed}"
    )


def write_json(path: Path, value: Any) -> None:
    """Atomic: the file is the old one or the new one, never half of it. JSON has no NaN and no
    infinity: they are null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def create_run(config: Config, record: dict[str, Any]) -> tuple[str, Path, IO[str]]:
    """Make the folder of a new run and hold it; (run id, folder, lock). ``record`` goes into its
    ``run.json`` with status ``starting`` until the run has begun; a folder that was left in that
    state (a kill while loading) holds nothing and is taken over.

    Raises RunError where something else is there, another process holds it, or nothing can be
    written.
    """
    run_id = new_run_id(config)
    folder = Path(config.run_dir) if config.run_dir else Path(config.runs_root) / run_id
    _check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_run(folder)
        _check_free(folder)
        write_json(folder / RUN_FILE, {"id": run_id, "status": "starting", **record})
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"cannot write to the run folder {folder}: {error.strerror}; choose another with"
            " run_dir=… or runs_root=…"
        ) from error
    return run_id, folder, lock


def _check_free(folder: Path) -> None:
    """Whether a run may begin here: nothing there, or only what a start left behind."""
    if not folder.exists():
        return
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()} - {".lock"}
        if not names or (RUN_FILE in names and read_run(folder).get("status") == "starting"):
            return
    raise RunError(
        f"run_dir={folder} exists and is not empty; give another run_dir, or go on with the"
        f" run in it by {resume_hint(folder)}"
    )


def lock_run(folder: Path) -> IO[str]:
    """Hold a run's folder for this process; the kernel lets go when the process ends, however it
    ends. Raises RunError where another process holds it."""
    try:
        handle = (folder / ".lock").open("w")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise RunError(
            f"another process is writing to {folder}; wait for it, or choose another run_dir"
        ) from error
    return handle


def is_held(folder: Path) -> bool:
    """Whether a process is writing to a run's folder now."""
    try:
        with (folder / ".lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def save_config(config: Config, folder: Path) -> None:
    """Write a run's settings anew, in one step."""
    temporary = folder / f".config.yaml.{os.getpid()}.tmp"
    temporary.write_text(dump_config(config), encoding="utf-8")
    os.replace(temporary, folder / "config.yaml")


def dump_config(config: Config) -> str:
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def read_run(folder: Path) -> dict[str, Any]:
    """A run's ``run.json``. Raises RunError where the folder is no run."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if not set(run) >= RUN_KEYS:
            raise ValueError(f"it lacks {', '.join(sorted(RUN_KEYS - set(run)))}")
        return run
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{folder} is no run folder: its {RUN_FILE} cannot be read; if it was one, move it away"
        ) from error


def update_run(folder: Path, **values: Any) -> None:
    """Change entries of a run's ``run.json``."""
    write_json(folder / RUN_FILE, read_run(folder) | values)


def resume_hint(folder: Path) -> str:
    """``resume=<folder>`` as it can be typed into a shell, quoted where Hydra needs it."""
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", str(folder), re.ASCII):
        return f"resume={folder}"
    return shlex.quote(f"resume='{folder}'")


def find_run(name: str, runs_root: str) -> Path:
    """A run by folder or by id under ``runs_root``."""
    for folder in (Path(name), Path(runs_root) / name):
        if (folder / RUN_FILE).is_file():
            return folder
    raise RunError(
        f"there is no run {name!r}, neither as a folder nor as an id under {runs_root}/;"
        f" `ls -t {runs_root}` shows what there is"
    )


def runs(runs_root: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All runs under a root, the newest first."""
    found = [(path.parent, read_run(path.parent)) for path in Path(runs_root).glob(f"*/{RUN_FILE}")]
    yield from sorted(found, key=lambda item: item[1]["started"], reverse=True)


def base_identity(config: Config) -> str:
    """What a base model *is*: a Hub id with its revision, or a folder's weights by hash."""
    folder = local_model_folder(config.model.name)
    if folder is None:
        return f"{config.model.name}@{config.model.revision or 'main'}"
    return weights_identity(folder)


def weights_identity(folder: Path) -> str:
    """A folder's weights by hash."""
    digest = hashlib.sha256()
    weights = [f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")]
    for file in sorted(weights):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"
