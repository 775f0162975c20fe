"""Ctrl-C for processes of tests."""

import signal


def hear_ctrl_c() -> None:
    """For ``preexec_fn``: what a shell starts in the background, tests too, inherits deaf ears."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
