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
        self._old_handlers = {n: signal.signal(n, self._request_stop) for n in ASKING}

    def _request_stop(self, number: int, frame: Any) -> None:
        request = signal.Signals(number)
        if request == signal.SIGINT and request in self.signals:
            raise KeyboardInterrupt
        self.signals.append(request)
        if not self.reason:
            self.reason = request.name
            self._note(f"{request.name}: finishing this step, then saving")

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
