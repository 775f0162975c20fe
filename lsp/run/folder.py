"""Run folders: a folder goes in; who holds it, what it says of its run and how that ended come out.

<run>/config.yaml      the resolved settings
<run>/run.json         id, status and reason, base, init, conditions, provenance
<run>/metrics.jsonl    one object a step
<run>/trace/           step-NNNNNN.parquet, one row a (query, answer) pair; manifest.json
<run>/checkpoints/     step-NNNNNN/
<run>/summary.json     written at the end
<run>/held_out.jsonl   what base and trained model answered and scored, a held-out prompt a line;
                       examples.json has three of them
<run>/curves.png, report.html   written at the end
<run>/wandb/           everything of W&B
<run>/.lock            held while a process writes to the run; what it does now
"""

import glob
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from lsp.errors import RunError
from lsp.files import is_locked, lock, read_bytes, write_json, write_text
from lsp.run.layout import in_todays_layout
from lsp.settings.config import Config, local_model_folder
from lsp.settings.schema import to_tree
from lsp.tools.places import IS_CHECKOUT, ROOT
from lsp.tracking.reader import (
    RUN_FILE,
    DamagedFile,
    read_run_file,
    read_settings_file,
)

PHASE_BYTES = 256
"""Of the line in a run's lock."""


def display_name(config: Config) -> str:
    """What W&B shows: method, init, beta with its estimator, weight, seed."""
    method = config.method
    weight = "auto" if method.fixed_weight is None else f"{method.fixed_weight:g}"
    own = method.challenger_beta
    of_challenger = "" if own is None or not method.trains_challenger else f" beta_Ch={own:g}"
    return config.run_name or (
        f"{method.label} from {config.init.source} beta={method.beta:g}·{method.kl_estimator}"
        f"{of_challenger}"
        f" w={weight} seed={config.seed}"
    )


def held(folder: Path) -> RunError:
    fix = "wait for it, or choose another run_dir"
    return RunError(f"another process is writing to {folder}; {fix}")


def lock_run(folder: Path) -> IO[str]:
    """``lsp.files.lock`` of a run's folder. Raises RunError where another process holds it."""
    try:
        return lock(folder / ".lock", wait=False)
    except BlockingIOError as error:
        raise held(folder) from error
    except OSError as error:
        raise _no_lock(folder, error) from error


def is_held(folder: Path) -> bool:
    """Whether a process is writing to a run's folder now. Raises RunError for a strange lock."""
    try:
        return is_locked(folder / ".lock")
    except OSError as error:
        raise _no_lock(folder, error) from error


def note_phase(lock: IO[str], words: str) -> None:
    """Write into a run's lock what it does now, for who looks on: one line, always as long, so that
    it takes the place of the one before in one write."""
    line = json.dumps({"doing": words, "since": time.time()})
    os.pwrite(lock.fileno(), f"{line:<{PHASE_BYTES - 1}}\n".encode(), 0)


def read_phase(folder: Path) -> tuple[str, float] | None:
    """(what a run does now, since when) as its lock says; None where it does not."""
    try:
        entries = json.loads(read_bytes(folder / ".lock", PHASE_BYTES))
        return str(entries["doing"]), float(entries["since"])
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or not written yet
        return None


def _no_lock(folder: Path, error: OSError) -> RunError:
    return RunError(f"{folder}/.lock cannot be used: {error.strerror}; remove it")


def save_config(config: Config, folder: Path) -> None:
    write_text(folder / "config.yaml", dump_config(config), durable=True)


def dump_config(config: Config) -> str:
    return yaml.dump(to_tree(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Without aliases, which the reader refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def saved_tree(folder: Path) -> dict[str, Any]:
    """A run's settings in today's layout. Raises DamagedFile where they cannot be read."""
    return in_todays_layout(read_settings_file(folder))


def saved_tracker(folder: Path) -> dict[str, Any]:
    """Of a run's settings those of its tracker. Raises DamagedFile where there are none."""
    tracker = saved_tree(folder).get("tracker")
    if not isinstance(tracker, dict) or not isinstance(tracker.get("_target_"), str):
        raise DamagedFile(f"{folder / 'config.yaml'} has no settings of a tracker")
    return tracker


def read_run(folder: Path) -> dict[str, Any]:
    """A run's ``run.json``. Raises RunError where the folder is no run."""
    try:
        return read_run_file(folder)
    except DamagedFile as error:
        reason = f"{error}; if it was one, move it away"
        raise RunError(f"{folder} is no run folder: {reason}") from error


def update_run(folder: Path, **values: Any) -> None:
    """Change entries of a run's ``run.json``, for good."""
    write_json(folder / RUN_FILE, read_run(folder) | values, durable=True)


def outcome(folder: Path, run: Mapping[str, Any]) -> tuple[str, str]:
    """(status, reason) of a run with these entries of run.json, as it is now."""
    if run["status"] in ("starting", "running") and not is_held(folder):
        return "killed", "its process is gone"
    return run["status"], run.get("reason", "")


def find_run(name: str, runs_root: str) -> Path:
    """A run by its folder, its id, or the beginning of an id that no other run's has. Raises
    RunError, which says where it looked."""
    if (run := run_named(name, runs_root)) is not None:
        return run
    places = ", ".join(f"{place}/" for place in places_of_runs(runs_root))
    raise RunError(
        f"there is no run {name!r}, neither as a folder nor as an id under {places}; `lsp runs`"
        " lists what there is, and runs_root=… looks elsewhere"
    )


def run_named(name: str, runs_root: str) -> Path | None:
    """``find_run``; None where there is none. Raises RunError where several ids begin so."""
    if (Path(name) / RUN_FILE).is_file():
        return Path(name)
    places = places_of_runs(runs_root)
    for place in places:
        if (place / name / RUN_FILE).is_file():
            return place / name
    if Path(name).exists() or Path(name).name != name:
        return None  # something else of that name, or a path
    found = [
        path.parent for place in places for path in place.glob(f"{glob.escape(name)}*/{RUN_FILE}")
    ]
    if len(found) > 1:
        some = ", ".join(sorted(path.name for path in found)[:5])
        raise RunError(f"{len(found)} runs begin with {name!r}: {some}; say more of the id")
    return found[0] if found else None


def places_of_runs(runs_root: str) -> list[Path]:
    """Where ids are looked up: ``runs_root`` from here, and where it is no whole path from each
    folder above and from the checkout, as far as they are there."""
    here = Path(runs_root)
    above = [parent / here for parent in Path.cwd().parents]
    ours = [ROOT / here] if IS_CHECKOUT else []
    there = {here.resolve(): here}
    for place in [] if here.is_absolute() else [*above, *ours]:
        if place.is_dir():
            there.setdefault(place.resolve(), place)
    return list(there.values())


def runs(runs_root: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All runs under a root, the newest first; what is damaged among them is said and passed over:
    it is somebody else's."""
    all_runs = []
    for path in sorted(Path(runs_root).glob(f"*/{RUN_FILE}")):
        try:
            all_runs.append((path.parent, read_run(path.parent)))
        except RunError as error:
            print(f"note: passed over: {error}", file=sys.stderr)
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
