"""What a tracker is, and the fan-out to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Records a run. Methods are called from one thread, in the order of steps."""

    def log(self, step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
        """Scalars by path, and the step's trace rows."""

    def flush(self) -> None:
        """Make everything logged so far safe; called before a checkpoint counts."""

    def checkpoint(self, folder: Path, step: int) -> None:
        """A checkpoint was written."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""


class Trackers:
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker):
        self.trackers = trackers

    def log(self, step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
        for tracker in self.trackers:
            tracker.log(step, metrics, rows)

    def flush(self) -> None:
        for tracker in self.trackers:
            tracker.flush()

    def checkpoint(self, folder: Path, step: int) -> None:
        for tracker in self.trackers:
            tracker.checkpoint(folder, step)

    def finish(self, summary: dict[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)
