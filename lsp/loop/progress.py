"""One live line on a terminal; in a log file, a line every so often; never a minute of silence."""

from __future__ import annotations

import sys
import threading
import time

from lsp.tools.text import duration


class Progress:
    """Rate, time left, mean reward of both roles, KL, share of distinct queries."""

    LOG_SECONDS = 10.0
    """Between lines where the output is no terminal."""
    SILENT_SECONDS = 50.0
    """After so long without a line, one says what is going on."""

    def __init__(self, num_steps: int, done: int):
        self.num_steps = num_steps
        self.done = done
        self.activity = "loading"
        self.started = time.monotonic()
        self.last_line = self.started
        self.live = sys.stderr.isatty()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        self._thread.start()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if self.activity == "loading":
            self.started = now
        self.activity = f"step {step + 1}/{self.num_steps}"
        line = self.line(step, metrics, now - self.started)
        last = step == self.num_steps
        if self.live:
            self._print(f"\r\033[K{line}", end="\n" if last else "")
        elif step == self.done + 1 or now - self.last_line >= self.LOG_SECONDS or last:
            self._print(line)

    def line(self, step: int, metrics: dict[str, float], elapsed: float) -> str:
        """The line of one step; ``elapsed`` seconds since the first one was done."""
        parts = [f"step {step}/{self.num_steps}"]
        since = step - self.done - 1
        if since > 0 and elapsed > 0:
            rate = since / elapsed
            parts += [f"{rate:.2f} steps/s", f"{duration((self.num_steps - step) / rate)} left"]
        for label, key, form in (
            ("R", "reward/external/mean", "{:.3f}"),
            ("R_Q", "quality/mean", "{:.2f}"),
            ("Solver", "reward/solver/mean", "{:.3f}"),
            ("Challenger", "reward/challenger/mean", "{:+.3f}"),
            ("KL", "kl/solver/k2", "{:.4f}"),
            ("KL_Ch", "kl/challenger/k2", "{:.4f}"),
            ("distinct", "rollout/distinct_query_frac", "{:.0%}"),
        ):
            if key in metrics:
                parts.append(f"{label} {form.format(metrics[key])}")
        return "  ".join(parts)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._print(f"\r\033[K{text}" if self.live else text)

    def close(self) -> None:
        """No more heartbeats."""
        self._closed.set()
        self._thread.join(timeout=1)

    def _print(self, text: str, end: str = "\n") -> None:
        self.last_line = time.monotonic()
        print(text, end=end, file=sys.stderr, flush=True)

    def _heartbeat(self) -> None:
        while not self._closed.wait(self.SILENT_SECONDS / 10):
            silent = time.monotonic() - self.last_line
            if silent >= self.SILENT_SECONDS:
                self.note(f"{self.activity}: {duration(silent)} so far")
