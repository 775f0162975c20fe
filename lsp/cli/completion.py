"""The name of a shell goes in; a script comes out that lets it complete ``lsp``'s commands."""

import sys
from collections.abc import Iterator, Sequence

from lsp.cli.help import GROUPS_OF_A_RUN, choices, settings_of
from lsp.cli.table import COMMANDS, Command
from lsp.errors import RunError

OF_EVERY_RUN = ("num_steps=", "num_queries=", "group_size=", "seed=", "run_dir=", "runs_root=",
                "resume=", "dry_run=true", "optim.lr=")  # fmt: skip
BASH = """\
# lsp completion bash
_lsp() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" words=""
  local cur="${{line##* }}"
  if [ "$COMP_CWORD" -le 1 ]; then words="{commands}"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  # bash takes a word apart at "=", and what stands before it is typed already
  case "$cur" in *=*) COMPREPLY=("${{COMPREPLY[@]#"${{cur%%=*}}="}}") ;; esac
  case "${{COMPREPLY[0]-}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -F _lsp lsp
"""
ZSH = """\
#compdef lsp
# lsp completion zsh
_lsp() {{
  local -A settings
  settings=(
{cases}
  )
  if (( CURRENT == 2 )); then
    compadd -- {commands}
  else
    compadd -S '' -- ${{=settings[$words[2]]}}
    _files
  fi
}}
if [ "$funcstack[1]" = "_lsp" ]; then _lsp "$@"; else compdef _lsp lsp; fi
"""


def main(arguments: Sequence[str]) -> None:
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(arguments) != 1 or arguments[0] not in shells:
        raise RunError(f"lsp completion takes one of {', '.join(shells)}")
    sys.stdout.write(shells[arguments[0]]())


def bash() -> str:
    cases = "\n".join(f'      {name}) words="{text}" ;;' for name, text in _words())
    return BASH.format(commands=" ".join(COMMANDS), cases=cases)


def zsh() -> str:
    cases = "\n".join(f'    {name} "{text}"' for name, text in _words())
    return ZSH.format(commands=" ".join(COMMANDS), cases=cases)


def fish() -> str:
    lines = ["# lsp completion fish"]
    for name, command in COMMANDS.items():
        purpose = command.purpose.replace("'", "\\'")
        lines.append(f"complete -c lsp -n __fish_use_subcommand -f -a {name} -d '{purpose}'")
    for name, text in _words():
        condition = f"'__fish_seen_subcommand_from {name}'"
        lines.append(f"complete -c lsp -n {condition} -a '{text}'")
    return "\n".join(lines) + "\n"


def _words() -> Iterator[tuple[str, str]]:
    """(command, what may stand behind it)."""
    for name, command in COMMANDS.items():
        yield name, " ".join((*_own(command), *(_of_a_run() if command.of_a_run else ()), "--help"))


def _own(command: Command) -> Iterator[str]:
    if command.settings:
        for name, default, _ in settings_of(command):
            yield f"{name}=true" if default is False else f"{name}="
    elif command.module == __name__:
        yield from ("bash", "zsh", "fish")


def _of_a_run() -> Iterator[str]:
    for group in GROUPS_OF_A_RUN:
        yield from (f"{group}={choice}" for choice in choices(group))
    yield from OF_EVERY_RUN
