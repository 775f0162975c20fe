"""Steps come from the loop, and go to the run's folder and to one other tracker, each by a thread.

The loop hands over scalars and a function that makes the step's rows, and goes on: a server that
hangs holds nothing up. Queues are bounded. An error of the local files (a full disk) is raised
again in the loop at its next call: a run never loses its record silently. An error of the other
tracker never ends a run: it is printed once, and that tracker is left out.
"""

import queue
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from lsp.contracts import BuildContext, Rows, Tracker, TrackerSettings
from lsp.settings.schema import settings
from lsp.tools.heartbeat import at
from lsp.tracking.local import LocalTracker


@settings
class LocalOnly(TrackerSettings):
    """``tracker=none``: the run's folder and nothing else."""

    def announcement(self) -> str:
        return "W&B: off (tracker=none); everything is kept in the run folder"

    def build(self, context: BuildContext) -> None:
        return None


class Worker:
    """A thread that does what it is handed, in order; its queue is bounded."""

    QUEUE_SIZE = 64

    def __init__(self, name: str):
        self.error: Exception | None = None
        self.queue: queue.Queue[Callable[[], None] | None] = queue.Queue(self.QUEUE_SIZE)
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (task := self.queue.get()) is not None:
            try:
                if self.error is None:
                    task()
            except Exception as error:  # whoever owns the worker looks at ``error``
                self.error = error
            finally:
                self.queue.task_done()
        self.queue.task_done()

    def end(self, seconds: float | None = None) -> bool:
        """Let it finish what it has; False where that takes longer than ``seconds``."""
        try:
            self.queue.put(None, timeout=seconds)
        except queue.Full:
            return False
        self.thread.join(seconds)
        return not self.thread.is_alive()


class Trackers:
    """``local`` must not fail and is waited for. ``other`` may fail or be slow: where it cannot
    keep up, or is not done ``patience`` seconds after the run, it is left out with a warning."""

    def __init__(self, local: LocalTracker, other: Tracker | None = None, patience: float = 60.0):
        self._local, self._other, self._patience = local, other, patience
        self._local_worker = Worker("tracking")
        self._other_worker = Worker("tracking-other") if other else None

    def log(self, step: int, metrics: dict[str, float], make_rows: Callable[[], Rows]) -> None:
        rows = cache(make_rows)  # made in the tracking thread
        self._each(lambda tracker: tracker.log(step, metrics, rows()))

    def checkpoint(self, folder: Path, step: int) -> None:
        self._each(lambda tracker: tracker.checkpoint(folder, step))

    def alert(self, step: int, text: str) -> None:
        self._each(lambda tracker: tracker.alert(step, text))

    def tell(self, step: int, text: str) -> None:
        """``alert`` to the other tracker alone: the run's folder has it elsewhere."""
        self._each(lambda tracker: None if tracker is self._local else tracker.alert(step, text))

    def secure(self) -> None:
        """Wait until everything handed over is in the run's folder, on the disk for good; raises
        what went wrong."""
        self._local_worker.queue.join()
        self._raise_error()
        self._local.secure()

    def finish(self, summary: dict[str, Any]) -> None:
        """The last call: waits for the whole folder, and ``patience`` for the other tracker."""
        self._each(lambda tracker: tracker.finish(summary))
        self._local_worker.end()
        self._raise_error()
        at(f"waiting for {type(self._other).__name__}, {self._patience:g} s at most")
        if self._other_worker and not self._other_worker.end(self._patience):
            self._leave_out(TimeoutError(f"not done {self._patience:g} s after the run"))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        self._raise_error()
        self._local_worker.queue.put(partial(self._in_the_local_thread, call))

    def _raise_error(self) -> None:
        if error := self._local_worker.error:
            raise OSError(f"the record of the run: {error}") from error

    def _in_the_local_thread(self, call: Callable[[Tracker], None]) -> None:
        """The other tracker's thread gets the call afterwards, and is never waited for."""
        call(self._local)
        try:
            if self._other_worker:
                self._other_worker.queue.put_nowait(partial(self._in_the_other_thread, call))
        except queue.Full:
            self._leave_out(TimeoutError(f"{Worker.QUEUE_SIZE} calls behind"))

    def _in_the_other_thread(self, call: Callable[[Tracker], None]) -> None:
        try:
            if tracker := self._other:
                call(tracker)
        except Exception as error:  # a run never dies because W&B did; printed, not hidden
            self._leave_out(error)

    def _leave_out(self, error: Exception) -> None:
        if self._other is None:
            return
        name, advice = type(self._other).__name__, self._other.advice
        self._other = None
        print(
            f"\nwarning: {name} failed and is left out from here on ({type(error).__name__}:"
            f" {error}); the run goes on, its folder is complete. {advice}",
            file=sys.stderr,
            flush=True,
        )
