"""What every process of a run is given before it begins."""

from dataclasses import dataclass
from pathlib import Path

from lsp.run.init import Init
from lsp.settings.config import Config


@dataclass(frozen=True)
class RunSpec:
    """A run to begin, or to go on from ``checkpoint`` (None: its start) after ``step`` steps, with
    what its play had come to by then. ``folder``: where it is kept."""

    config: Config
    run_id: str
    init: Init
    checkpoint: Path | None = None
    step: int = 0
    self_reward_weight: float | None = None
    challenger_baseline: float = 0.0
    folder: Path | None = None
