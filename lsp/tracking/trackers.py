"""Steps come from the loop, and go to the run's folder and to one other tracker, each by a thread.

The loop hands over scalars and a function that makes the step's rows, and goes on; making the rows
and writing the shard happen in the tracking thread, talking to W&B in another, so that a server
that hangs holds nothing up. Queues are bounded. An error of the local files (a full disk) is raised
again in the loop at its next call: a run never loses its record silently. An error of the other
tracker never ends a run: it is printed once, and that tracker is left out.
"""

import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsp.contracts import BuildContext, Rows, Tracker, TrackerSettings
from lsp.settings.schema import settings


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
        if seconds is None:
            self.queue.put(None)
        else:
            try:
                self.queue.put(None, timeout=seconds)
            except queue.Full:
                return False
        self.thread.join(seconds)
        return not self.thread.is_alive()


class Trackers:
    """``local`` must not fail and is waited for. ``other`` may fail, and may be slow: it has a
    thread of its own, and where it cannot keep up, or is not done ``patience`` seconds after the
    run, that is said and the run goes on (or ends) without it."""

    def __init__(self, local: Tracker, other: Tracker | None = None, patience: float = 60.0):
        self._local = local
        self._other = other
        self._patience = patience
        self._local_worker = Worker("tracking")
        self._other_worker = Worker("tracking-other") if other else None

    def log(self, step: int, metrics: dict[str, float], make_rows: Callable[[], Rows]) -> None:
        def record() -> None:
            rows = make_rows()
            self._local.log(step, metrics, rows)
            self._hand_on(lambda tracker: tracker.log(step, metrics, rows))

        self._put(record)

    def checkpoint(self, folder: Path, step: int) -> None:
        self._each(lambda tracker: tracker.checkpoint(folder, step))

    def alert(self, step: int, text: str) -> None:
        self._each(lambda tracker: tracker.alert(step, text))

    def flush(self) -> None:
        """Wait until everything handed over is in the run's folder; raises what went wrong."""
        self._local_worker.queue.join()
        self._raise_error()

    def finish(self, summary: dict[str, Any]) -> None:
        """The last call; returns when the folder is complete and the other tracker is done, or
        has had its time."""
        self._each(lambda tracker: tracker.finish(summary))
        self._local_worker.end()
        self._raise_error()
        if self._other_worker and not self._other_worker.end(self._patience):
            self._leave_out(TimeoutError(f"not done {self._patience:g} s after the run"))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        def both() -> None:
            call(self._local)
            self._hand_on(call)

        self._put(both)

    def _put(self, task: Callable[[], None]) -> None:
        self._raise_error()
        self._local_worker.queue.put(task)

    def _raise_error(self) -> None:
        error = self._local_worker.error
        if error is not None:
            raise OSError(f"the record of the run: {error}") from error

    def _hand_on(self, call: Callable[[Tracker], None]) -> None:
        """Give a call to the other tracker's thread; never wait for it."""
        tracker, worker = self._other, self._other_worker
        if tracker is None or worker is None:
            return

        def attempt() -> None:
            if self._other is None:
                return
            try:
                call(tracker)
            except Exception as error:  # a run never dies because W&B did; printed, not hidden
                self._leave_out(error)

        try:
            worker.queue.put_nowait(attempt)
        except queue.Full:
            self._leave_out(TimeoutError(f"{worker.QUEUE_SIZE} calls behind"))

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
