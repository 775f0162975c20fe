"""A block of somebody else's code goes in; it ends, or one error says that it did not."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TooLong(Exception):
    """The block used more processor time than it was given."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises TooLong inside the block once this process has computed for ``seconds`` in it. Time in
    which the machine does something else does not count. Python delivers signals to its main thread
    alone: in another one nothing is limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"{seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
