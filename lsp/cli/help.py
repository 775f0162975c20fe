"""A command goes in; what ``lsp <command> --help`` prints comes out, a screen of text."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from lsp.cli.table import COMMANDS, EXIT_CODES, GROUPS, RUN, Command
from lsp.tools.places import CONF
from lsp.tools.text import folded

WIDTH = 96
GROUPS_OF_A_RUN = ("method", "world", "init", "data", "reward", "self_reward", "eval", "tracker",
                   "hardware", "model", "prompts")  # fmt: skip
HELP = ("--help", "-h", "help")


def asks_help(arguments: Sequence[str]) -> bool:
    """Whether the words of a command, up to ``--``, ask for its help."""
    words = list(arguments)
    own = words[: words.index("--")] if "--" in words else words
    return any(word in ("--help", "-h") for word in own) or own[:1] == ["help"]


def overview() -> str:
    """What ``lsp --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = ["lsp COMMAND [words and KEY=VALUE …]       language self-play: train, look, judge", ""]
    for group, names in GROUPS.items():
        for name in names:
            label = group if name == names[0] else ""
            lines.append(f"  {label:<8}{name:<{width}}  {COMMANDS[name].purpose}")
    lines += [
        "",
        "lsp COMMAND --help shows its settings and examples; nothing starts by it. RUN is",
    ]
    lines += [f"{RUN}, its id, or the beginning of one. Start with: lsp train method=lsp"]
    lines += ["", *exit_codes()]
    return "\n".join(lines)


def exit_codes() -> list[str]:
    return [f"exit code {code:<4} {meaning}" for code, meaning in EXIT_CODES.items()]


def help_text(name: str) -> str:
    command = COMMANDS[name]
    lines = [f"lsp {name} {command.usage}".rstrip(), f"  {command.purpose}", "", "examples"]
    words = [f"lsp {name} {line}".rstrip() for line, _ in command.examples]
    width = max((len(text) for text in words if len(text) <= 60), default=0)
    for text, (_, why) in zip(words, command.examples, strict=True):
        lines.append(f"  {text:<{width}}  {why}".rstrip())
    if settings := list(own_settings(command)):
        lines += ["", "settings"]
        wide = max(len(shown) for shown, _ in settings)
        for shown, meaning in settings:
            lines += folded(meaning, WIDTH, f"  {shown:<{wide}}  ")
    if command.of_a_run:
        lines += ["", "settings of a run (docs/settings.md has them all), for instance"]
        lines += _groups() if name == "train" else ["  those of lsp train: see lsp train --help"]
    if command.note:
        lines += ["", *folded(command.note, WIDTH, "")]
    lines += ["", f"{command.docs}; exit codes: lsp --help"]
    return "\n".join(line.rstrip() for line in lines)


def own_settings(command: Command) -> Iterator[tuple[str, str]]:
    """(``key=default``, its meaning) of each setting of a command's own."""
    if not command.settings:
        return
    for name, default, meaning in settings_of(command):
        yield f"{name}={shown_value(default)}", meaning


def settings_of(command: Command) -> list[tuple[str, Any, str]]:
    """(name, default or … where its file or the user says it, description)."""
    module, _, name = command.settings.partition(":")
    kind = getattr(import_module(module), name)
    described = kind.__pydantic_fields__
    return [
        (field.name, described[field.name].default, described[field.name].description or "")
        for field in fields(kind)
    ]


def shown_value(value: Any) -> str:
    """As it is written on a command line; … where there is no default."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value) if isinstance(value, int | float | str) else "…"


def choices(group: str) -> list[str]:
    """Names of the files of a group of conf/."""
    folder = CONF / group
    paths = sorted(folder.rglob("*.yaml"))
    return [path.relative_to(folder).with_suffix("").as_posix() for path in paths]


def _groups() -> Iterator[str]:
    for group in GROUPS_OF_A_RUN:
        yield from folded(" ".join(choices(group)), WIDTH, f"  {group + '=':<13}")
