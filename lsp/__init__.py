"""Language self-play. ``lsp.train(overrides)`` makes a run, ``lsp.load(run)`` opens one; both give
a ``Run`` (lsp/api.py). Nothing heavy is imported before they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from lsp.api import Run

__all__ = ["load", "train"]


def train(overrides: Sequence[str] = ()) -> Run:
    """Make a run, or go on with one: ``lsp.train(["method=lsp", "num_steps=50"])``, as
    ``lsp train method=lsp num_steps=50``. Raises ConfigError or RunError."""
    from lsp import api

    return api.train(overrides)


def load(run: str | PathLike[str], runs_root: str = "outputs") -> Run:
    """Open a run by its folder, its id, or the beginning of its id. Raises RunError."""
    from lsp import api

    return api.load(run, runs_root)
