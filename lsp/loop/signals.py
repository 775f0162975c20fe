"""Requests to stop: signals come in, a reason goes out that the loop reads after each step."""

import signal
from collections.abc import Callable
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, and what Slurm and submitit send before a time limit."""


class StopRequests:
    """The first of any kind stops the run after its step; a second Ctrl-C does not wait for that.
    (Who stops a job may send several kinds, or one by several ways.)"""

    def __init__(self, note: Callable[[str], None]):
        self.reason = ""
        self.signals: list[signal.Signals] = []
        self._note = note
        self._old_handlers: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        self._old_handlers = {
            number: signal.signal(number, self._request_stop) for number in ASKING
        }

    def _request_stop(self, number: int, frame: Any) -> None:
        wanted = signal.Signals(number)
        if wanted == signal.SIGINT and wanted in self.signals:
            raise KeyboardInterrupt
        self.signals.append(wanted)
        if not self.reason:
            self.reason = wanted.name
            self._note(f"{wanted.name}: finishing this step, then saving")

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
