"""Weights & Biases as a sink beside the local files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lsp.config import Config, flat


@dataclass(frozen=True)
class WandbTracker:
    """``mode=auto`` is online where a key is found (environment or netrc), else offline;
    ``WANDB_MODE`` decides before the key does. Everything of W&B lies in the run's folder."""

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]

    def resolved_mode(self) -> tuple[str, str]:
        """(mode, why). ``disabled`` only where WANDB_MODE says so."""
        if self.mode != "auto":
            return self.mode, "tracker.mode"
        if os.environ.get("WANDB_MODE"):
            return os.environ["WANDB_MODE"], "WANDB_MODE"
        import wandb

        found = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
        return ("online", "a key was found") if found else ("offline", "no key was found")

    def build(self, config: Config, run_id: str, folder: Path, name: str) -> WandbLogger:
        return WandbLogger(self, config, run_id, folder, name)


class WandbLogger:
    """One W&B run with the id of ours."""

    def __init__(
        self, settings: WandbTracker, config: Config, run_id: str, folder: Path, name: str
    ):
        # W&B stages artifacts outside the run folder unless told otherwise, and an offline run
        # that is moved then syncs without them.
        for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            os.environ[variable] = str(folder.resolve())
        import wandb

        mode, _ = settings.resolved_mode()
        self.run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            id=run_id,
            name=name,
            group=config.method.label,
            job_type="train",
            tags=[config.world, config.method.label, f"init-{config.init.source}"],
            mode=mode,
            dir=str(folder),
            resume="allow",
            config=flat(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.run.define_metric("train/step")
        self.run.define_metric("*", step_metric="train/step")

    def log(self, step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
        self.run.log({"train/step": step, **metrics})

    def flush(self) -> None:
        """The client's own process keeps what it was given."""

    def checkpoint(self, folder: Path, step: int) -> None:
        """Weights stay local."""

    def finish(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)
        self.run.finish()
