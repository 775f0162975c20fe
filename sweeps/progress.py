"""What several commands at a time say goes in, one line of all of them comes out: how many ended,
what each is at, and how long the whole will take.

    5/12  4 done, 1 failed, 2 running, 5 waiting  3 min 05 s so far, about 4 min 10 s left  …

Pure but for ``Status``, which keeps count and prints. Steps are read off the lines that runs,
schooling and other launchers print anyway (lsp/loop/progress.py, and this one).
"""

import heapq
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import NamedTuple

from lsp.loop.launch import NOTHING_TO_DO
from lsp.tools.text import duration, visible

Command = Sequence[str]
STEP = re.compile(r"step (\d+)/(\d+)(,?)")
"""``step 7/60  …`` of a step that is done; ``step 7/60, update: …`` of one that is not."""
COUNT = re.compile(r"(\d+)/(\d+) ")
"""How the lines of another launcher and of a judge's verdicts begin."""
PLACES = ("run_dir=", "out=", "run=")
LONGEST_WORDS = 120


class Stage(NamedTuple):
    """Commands that may run together, ``workers`` at a time, once all before them have ended."""

    commands: Sequence[Command]
    workers: int


class Told(NamedTuple):
    """A share of a command's work that was done ``seconds`` after its start."""

    share: float
    seconds: float


@dataclass(frozen=True)
class Heard:
    """What a command has said. ``first`` and ``last``: the first and the newest share that it told,
    and when it did so first. ``nothing``: all of it had been done before."""

    words: str = "starting"
    first: Told | None = None
    last: Told | None = None
    nothing: bool = False

    def line(self, text: str, seconds: float) -> "Heard":
        """After one more line, ``seconds`` after its start."""
        if NOTHING_TO_DO in text:
            return replace(self, nothing=True)
        share = share_of(text)
        if share is None and not text.endswith(" so far"):
            return self
        first, *others = text.split("  ")
        # Of a run its metrics are left out, of a launcher the counts beside its share.
        shown = visible(first if STEP.match(text) else ", ".join([first, *others[1:]]))
        words = shown if len(shown) <= LONGEST_WORDS else f"{shown[:LONGEST_WORDS]}…"
        if share is None:
            return replace(self, words=words)
        again = self.last is not None and self.last.share == share
        told = self.last if again else Told(share, seconds)
        return replace(self, words=words, first=self.first or told, last=told)

    def pace(self) -> float | None:
        """Seconds that all of its work takes, by the shares that it told."""
        if self.first is None or self.last is None or self.last.share <= self.first.share:
            return None
        return (self.last.seconds - self.first.seconds) / (self.last.share - self.first.share)

    def whole(self) -> float | None:
        """Seconds that a command like this one takes from its start to its end: until it told its
        first share, and its pace; of one that still runs."""
        pace = self.pace()
        return None if pace is None or self.first is None else self.first.seconds + pace

    def left(self, seconds: float, typical: float | None) -> float | None:
        """Seconds from now, ``seconds`` after its start, to its end. ``typical``: what commands
        like this one take, where it tells nothing itself, or is at its last words."""
        pace = self.pace()
        if pace is not None and self.last is not None and self.last.share < 1:
            return max(0.0, (1 - self.last.share) * pace - (seconds - self.last.seconds))
        return None if typical is None else max(0.0, typical - seconds)


def share_of(text: str) -> float | None:
    """The share of its work that a command's line tells, or None."""
    if step := STEP.match(text):
        done, total, goes_on = int(step[1]), int(step[2]), bool(step[3])
        return (done - goes_on) / total if total else None
    if count := COUNT.match(text):
        return int(count[1]) / int(count[2]) if int(count[2]) else None
    return None


def whole_of_ended(heard: Heard, seconds: float) -> float | None:
    """Seconds that a command took that has ended well, or would have from its beginning where it
    went on; None for one that had nothing to do."""
    if heard.nothing:
        return None
    if heard.first is None or heard.first.share >= 1:
        return seconds
    return heard.first.seconds + (seconds - heard.first.seconds) / (1 - heard.first.share)


def stage_left(
    running: Sequence[float | None], waiting: int, typical: float | None, workers: int
) -> float | None:
    """Seconds until a stage's last command ends, the waiting ones begun as places come free. None
    before there is any ground. A running one without its own is taken as done by half."""
    known = [seconds for seconds in running if seconds is not None]
    if typical is None and (waiting or len(known) < len(running)):
        return None
    lefts = [(typical or 0.0) / 2 if seconds is None else seconds for seconds in running]
    ends = [*lefts, *([0.0] * (workers - len(lefts)))]
    heapq.heapify(ends)
    for _ in range(waiting):
        heapq.heapreplace(ends, ends[0] + (typical or 0.0))
    return max(ends, default=0.0)


