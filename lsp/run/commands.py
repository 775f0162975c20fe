"""A run's folder goes in, the command line comes out that goes on with it, or begins one like it.

What is printed can be pasted into a shell; a folder that came from elsewhere never puts words of
its own into it.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lsp.errors import ConfigError
from lsp.model.processes import Processes
from lsp.run.folder import read_run, saved_tree
from lsp.settings.compose import CONF, compose, written
from lsp.settings.rules import from_tree
from lsp.settings.schema import flat_tree
from lsp.tools.places import train_command
from lsp.tracking.reader import RUN_FILE, DamagedFile

COMMAND = (
    r"(?:lsp train"
    r"|(python|torchrun(?: --nnodes \d+)? --nproc_per_node \d+) (?:run\.py|-m lsp train))(.*)"
)
"""A run's command line, as it is recorded: launcher, settings (lsp/tools/places.py)."""


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
    launcher = (match and match[1]) or "python"
    try:
        words = shlex.split(match[2]) if match else []
        parsed = OverridesParser.create().parse_overrides(words)
    except (ValueError, HydraException):
        return "python", []
    return launcher, [str(override.input_line) for override in parsed]


def _own_words(folder: Path) -> list[str]:
    return _begun(folder)[1]


def _command(folder: Path, words: Sequence[str]) -> str:
    """``words`` behind what starts as many processes as there are, or as the run was begun with."""
    processes = Processes.from_environment()
    launcher = _begun(folder)[0] if processes.size == 1 else processes.launcher
    return f"{train_command(launcher)} {shlex.join(words)}"


def words_of(command: str) -> str:
    """The settings of a recorded command line, whatever started it."""
    match = re.fullmatch(COMMAND, command, re.DOTALL)
    return match[2].strip() if match else ""


def path_word(key: str, path: Path) -> str:
    """``key=<path>``, quoted where Hydra needs it."""
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", str(path), re.ASCII):
        return f"{key}={path}"
    text = re.sub(r"(\\+)('|\Z)", r"\1\1\2", str(path)).replace("'", "\\'")
    return f"{key}='{text}'"
