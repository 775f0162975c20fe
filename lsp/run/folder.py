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
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lsp.errors import ConfigError, RunError
from lsp.files import is_locked, lock, write_json, write_text
from lsp.model.processes import Processes
from lsp.run.layout import in_todays_layout
from lsp.settings.compose import CONF, compose, written
from lsp.settings.config import Config, local_model_folder
from lsp.settings.rules import from_tree
from lsp.settings.schema import flat_tree, to_tree
from lsp.tracking.reader import (
    METRICS,
    RUN_FILE,
    DamagedFile,
    read_run_file,
    read_settings_file,
)

COMMAND = r"(python|torchrun(?: --nnodes \d+)? --nproc_per_node \d+) run\.py(.*)"
"""A run's command line, as it is recorded: launcher, settings."""


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
    own = method.challenger_beta
    of_challenger = "" if own is None or not method.trains_challenger else f" beta_Ch={own:g}"
    return config.run_name or (
        f"{method.label} from {config.init.source} beta={method.beta:g}·{method.kl_estimator}"
        f"{of_challenger}"
        f" w={weight} seed={config.seed}"
    )


class NewRun(NamedTuple):
    """A run that was just made and is held. ``made``: its folder was not there before."""

    run_id: str
    folder: Path
    lock: IO[str]
    made: bool


def create_run(config: Config, record: dict[str, Any], code_diff: str = "") -> NewRun:
    """Make the folder of a new run and hold it. ``record`` goes into its ``run.json`` with status
    ``starting`` until the run has begun; a folder that was left in that state (a kill while
    loading) holds nothing and is taken over. Raises RunError where something else is there, another
    process holds it, or nothing can be written."""
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


def held(folder: Path) -> RunError:
    fix = "wait for it, or choose another run_dir"
    return RunError(f"another process is writing to {folder}; {fix}")


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


def go_on_command(folder: Path, *parts: str) -> str:
    """The whole command line that goes on with a run, to be pasted into a shell. Of the run's own
    it repeats what chooses and names code of others, which a command line alone can do, and what
    chooses ``parts`` (``reward``), settings of which may then be written behind it."""
    return _command(folder, [path_word("resume", folder), *_words_of_parts(folder, set(parts))])


def start_again_command(folder: Path, *changes: str) -> str:
    """The whole command line of a new run like this one, with ``changes`` (``key=value``), from the
    weights of its newest checkpoint; ``folder``: the run's, or that of a checkpoint in it."""
    run = folder if (folder / RUN_FILE).is_file() else folder.parents[1]
    replaced = {"init", "run_dir", "resume", "dry_run", *(key_of(text) for text in changes)}
    kept = [w for w in _own_words(run) if not {key_of(w), key_of(w).split(".")[0]} & replaced]
    return _command(run, [*kept, "init=checkpoint", path_word("init.run", folder), *changes])


def begin_command(folder: Path) -> str:
    """The command line of a run that never began, in its folder."""
    kept = [word for word in _own_words(folder) if key_of(word) not in ("run_dir", "resume")]
    return _command(folder, [*kept, path_word("run_dir", folder)])


def code_named_in(folder: Path) -> list[str]:
    """``key=value`` of what a run's command line named of others' code."""
    keys = _refused_keys(folder)
    return [
        f"{key}={str(value).lower() if value is True else value}"
        for word in _own_words(folder)
        for key, value in written([word]).items()
        if key in keys
    ]


def key_of(word: str) -> str:
    """The dotted key that a word of a command line sets: of a group, its place."""
    group, _, place = word.partition("=")[0].lstrip("+").partition("@")
    return (place or group).replace("/", ".")


def _words_of_parts(folder: Path, parts: set[str]) -> list[str]:
    """The words of a run's command line that choose and set ``parts`` and those with code of
    others, and what such words may stand on (``experiment``, ``world``); all words, where the
    settings of these alone would be refused. One that the saved settings contradict by now
    (``num_steps`` grew) is left out."""
    refused = _refused_keys(folder)
    parts |= {key.partition(".")[0] for key in refused}
    if not parts:
        return []
    saved = flat_tree(saved_tree(folder))
    agreeing = [word for word in _own_words(folder) if _agrees(word, saved)]
    few = [w for w in agreeing if key_of(w).partition(".")[0] in parts | {"experiment", "world"}]
    # Tried without what names code, so that nothing is imported that nobody has trusted yet.
    try:
        compose([word for word in few if not refused & set(written([word]))])
    except ConfigError as error:
        if not {problem.key for problem in error.problems} <= refused:
            return agreeing
    return few


def _agrees(word: str, saved: Mapping[str, Any]) -> bool:
    """Whether a word chooses a file of conf/, or sets what the saved settings have too."""
    if (CONF / word.lstrip("+").partition("=")[0].partition("@")[0].replace(".", "/")).is_dir():
        return True
    return all(key in saved and saved[key] == value for key, value in written([word]).items())


def _refused_keys(folder: Path) -> set[str]:
    """Keys of a run's settings that its file alone cannot say. Settings that cannot be read at all
    name none: going on says what is wrong with them."""
    try:
        from_tree(saved_tree(folder))
    except ConfigError as error:
        return {problem.key for problem in error.problems if problem.of_code}
    except DamagedFile:
        pass
    return set()


def _begun(folder: Path) -> tuple[str, list[str]]:
    """(launcher, settings) of the command line that a run was begun with; what is not as this
    program writes it never becomes a command again."""
    match = re.fullmatch(COMMAND, str(read_run(folder).get("command", "")), re.DOTALL)
    try:
        words = shlex.split(match[2]) if match else []
        parsed = OverridesParser.create().parse_overrides(words)
    except (ValueError, HydraException):
        return "python", []
    return match[1] if match else "python", [str(override.input_line) for override in parsed]


def _own_words(folder: Path) -> list[str]:
    return _begun(folder)[1]


def _command(folder: Path, words: Sequence[str]) -> str:
    """``words`` behind what starts as many processes as there are, or as the run was begun with."""
    processes = Processes.from_environment()
    launcher = _begun(folder)[0] if processes.size == 1 else processes.launcher
    return f"{launcher} run.py {shlex.join(words)}"


def path_word(key: str, path: Path) -> str:
    """``key=<path>``, quoted where Hydra needs it."""
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", str(path), re.ASCII):
        return f"{key}={path}"
    text = re.sub(r"(\\+)('|\Z)", r"\1\1\2", str(path)).replace("'", "\\'")
    return f"{key}='{text}'"


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
