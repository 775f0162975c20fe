"""What this process is at: phases come in from whoever works, lines on stderr go out when nothing
else does, each with a growing time.

What is at work inside a phase says so by ``at``, wherever it is, and need not know who listens.
"""

import shutil
import sys
import threading
import time
from typing import Any, ClassVar

from lsp.tools.text import duration

_inside = ""


def at(words: str) -> None:
    """Say what is at work inside the phase, such as ``128 of 256 rows``; empty: nothing that is
    known. Of the main thread's work alone: others work ahead, for a phase that is to come."""
    global _inside
    if threading.current_thread() is threading.main_thread():
        _inside = words


def enter(words: str) -> None:
    """A phase of the heartbeat that speaks now begins; nothing where there is none."""
    for heartbeat in Heartbeat._beating[-1:]:
        heartbeat.phase(words)


def say(text: str) -> None:
    """A line on stderr, which is not silent then, and above a live line, if there is one."""
    if Heartbeat._beating:
        Heartbeat._beating[-1].note(text)
    else:
        print(text, file=sys.stderr, flush=True)


def step_words(step: int, total: int, since: int, elapsed: float) -> list[str]:
    """Which step of how many is done, and, by the ``since`` steps of the last ``elapsed`` seconds,
    their pace and the time left."""
    words = [f"step {step}/{total}"]
    if since > 0 and elapsed > 0:
        rate = since / elapsed
        words.append(f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s a step")
        words.append(f"{duration((total - step) / rate)} left")
    return words


class Heartbeat:
    """Says what goes on: where the output is a terminal and ``live`` one line that is drawn anew
    each second, else a plain line after some seconds without one. Of several at a time the newest
    speaks, and the others wait for its end."""

    SILENT_SECONDS = 30.0
    """After so long without a line, one says what is going on: libraries may have been loading for
    as long before."""
    TERMINAL_SECONDS = 10.0
    """The same on a terminal, where somebody looks on."""
    _beating: ClassVar[list["Heartbeat"]] = []

    def __init__(self, words: str, live: bool = False):
        terminal = sys.stderr.isatty()
        self.live = live and terminal
        self.silent_seconds = self.TERMINAL_SECONDS if terminal else self.SILENT_SECONDS
        self.newest = ""
        self.last_line = time.monotonic()
        self.phase(words)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._beating.append(self)
        self._thread.start()

    def __enter__(self) -> "Heartbeat":
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def phase(self, words: str) -> None:
        """What begins now, for a heartbeat: one tuple, since that is another thread, which would
        else tell one phase's name and another's time."""
        at("")
        self._doing = words, time.monotonic()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._print(text, "\n")

    def close(self) -> None:
        """The last live line stays."""
        self._closed.set()
        self._thread.join(timeout=1)
        self._beating.remove(self)
        at("")
        if self.live:
            self.note(self.newest)

    def activity(self) -> str:
        """The phase, what is at work in it, and for how long it has been going on."""
        words, began = self._doing
        inside = f", {_inside}" if _inside else ""
        return f"{words}{inside}: {duration(time.monotonic() - began)} so far"

    def redraw(self) -> None:
        """The live line: what takes seconds, then the newest words, cut where the terminal ends."""
        waiting = f"{self.activity()}  " if time.monotonic() - self._doing[1] >= 2 else ""
        self._print(f"{waiting}{self.newest}"[: shutil.get_terminal_size().columns - 1], "")

    def _print(self, text: str, end: str) -> None:
        self.last_line = time.monotonic()
        print(f"\r\033[K{text}" if self.live else text, end=end, file=sys.stderr, flush=True)

    def _beat(self) -> None:
        while not self._closed.wait(min(1.0, self.silent_seconds / 10)):
            if self not in self._beating[-1:]:
                self.last_line = time.monotonic()
            elif self.live:
                self.redraw()
            elif time.monotonic() - self.last_line >= self.silent_seconds:
                self.note(self.activity())
