"""Settings or a run's name go in; a ``Run`` comes out, for a notebook: tables, models, settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.run.checkpoint import checkpoint_folders, named_checkpoint
from lsp.run.folder import find_run, outcome, read_run, saved_tree
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.settings.schema import flat_tree
from lsp.tracking.reader import SUMMARY, read_metrics, read_summary, read_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Run:
    """One run's folder. What is read is read when it is asked for, so a run that still goes on
    grows. Raises RunError for what is damaged."""

    folder: Path

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def record(self) -> dict[str, Any]:
        """run.json: method, start, base, versions, machine."""
        return read_run(self.folder)

    @property
    def status(self) -> str:
        """As it is now, ``finished`` say, and why, where there is a reason."""
        return ": ".join(filter(None, outcome(self.folder, self.record)))

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return flat_tree(saved_tree(self.folder))

    @property
    def summary(self) -> dict[str, Any]:
        """What a finished run came to (docs/metrics.md); empty before its end."""
        return read_summary(self.folder) if (self.folder / SUMMARY).is_file() else {}

    def metrics(self) -> pa.Table:
        """A row for each step, a column for each metric; null where it was not measured."""
        lines = read_metrics(self.folder)
        names = dict.fromkeys(name for line in lines for name in line)
        return pa.table({name: [line.get(name) for line in lines] for name in names})

    def rows(
        self, steps: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """A row for each answer that was played (docs/metrics.md has the columns); all steps and
        columns unless told."""
        return read_table(self.folder, steps, columns)

    @property
    def checkpoints(self) -> list[str]:
        """Names of those that were kept, the oldest first."""
        return [folder.name for folder in checkpoint_folders(self.folder)]

    def model(
        self, checkpoint: str | None = None, device: str = "auto"
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The policy of a checkpoint, the newest unless told, and its tokenizer."""
        from lsp.model.device import choose_device
        from lsp.model.language_model import load_model

        try:
            source = named_checkpoint(self.folder, checkpoint)
            return load_model(source, self.settings["model.dtype"], choose_device(device))
        except ValueError as error:
            raise RunError(str(error)) from error


def train(overrides: Sequence[str]) -> Run:
    """``lsp.train``."""
    if isinstance(overrides, str):
        raise RunError(f"settings come as a list: lsp.train([{overrides!r}])")
    words = list(overrides)
    config = compose(words)
    if config.dry_run:
        raise RunError("dry_run=true makes no run; leave it out, or `lsp plan` in a terminal")
    resumed = find_resumed(config, words) if config.resume else None
    summary = start(words)
    assert summary is not None  # a dry run alone has none
    if resumed:
        return Run(resumed.folder)
    return Run(Path(config.run_dir or Path(config.runs_root) / summary["run_id"]))


def load(run: str | os.PathLike[str], runs_root: str) -> Run:
    """``lsp.load``."""
    return Run(find_run(os.fspath(run), runs_root))
