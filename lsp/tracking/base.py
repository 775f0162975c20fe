"""What a tracker is, and the one thread that feeds all of them.

The loop hands over scalars and a function that makes the step's rows, and goes on; making the
rows, writing the shard and talking to W&B happen in the tracking thread. The queue is bounded,
and an error of the local files (a full disk) is raised again in the loop at its next call: a run
never loses its record silently. An error of another tracker never ends a run: it is said once
and that tracker is dropped.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lsp.config import Config, number

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class RunIdentity:
    """What a tracker needs to know of a run beside its config. ``init_run_id`` is the run that it
    started from; ``base`` what the base model is."""

    run_id: str
    folder: Path
    name: str
    base: str
    init_run_id: str | None


class Tracker(Protocol):
    """Records a run. Methods are called from one thread, in the order of steps."""

    def log(self, step: int, metrics: dict[str, float], rows: Rows) -> None:
        """Scalars by path, and the step's trace rows."""

    def checkpoint(self, folder: Path, step: int) -> None:
        """A checkpoint was written."""

    def alert(self, step: int, text: str) -> None:
        """Something that a person should see."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""


@dataclass(frozen=True)
class LocalOnly:
    """``tracker=none``: the run's folder and nothing else. ``role_gradients_every``: steps between
    measurements of each role's gradient norm and of their cosine (0: off); they cost a second
    gradient buffer."""

    role_gradients_every: int = number(minimum=0)

    def announcement(self) -> str:
        return "W&B: off (tracker=none); everything is kept in the run folder"

    def build(self, config: Config, run: RunIdentity) -> None:
        return None


class Trackers:
    """``local`` must not fail; ``others`` may."""

    QUEUE_SIZE = 64

    def __init__(self, local: Tracker, *others: Tracker):
        self._local = local
        self._others = list(others)
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(self.QUEUE_SIZE)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float], make_rows: Callable[[], Rows]) -> None:
        def record() -> None:
            rows = make_rows()
            self._each(lambda tracker: tracker.log(step, metrics, rows))

        self._put(record)

    def checkpoint(self, folder: Path, step: int) -> None:
        self._put(lambda: self._each(lambda tracker: tracker.checkpoint(folder, step)))

    def alert(self, step: int, text: str) -> None:
        self._put(lambda: self._each(lambda tracker: tracker.alert(step, text)))

    def flush(self) -> None:
        """Wait until everything handed over is written; raises what went wrong with it."""
        self._queue.join()
        self._raise_error()

    def finish(self, summary: dict[str, Any]) -> None:
        """The last call; returns when every tracker is done."""
        self._put(lambda: self._each(lambda tracker: tracker.finish(summary)))
        self._queue.put(None)
        self._thread.join()
        self._raise_error()

    def _put(self, task: Callable[[], None]) -> None:
        self._raise_error()
        self._queue.put(task)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise OSError(f"the record of the run: {self._error}") from self._error

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if self._error is None:
                    task()
            except Exception as error:  # raised again in the loop by _raise_error
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        call(self._local)
        for tracker in list(self._others):
            try:
                call(tracker)
            except Exception as error:  # a run never dies because W&B did; said, not hidden
                self._others.remove(tracker)
                print(
                    f"\nwarning: {type(tracker).__name__} failed and is left out from here on"
                    f" ({type(error).__name__}: {error}); the run goes on, its folder is complete",
                    file=sys.stderr,
                    flush=True,
                )
