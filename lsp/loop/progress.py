"""What a run says while it goes: phases, steps and notes come in, lines on stderr go out.

On a terminal one live line; in a log file, plain text, a line every so often. Never a minute of
silence.
"""

import shutil
import sys
import threading
import time
from typing import IO

from lsp.run.folder import note_phase
from lsp.tools.text import duration
from lsp.tracking.labels import short_numbers


class Progress:
    """Rate, time left, and every metric that has a short name."""

    LOG_SECONDS = 10.0
    """Between lines where the output is no terminal."""
    SILENT_SECONDS = 50.0
    """After so long without a line, one says what is going on."""

    def __init__(self, num_steps: int, done: int, lock: IO[str] | None = None):
        """``lock``: the run's, which then says to who looks on what goes on."""
        self.num_steps, self.done, self._lock = num_steps, done, lock
        self.live = sys.stderr.isatty()
        self.newest = ""
        self.first_done = self.last_line = time.monotonic()
        self.phase("loading")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        self._thread.start()

    def phase(self, name: str, step: int | None = None) -> None:
        """What begins now, for a heartbeat: one tuple, since that is another thread, which would
        else tell one phase's name and another's time."""
        words = name if step is None else f"step {step}/{self.num_steps}, {name}"
        self._doing = words, time.monotonic()
        if self._lock is not None:
            note_phase(self._lock, words)

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """The line of a step that is done."""
        now, first, last = time.monotonic(), step == self.done + 1, step == self.num_steps
        if first:
            self.first_done = now
        self.newest = self.line(step, metrics, now - self.first_done)
        if self.live and not last:
            self._redraw()
        elif first or last or now - self.last_line >= self.LOG_SECONDS:
            self.note(self.newest)
            self.live = self.live and not last

    def line(self, step: int, metrics: dict[str, float], elapsed: float) -> str:
        """The line of one step; ``elapsed`` seconds since the first one was done."""
        parts = [f"step {step}/{self.num_steps}"]
        since = step - self.done - 1
        if since > 0 and elapsed > 0:
            rate = since / elapsed
            parts += [f"{rate:.2f} steps/s", f"{duration((self.num_steps - step) / rate)} left"]
        if metrics.get("rollout/played_query_frac") == 0:
            words = {"length": "cut"}
            why = ("length", "empty", "malformed", "illegal")
            shares = [(metrics.get(f"rollout/query_{k}_frac", 0.0), words.get(k, k)) for k in why]
            parts.append(f"nothing played: {', '.join(f'{s:.0%} {w}' for s, w in shares if s)}")
        return "  ".join([*parts, *short_numbers(metrics)])

    def note(self, text: str) -> None:
        self._print(text, "\n")

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=1)
        if self.live:
            self.note(self.newest)

    def _activity(self) -> str:
        words, began = self._doing
        return f"{words}: {duration(time.monotonic() - began)} so far"

    def _redraw(self) -> None:
        """The live line: what takes seconds, then the newest step, cut where the terminal ends."""
        waiting = f"{self._activity()}  " if time.monotonic() - self._doing[1] >= 2 else ""
        self._print(f"{waiting}{self.newest}"[: shutil.get_terminal_size().columns - 1], "")

    def _print(self, text: str, end: str) -> None:
        self.last_line = time.monotonic()
        print(f"\r\033[K{text}" if self.live else text, end=end, file=sys.stderr, flush=True)

    def _heartbeat(self) -> None:
        while not self._closed.wait(min(1.0, self.SILENT_SECONDS / 10)):
            if self.live:
                self._redraw()
            elif time.monotonic() - self.last_line >= self.SILENT_SECONDS:
                self.note(self._activity())
