"""What a run says while it goes: phases, steps and notes come in, lines on stderr go out.

On a terminal one live line; in a log file, plain text, a line every so often. Never a minute of
silence.
"""

import time
from typing import IO

from lsp.run.folder import note_phase
from lsp.tools.heartbeat import Heartbeat, step_words
from lsp.tracking.labels import short_numbers


class Progress(Heartbeat):
    """Rate, time left, and every metric that has a short name. ``idle``: why the step that is told
    next taught nothing, or not all that learn; the first of a run has a line of its own. ``lock``:
    the run's, which then says to who looks on what goes on."""

    LOG_SECONDS = 10.0
    """Between lines of steps where the output is no terminal."""

    def __init__(self, num_steps: int, done: int, lock: IO[str] | None = None):
        self.num_steps, self.done, self._lock = num_steps, done, lock
        self.first_done = time.monotonic()
        self.idle, self._idled = "", False
        super().__init__("loading", live=True)

    def phase(self, words: str, step: int | None = None) -> None:
        words = words if step is None else f"step {step}/{self.num_steps}, {words}"
        super().phase(words)
        if self._lock is not None:
            note_phase(self._lock, words)

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """The line of a step that is done."""
        now, first, last = time.monotonic(), step == self.done + 1, step == self.num_steps
        if first:
            self.first_done = now
        self.newest = self.line(step, metrics, now - self.first_done)
        idles, self._idled = bool(self.idle) and not self._idled, self._idled or bool(self.idle)
        if self.live and not (last or idles):
            self.redraw()
        elif first or last or idles or now - self.last_line >= self.LOG_SECONDS:
            self.note(self.newest)
            self.live = self.live and not last

    def line(self, step: int, metrics: dict[str, float], elapsed: float) -> str:
        """The line of one step; ``elapsed`` seconds since the first one was done."""
        parts = step_words(step, self.num_steps, step - self.done - 1, elapsed)
        parts += [self.idle] if self.idle else []
        return "  ".join([*parts, *short_numbers(metrics)])
