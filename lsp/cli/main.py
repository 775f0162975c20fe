"""``lsp`` and ``python -m lsp``: a command line goes in, one command runs, its exit code comes out.

What is wrong with the words themselves is said here, before anything is imported; what is wrong
with settings is said by the command. ``python -m lsp.play …`` comes through ``run`` too, and is the
same code.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import NoReturn

from lsp.cli.help import asks_help, exit_codes, help_text, overview
from lsp.cli.table import COMMANDS
from lsp.errors import ConfigError, RunError

USAGE, INTERRUPTED = 2, 130
FORMER_FLAGS = {"--trust": "trust=[key=value]", "--greedy": "greedy=true", "--start": "start=true"}
"""Spellings of earlier versions whose new one is another than the key with a value."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    # As `python -m` does, so that code of the user's is found; last, so that it replaces nothing.
    if os.getcwd() not in map(os.path.abspath, sys.path):
        sys.path.append(os.getcwd())
    return call(_command, sys.argv[1:] if arguments is None else arguments)


def _command(words: Sequence[str]) -> int:
    if list(words[:1]) == ["--version"]:
        print(f"lsp {metadata.version('language-self-play')}")
        return 0
    if words and words[0] == "help" and words[1:]:
        words = [words[1], "--help"]
    if not words or words[0] in ("help", "--help", "-h"):
        print(overview())
        return 0 if words else USAGE
    name, *rest = words
    if name not in COMMANDS:
        return _wrong(unknown(name))
    if not rest and COMMANDS[name].needs:
        print(help_text(name), file=sys.stderr)
        return _wrong(f"lsp {name} needs {COMMANDS[name].needs}")
    return run(name, rest)


def run(name: str, arguments: Sequence[str]) -> int:
    """One command with the words behind it; its exit code. Nothing begins where they ask for
    help."""
    command = COMMANDS[name]
    if asks_help(arguments):
        print(help_text(name))
        return 0
    words = [command.spelled.get(word, word) for word in arguments]
    if flags := flags_of(words, command.flags):
        return _wrong(f"{flags[0]}: settings are written key=value here: {in_key_value(flags[0])}")
    return call(import_module(command.module).main, words)


def call(function: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    """The exit code of a command's ``main``; what it raises for the user is one message."""
    try:
        code = function(arguments)
        sys.stdout.flush()
    except (ConfigError, RunError) as error:
        return _wrong(str(error), 1)
    except KeyboardInterrupt as interruption:
        kept = map(str, interruption.args or ("what had ended is kept",))
        print("; ".join(("interrupted", *kept)), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0


def start_module(module: str, document: str | None) -> NoReturn:
    """``python -m`` of a module that is no command of ``lsp``: its help is its docstring."""
    if asks_help(sys.argv[1:]):
        print(document)
        print("\n".join(exit_codes()))
        sys.exit(0)
    sys.exit(call(import_module(module).main, sys.argv[1:]))


def unknown(name: str) -> str:
    """Why a word is no command, with the nearest one."""
    if "=" in name:
        return f"{name} is a setting, and a command comes first: lsp train {name}"
    if Path(name).is_dir():
        return f"{name} is no command; to look at a run: lsp show {name}"
    close = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
    fix = f"did you mean lsp {close[0]}" if close else f"there are {', '.join(COMMANDS)}"
    return f"there is no command {name}; {fix}"


def flags_of(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    """Words before ``--`` that begin with a dash and are none of those that are ``known``."""
    words = list(arguments)
    own = words[: words.index("--")] if "--" in words else words
    return [word for word in own if word.startswith("-") and word.partition("=")[0] not in known]


def in_key_value(flag: str) -> str:
    """``--runs-root`` as it is written here."""
    key, _, value = flag.lstrip("-").partition("=")
    return FORMER_FLAGS.get(flag.partition("=")[0], f"{key.replace('-', '_')}={value or '…'}")


def _wrong(reason: str, code: int = USAGE) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return code
