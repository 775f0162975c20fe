"""A command line with ``init=<method>`` goes in, that of the run which is made first comes out."""

import shlex
from collections.abc import Sequence

from lsp.model.processes import Processes
from lsp.run.commands import key_of, path_word, words_of
from lsp.run.folder import base_identity, is_held, runs
from lsp.settings.compose import CONF
from lsp.settings.config import Config
from lsp.tools.places import train_command
from lsp.tools.secrets import scrub

OF_ONE_RUN = (
    *("method", "experiment", "init", "init.run", "resume"),
    *("run_dir", "run_name", "objective", "objective_goal", "dry_run", "accept_gap"),
)
"""Settings that a run does not share with the earlier one that is made for it."""


def command_line(overrides: Sequence[str]) -> str:
    """What starts such a run as this process was started."""
    start = train_command(Processes.from_environment().launcher)
    return f"{start} {shlex.join(overrides)}".rstrip()


def overrides_of_earlier_run(config: Config, overrides: Sequence[str]) -> list[str]:
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


def begun_earlier_run(config: Config, first: Sequence[str]) -> list[str]:
    """What goes on with the newest unfinished run of the same command line that nobody holds."""
    base = base_identity(config)
    for folder, entries in runs(config.runs_root):
        placed = [*first, path_word("run_dir", folder)]  # as this function said it before
        begun_with = words_of(entries.get("command", ""))
        same = begun_with in [scrub(shlex.join(words)) for words in (first, placed)]
        same = same and entries["base"] == base
        if same and entries["status"] != "finished" and not is_held(folder):
            begun = entries["status"] != "starting"
            return [path_word("resume" if begun else "run_dir", folder)]
    return []
