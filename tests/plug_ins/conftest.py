"""Installs a toy as a user would: one file in a room of lsp/, one yaml in a group of conf/."""

import importlib
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from lsp.loop.launch import start

CONF = Path(__file__).parents[2] / "conf"
HEAD = """
from collections.abc import Sequence

from lsp.contracts import *
from lsp.settings.schema import setting, settings
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install("rewards", "brevity", source, "reward", yaml)``: lsp/rewards/brevity.py and
    conf/reward/brevity.yaml, both gone after the test."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    monkeypatch.setattr("lsp.settings.compose.CONF", conf)
    modules = []

    def put(room, name, source, group, yaml):
        folder = tmp_path / "rooms" / room
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(HEAD + dedent(source), encoding="utf-8")
        package = importlib.import_module(f"lsp.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        (conf / group / f"{name}.yaml").write_text(dedent(yaml), encoding="utf-8")
        modules.append(f"lsp.{room}.{name}")
        importlib.invalidate_caches()

    yield put
    for name in modules:
        sys.modules.pop(name, None)


def two_small_steps(small, overrides):
    """Settings of the smallest run without those that ``overrides`` choose a part for."""
    parts = tuple(f"{text.partition('=')[0]}." for text in overrides)
    kept = [text for text in small if not text.startswith(("num_steps", *parts))]
    tracker = [] if any(text.startswith("tracker=") for text in overrides) else ["tracker=none"]
    return [*kept, *tracker, "num_steps=2"]


@pytest.fixture
def two_steps(small, tmp_path, capsys):
    """``two_steps("reward=brevity")``: (folder, summary, printed text) of a run of two steps."""

    def run(*overrides):
        folder = tmp_path / "run"
        summary = start([*two_small_steps(small, overrides), f"run_dir={folder}", *overrides])
        return folder, summary, capsys.readouterr().out

    return run


@pytest.fixture
def planned(small, capsys):
    """What ``dry_run=true`` prints of a command line."""

    def plan(*overrides):
        assert start([*two_small_steps(small, overrides), "dry_run=true", *overrides]) is None
        return capsys.readouterr().out

    return plan
