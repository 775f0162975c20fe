"""Requests to stop: signals and streams that closed come in, a reason goes out.

A request belongs to the process, not to one run of it: no second stage begins after it, and no
further job of a multirun.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

ASKING = (
    signal.SIGINT,  # Ctrl-C
    signal.SIGTERM,
    signal.SIGHUP,  # the terminal is gone
    signal.SIGQUIT,
    signal.SIGXCPU,  # a limit of CPU time
    signal.SIGUSR2,  # Slurm's and submitit's, before a time limit
)


def is_nohup(number: signal.Signals) -> bool:
    """Whether a signal stays ignored, as nohup says."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


class StopRequests:
    """The first of any kind counts. While steps are made (``defer``) it is read after each; at any
    other time there is nothing to save, and it ends what goes on at once, by KeyboardInterrupt. A
    second Ctrl-C never waits. (Who stops a job may send several kinds, or one by several ways.)"""

    def __init__(self) -> None:
        self.reason = ""
        self.signals: list[signal.Signals] = []
        self.note: Callable[[str], None] = _note
        self._deferred = False
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._old_streams: dict[str, Any] = {}

    def __enter__(self) -> "StopRequests":
        for number in ASKING:
            if not is_nohup(number):
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name) or open(os.devnull, "w")  # closed before it began
            self._old_streams[name] = getattr(sys, name)
            setattr(sys, name, _Watched(stream, self._on_closed))
        return self

    def __exit__(self, *raised: object) -> None:
        """Signals and streams go back to whoever had them."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        for name, stream in self._old_streams.items():
            if isinstance(getattr(sys, name), _Watched):
                setattr(sys, name, stream)

    def defer(self, note: Callable[[str], None]) -> None:
        """From here on a request waits until it is read; ``note`` says that it came."""
        self.note, self._deferred = note, True

    def act_at_once(self) -> None:
        """The opposite."""
        self.note, self._deferred = _note, False

    def forget(self) -> None:
        """As if nothing had been asked."""
        self.reason, self.signals = "", []

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        request = signal.Signals(number)
        again = request == signal.SIGINT and request in self.signals
        self.signals.append(request)
        first, self.reason = not self.reason, self.reason or request.name
        if again or not self._deferred:
            raise KeyboardInterrupt(request.name)
        if first:
            self.note(f"{request.name}: finishing this step, then saving")

    def _on_closed(self, stream: str) -> None:
        self.reason = self.reason or f"{stream} was closed"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Watched:
    """A stream that may be closed at the other end: what is written after that goes nowhere, and
    ``on_closed`` hears of it. All else is the stream's."""

    def __init__(self, stream: TextIO, on_closed: Callable[[str], None]):
        self._stream, self._on_closed = stream, on_closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Python flushes what is left in its buffer once more, at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self._on_closed(self._stream.name.strip("<>"))