def left_words(seconds: Sequence[tuple[float | None, int]]) -> str:
    """(seconds left of a stage, its commands), the present one first -> words. What is not known of
    later stages is said beside what is."""
    known = [left for left, _ in seconds if left is not None]
    unknown = sum(count for left, count in seconds if left is None)
    if not known or seconds[0][0] is None:
        return "time left unknown yet"
    more = f" and {unknown} more of unknown time" if unknown else ""
    return f"about {duration(sum(known))} left{more}" if sum(known) >= 1 else f"about to end{more}"


def kind_of(command: Command) -> str:
    """What a command's time is like: that of others with this program."""
    return " ".join(command[:2]) if command[0] == "-m" else command[0]


def names_of(commands: Sequence[Command]) -> list[str]:
    """A short name for each: where it writes, below what all have in common; else its words."""
    places = [
        next((w.partition("=")[2] for p in PLACES for w in command if w.startswith(p)), "")
        for command in commands
    ]
    whole = [os.path.abspath(place) for place in places if place]
    common = os.path.commonpath(whole) if len(set(whole)) > 1 else ""
    names = []
    for command, place in zip(commands, places, strict=True):
        if common and place:
            name = os.path.relpath(os.path.abspath(place), common)
        else:
            name = os.path.basename(place.rstrip("/")) or " ".join(command)
        names.append(visible(name if len(name) <= LONGEST_WORDS else f"{name[:LONGEST_WORDS]}…"))
    return names


@dataclass
class _Running:
    name: str
    kind: str
    began: float
    heard: Heard = field(default_factory=Heard)


class Status:
    """The line of all stages: on a terminal drawn anew each second, else one every SECONDS."""

    SECONDS = 30.0

    def __init__(self, stages: Sequence[Stage]):
        self.stages = stages
        self.live = sys.stderr.isatty()
        self.total = sum(len(stage.commands) for stage in stages)
        self.done = self.failed = self.ended_in_stage = self.stage = 0
        self.running: dict[int, _Running] = {}
        self.wholes: dict[str, list[float]] = {}
        self.names: Sequence[str] = ()
        self.began = time.monotonic()
        self.last_line = -math.inf

    def enter(self, stage: int) -> None:
        self.stage, self.ended_in_stage, self.last_line = stage, 0, -math.inf
        self.names = names_of(self.stages[stage].commands)

    def begin(self, place: int) -> None:
        """A command of this stage begins."""
        kind = kind_of(self.stages[self.stage].commands[place])
        self.running[place] = _Running(self.names[place], kind, time.monotonic())

    def hear(self, place: int, lines: Sequence[str]) -> None:
        one = self.running[place]
        for line in lines:
            one.heard = one.heard.line(line, time.monotonic() - one.began)

    def end(self, place: int, word: str) -> None:
        """``word``: how it ended; empty: well."""
        one = self.running.pop(place)
        self.ended_in_stage += 1
        self.done, self.failed = self.done + (not word), self.failed + bool(word)
        whole = whole_of_ended(one.heard, time.monotonic() - one.began)
        if not word and whole is not None:
            self.wholes.setdefault(one.kind, []).append(whole)
        words = " ".join(self.stages[self.stage].commands[place])
        self.note(f"{word or 'done'}  {words}")
        self.show(now=True)

    def line(self) -> str:
        ended, running = self.done + self.failed, list(self.running.values())
        waiting = self.total - ended - len(running)
        counts = f"{self.done} done, {self.failed} failed, {len(running)} running"
        since, left = duration(time.monotonic() - self.began), self._left()
        parts = [
            f"{ended}/{self.total}",
            f"{counts}, {waiting} waiting",
            f"{since} so far, {left_words(left)}" if left else f"{since} in all",
            *(f"{one.name}: {one.heard.words}" for one in running),
        ]
        return "  ".join(parts)

    def _left(self) -> list[tuple[float | None, int]]:
        """Of this stage and those after it, where there is anything; a stage's commands are of one
        kind."""
        now, found = time.monotonic(), []
        for number, stage in enumerate(self.stages[self.stage :]):
            running = list(self.running.values()) if number == 0 else []
            waiting = len(stage.commands) - len(running)
            waiting -= self.ended_in_stage if number == 0 else 0
            if not (running or waiting):
                continue
            kind = kind_of(stage.commands[0])
            wholes = self.wholes.get(kind, [])
            here = [whole for one in running if (whole := one.heard.whole()) is not None]
            typical = mean([*wholes, *here]) if wholes or here else None
            lefts = [one.heard.left(now - one.began, typical) for one in running]
            found.append((stage_left(lefts, waiting, typical, stage.workers), waiting))
        return found

    def show(self, now: bool = False) -> None:
        """The line, where it is time for it."""
        if self.live:
            text = self.line()[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif now or time.monotonic() - self.last_line >= self.SECONDS:
            self.last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\033[K{text}" if self.live else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The live line is taken away: how each command ended stands above it."""
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
