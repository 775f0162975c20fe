"""Run folders: a config goes in, a folder that this process holds comes out.

<run>/config.yaml      the resolved settings
<run>/run.json         id, status, base, init, provenance
<run>/metrics.jsonl    one object a step
<run>/trace/           step-NNNNNN.parquet, one row a (query, answer) pair
<run>/checkpoints/     step-NNNNNN/
<run>/summary.json     written at the end
<run>/curves.png, report.html   written at the end
<run>/wandb/           everything of W&B
"""

import hashlib
import json
import os
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from lsp.errors import RunError
from lsp.files import is_locked, lock, write_json, write_text
from lsp.run.layout import in_todays_layout
from lsp.settings.config import Config, local_model_folder
from lsp.settings.schema import to_tree

RUN_FILE = "run.json"
RUN_KEYS = {"id", "status", "method", "model", "base", "init", "started"}


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
    weight = "auto" if method.fixed_weight is None else f"{method.fixed_weight:g}"
    return config.run_name or (
        f"{method.label} from {config.init.source} beta={method.beta:g}·{method.kl_estimator}"
        f" w={weight} seed={config.seed}"
    )


def create_run(config: Config, record: dict[str, Any]) -> tuple[str, Path, IO[str]]:
    """Make the folder of a new run and hold it; (run id, folder, lock). ``record`` goes into its
    ``run.json`` with status ``starting`` until the run has begun; a folder that was left in that
    state (a kill while loading) holds nothing and is taken over. Raises RunError where something
    else is there, another process holds it, or nothing can be written."""
    run_id = new_run_id(config)
    folder = Path(config.run_dir) if config.run_dir else Path(config.runs_root) / run_id
    _check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_run(folder)
        _check_free(folder)
        write_json(folder / RUN_FILE, {"id": run_id, "status": "starting", **record})
        save_config(config, folder)
    except OSError as error:
        reason, fix = error.strerror, "choose another with run_dir=… or runs_root=…"
        raise RunError(f"cannot write to the run folder {folder}: {reason}; {fix}") from error
    return run_id, folder, lock


def _check_free(folder: Path) -> None:
    """Whether a run may begin here: nothing there, or only what a start left behind."""
    if not folder.exists():
        return
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()} - {".lock"}
        if not names or (RUN_FILE in names and read_run(folder).get("status") == "starting"):
            return
    fix = f"give another run_dir, or go on with the run in it by {resume_hint(folder)}"
    raise RunError(f"run_dir={folder} exists and is not empty; {fix}")


def lock_run(folder: Path) -> IO[str]:
    """``lsp.files.lock`` of a run's folder. Raises RunError where another process holds it."""
    try:
        return lock(folder / ".lock", wait=False)
    except BlockingIOError as error:
        fix = "wait for it, or choose another run_dir"
        raise RunError(f"another process is writing to {folder}; {fix}") from error


def is_held(folder: Path) -> bool:
    """Whether a process is writing to a run's folder now."""
    return is_locked(folder / ".lock")


def save_config(config: Config, folder: Path) -> None:
    write_text(folder / "config.yaml", dump_config(config))


def dump_config(config: Config) -> str:
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def saved_tree(folder: Path) -> dict[str, Any]:
    """A run's settings in today's layout; OSError, YAMLError or ValueError where unreadable."""
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ValueError("config.yaml holds no settings")
    return in_todays_layout(tree)


def read_run(folder: Path) -> dict[str, Any]:
    """A run's ``run.json``. Raises RunError where the folder is no run."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if missing := RUN_KEYS - set(run):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return run
    except (OSError, ValueError, TypeError) as error:
        reason = f"its {RUN_FILE} cannot be read; if it was one, move it away"
        raise RunError(f"{folder} is no run folder: {reason}") from error


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
    folders = [path.parent for path in Path(runs_root).glob(f"*/{RUN_FILE}")]
    all_runs = [(folder, read_run(folder)) for folder in folders]
    yield from sorted(all_runs, key=lambda item: item[1]["started"], reverse=True)


def base_identity(config: Config) -> str:
    """What a base model *is*: a Hub id with its revision, or a folder's weights by hash."""
    folder = local_model_folder(config.model.name)
    if folder is None:
        return f"{config.model.name}@{config.model.revision or 'main'}"
    return weights_identity(folder)


def weights_identity(folder: Path) -> str:
    """A folder's weights by hash."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return f"sha256:{digest.hexdigest()[:16]}"
