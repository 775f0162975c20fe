"""The table of commands is true: modules, settings and examples are there and can be meant."""

import inspect
import shlex
from importlib import import_module

import pytest

from lsp.cli.help import settings_of
from lsp.cli.table import COMMANDS, GROUPS
from lsp.errors import ConfigError
from lsp.settings.command import read_command, split_settings
from lsp.settings.compose import CONF, compose
from lsp.tools.places import ROOT, shipped

EXAMPLES = [(name, line) for name, one in COMMANDS.items() for line, _ in one.examples]
OF_USERS = ("RUN", "mine", "…", "<", ">")
"""What only a user has."""
OF_USERS_TOO = {"model.name", "reward", "reward.model", "reward.path"}
FILES_OF_USERS = ("outputs/", "my_method", "lsp-")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_main_and_documented_settings(name):
    command = COMMANDS[name]
    main = import_module(command.module).main
    assert len(inspect.signature(main).parameters) == 1
    assert (ROOT / command.docs).exists() or command.docs == "docs/commands.md"
    for key, _, meaning in settings_of(command) if command.settings else ():
        assert key and meaning
    # python -m <module> is the same command
    assert f'("{name}", sys.argv[1:])' in inspect.getsource(import_module(command.module)) or (
        name in ("train", "plan", "completion")
    )


def test_every_command_is_listed_once():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[f"{n} {line}" for n, line in EXAMPLES])
def test_an_example_can_be_typed(name, line):
    """Its settings are read as the command reads them, but for what only a user has."""
    command = COMMANDS[name]
    words = [word for word in shlex.split(line) if not any(mark in word for mark in OF_USERS)]
    words = words[: words.index("--")] if "--" in words else words
    words = [command.spelled.get(word, word) for word in words]
    if command.settings and name != "eval":
        module, _, kind = command.settings.partition(":")
        settings = getattr(import_module(module), kind)
        own, others = split_settings(settings, words) if command.of_a_run else (words, [])
        names, _ = read_command(settings, own)
        for file in names:
            assert shipped(file).exists() or file.startswith(FILES_OF_USERS), file
        assert command.of_a_run or not others
    elif name == "eval":
        from eval.settings import read_settings

        read_settings([word for word in words if not word.startswith("judge")] + ["run=x"])
    elif command.of_a_run and words != ["table"]:
        try:
            compose([word for word in words if "=" in word], multirun="-m" in words)
        except ConfigError as error:  # of what only a user has, a model's folder among it
            assert {one.key for one in error.problems} <= OF_USERS_TOO


def test_what_is_shipped_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("sweeps/beta.yaml") == ROOT / "sweeps/beta.yaml"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/beta.yaml").write_text("mine")
    assert shipped("sweeps/beta.yaml").read_text() == "mine"
    assert str(shipped("sweeps/nothing.yaml")) == "sweeps/nothing.yaml"
    assert (CONF / "config.yaml").is_file()
