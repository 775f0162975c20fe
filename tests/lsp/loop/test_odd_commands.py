"""Command lines that nobody means: each ends in a plan or in one error for the user."""

import os
import signal
from collections import Counter

import pytest
from odd_commands import odd_commands

from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start

SECONDS = 300
"""Until one counts as hanging, however busy the machine."""


@pytest.fixture
def bounded():
    """Ends what does not end."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda: signal.alarm(SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tree(folder):
    """What lies below a folder, with what a change of it would change."""
    return {path: path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


FEW = 32


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]
)
def test_odd_command_lines_end_in_a_plan_or_in_one_error(
    seed, tmp_path, bounded, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    places, ends = tmp_path / "places", Counter()
    commands = list(odd_commands(seed, FEW, places))
    before = tree(tmp_path)
    for command in commands:
        bounded()
        try:
            assert start(command) is None
            ends["plan"] += 1
        except (ConfigError, RunError) as error:
            ends[type(error)] += 1
            assert str(error) and "Traceback" not in str(error)
    assert ends["plan"] and ends[ConfigError] and sum(ends.values()) == FEW
    assert tree(tmp_path) == before
    assert capsys.readouterr().out.count("\nplan: ") >= ends["plan"]


def test_the_same_seed_is_the_same_commands(tmp_path):
    first, again = (list(odd_commands(7, 20, tmp_path)) for _ in range(2))
    assert first == again and first != list(odd_commands(8, 20, tmp_path))
    assert all(command[-1] == "dry_run=true" for command in first)
    assert os.path.lexists(tmp_path / "link")
