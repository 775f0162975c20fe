"""Command lines that nobody means: each ends in a plan or in one error, and changes no file."""

import os
from pathlib import Path

from tests.attack.outcome import Outcome, in_a_child
from tests.odd_commands import odd_commands


def attack(work: Path, count: int, seed: int) -> list[Outcome]:
    from lsp.loop.launch import start

    outcomes, before = [], os.getcwd()
    commands = list(odd_commands(seed, count, work / "places"))
    os.chdir(work)
    try:
        for command in commands:
            outcomes.append(
                in_a_child(f"odd command line: {command!r}", lambda c=command: start(c))
            )
    finally:
        os.chdir(before)
    return outcomes
