"""Who works and who waits in a step: ``python -m tests.bench.timeline <run's folder>``.

From the metrics that every run logs: ``time/<phase>``, and what lies between two steps'
``runtime/elapsed`` beside them (recording, checkpoints, evaluation). Medians over the steps, the
first one left out, which warms up. One works at a time unless ``rollout.lag=1``: the bound says
what a step would take if the engine wrote the next step's rows meanwhile and nothing else changed.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

WORKERS = {"queries": "engine", "answers": "engine", "reward": "reward", "quality": "judge",
           "update": "learner", "between": "recorder"}  # fmt: skip
WIDTH = 60


class Timeline(NamedTuple):
    """Medians in seconds: ``step`` of a whole step, ``phases`` by name in their order."""

    step: float
    phases: dict[str, float]

    @property
    def workers(self) -> dict[str, float]:
        """Seconds in which each works."""
        works = dict.fromkeys(WORKERS.values(), 0.0)
        for phase, seconds in self.phases.items():
            works[WORKERS[phase]] += seconds
        return {name: seconds for name, seconds in works.items() if seconds}

    @property
    def overlapped(self) -> float:
        """A step at least, with the engine beside all others."""
        engine = self.workers.get("engine", 0.0)
        return max(engine, sum(self.phases.values()) - engine)


def timeline(steps: Sequence[Mapping[str, float]]) -> Timeline:
    """``steps``: metrics of successive steps of one start, two or more."""
    if len(steps) < 2:
        raise ValueError(f"{len(steps)} steps: a timeline needs two or more of one start")
    phases: dict[str, list[float]] = {name: [] for name in WORKERS}
    wholes = []
    for before, now in pairwise(steps):
        wholes.append(now["runtime/elapsed"] - before["runtime/elapsed"])
        laps = {name: now.get(f"time/{name}", 0.0) for name in WORKERS}
        laps["between"] = wholes[-1] - sum(laps.values())
        for name, seconds in laps.items():
            phases[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in phases.items()}
    return Timeline(statistics.median(wholes), {name: s for name, s in medians.items() if s > 0})


def drawn(found: Timeline) -> str:
    """The phases one after the other, and what each worker waits for."""
    whole = sum(found.phases.values())
    lines, start = [], 0.0
    for phase, seconds in found.phases.items():
        first, last = (round(WIDTH * x / whole) for x in (start, start + seconds))
        bar = " " * first + "#" * max(1, last - first)
        lines.append(f"{phase:<8} {WORKERS[phase]:<9}{seconds:9.3f} s {seconds / whole:4.0%} {bar}")
        start += seconds
    works = found.workers
    for name, seconds in works.items():
        others = (f"{other} {own:.3f}" for other, own in works.items() if other != name)
        lines.append(f"the {name} works {seconds:.3f} s and waits for: {', '.join(others)}")
    lines.append(
        f"a step takes {found.step:.3f} s; with the engine beside all others it would take"
        f" {found.overlapped:.3f} at least"
    )
    return "\n".join(lines)


def main() -> None:
    from pathlib import Path

    from lsp.tracking.reader import read_metrics

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    print(drawn(timeline(read_metrics(parser.parse_args().run))))


if __name__ == "__main__":
    main()
