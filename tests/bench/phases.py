"""Where CPU and wall seconds of a process go, by phase."""

import resource
import time
from collections import defaultdict
from contextlib import contextmanager


class Phases:
    """CPU and wall seconds by phase, in nested calls charged to the inner one."""

    def __init__(self):
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._last = (time.process_time(), time.perf_counter())

    def _charge(self) -> None:
        now = (time.process_time(), time.perf_counter())
        name = self._stack[-1] if self._stack else "rest"
        self.cpu[name] += now[0] - self._last[0]
        self.wall[name] += now[1] - self._last[1]
        self._last = now

    @contextmanager
    def phase(self, name: str):
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def wrap(self, owner, attribute: str, name: str) -> None:
        inner = getattr(owner, attribute)

        def timed(*args, **kwargs):
            with self.phase(name):
                return inner(*args, **kwargs)

        setattr(owner, attribute, timed)

    def start(self) -> None:
        """Forget what came before (warm-up)."""
        self._charge()
        self.cpu.clear()
        self.wall.clear()

    def result(self, steps: int, **more) -> dict:
        self._charge()
        return {
            "cpu_seconds": sum(self.cpu.values()) / steps,
            "wall_seconds": sum(self.wall.values()) / steps,
            "phases": {name: seconds / steps for name, seconds in self.cpu.items()},
            "walls": {name: seconds / steps for name, seconds in self.wall.items()},
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **more,
        }
