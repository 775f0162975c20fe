"""One live line on a terminal; in a log file, a line every so often."""

from __future__ import annotations

import sys
import time


class Progress:
    """Rate, time left, mean reward of both roles, KL, share of distinct queries."""

    LOG_SECONDS = 10.0
    """Between lines where the output is no terminal."""

    def __init__(self, num_steps: int, done: int):
        self.num_steps = num_steps
        self.done = done
        self.started = time.monotonic()
        self.last_line = 0.0
        self.live = sys.stderr.isatty()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        line = self.line(step, metrics, now - self.started)
        if self.live:
            end = "\n" if step == self.num_steps else ""
            print(f"\r\033[K{line}", end=end, file=sys.stderr, flush=True)
        elif now - self.last_line >= self.LOG_SECONDS or step == self.num_steps:
            print(line, file=sys.stderr, flush=True)
            self.last_line = now

    def line(self, step: int, metrics: dict[str, float], elapsed: float) -> str:
        rate = (step - self.done) / max(elapsed, 1e-9)
        parts = [
            f"step {step}/{self.num_steps}",
            f"{rate:.2f} steps/s",
            f"{_duration((self.num_steps - step) / max(rate, 1e-9))} left",
        ]
        for label, key, form in (
            ("R", "reward/external/mean", "{:.3f}"),
            ("R_Q", "quality/mean", "{:.2f}"),
            ("R_Ch", "reward/challenger/mean", "{:+.3f}"),
            ("KL", "kl/solver/k2", "{:.4f}"),
            ("KL_Ch", "kl/challenger/k2", "{:.4f}"),
            ("distinct", "rollout/distinct_query_frac", "{:.0%}"),
        ):
            if key in metrics:
                parts.append(f"{label} {form.format(metrics[key])}")
        return "  ".join(parts)

    def note(self, text: str) -> None:
        """A line of its own."""
        print(f"{chr(13) + chr(27) + '[K' if self.live else ''}{text}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
