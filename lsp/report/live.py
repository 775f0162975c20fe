"""A run's folder that somebody writes to goes in; what the run does now, and what is new, come out.

Whatever has a name is whole (lsp/files.py), but for the last line of metrics.jsonl; but a run that
goes on takes back what lies past its checkpoint, file by file. So what cannot be read is damaged
only where it still cannot once nobody has written meanwhile (``settled``).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lsp.errors import RunError
from lsp.files import read_lines
from lsp.report.record import read_record, unreadable
from lsp.run.folder import is_held, outcome, read_phase, read_run
from lsp.tools.text import duration
from lsp.tracking.reader import (
    ALERTS,
    EXAMPLES,
    HELD_OUT,
    LINES_BYTES,
    MANIFEST,
    METRICS,
    RUN_FILE,
    SUMMARY,
    DamagedFile,
    Line,
    metrics_line,
    reason_of,
)

READ = (RUN_FILE, "config.yaml", METRICS, ALERTS, SUMMARY, EXAMPLES, HELD_OUT, MANIFEST, "trace",
        "code.diff", "crossplay/crossplay.csv")  # fmt: skip
"""What a report is made of: files, and a folder in which each new name counts."""
TRIES, MOMENT = 5, 0.2
T = TypeVar("T")


@dataclass(frozen=True)
class Activity:
    """Whether a process is writing to a run; its status and reason; ``doing``: what it does, with
    the time that this has taken; empty where nothing goes on."""

    going: bool
    status: str
    reason: str
    doing: str

    @property
    def words(self) -> str:
        """On one line."""
        return self.doing or self.status + (f" ({self.reason})" if self.reason else "")


def activity(folder: Path) -> Activity:
    """Raises RunError where the folder is gone."""
    going = is_held(folder)  # before run.json, which says how a run ended before it lets go
    check_there(folder)
    run = settled(folder, lambda: read_run(folder))
    if not going:
        return Activity(False, *outcome(folder, run), "")
    status = "starting" if run["status"] == "starting" else "running"
    words, since = read_phase(folder) or (status, time.time())
    seconds = max(0.0, time.time() - since)
    return Activity(True, status, "", f"{words}: {duration(seconds)} so far")


def check_there(folder: Path) -> None:
    if not (folder / RUN_FILE).is_file():
        raise RunError(
            f"{folder} is gone: it was moved or removed, or its start failed, and what started it"
            " has said why; `lsp runs` lists what there is"
        )


def version(folder: Path, *more: str) -> str:
    """Another text whenever a file that a report reads has changed, or one of ``more``."""
    found = []
    for name in (*READ, *more):
        try:
            status = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return sha256(repr(found).encode()).hexdigest()[:16]


def settled(folder: Path, read: Callable[[], T]) -> T:
    """What ``read`` returns. Its RunError is raised once the folder did not change meanwhile, or at
    the last of several tries."""
    for attempt in range(TRIES):
        before = version(folder)
        try:
            return read()
        except RunError:
            time.sleep(MOMENT)
            if attempt == TRIES - 1 or version(folder) == before:
                raise
    raise AssertionError


class NewLines:
    """The lines of a run's metrics as they come, each once: what a run that goes on writes again as
    it was is not new."""

    def __init__(self, folder: Path):
        self.path = folder / METRICS
        self._place = (0, 0)
        self._seen: set[bytes] = set()

    def read(self) -> list[Line]:
        """Those since the last call."""
        try:
            written, self._place = read_lines(self.path, LINES_BYTES, self._place)
        except FileNotFoundError:  # not there yet
            return []
        except OSError as error:
            raise DamagedFile(f"{self.path} cannot be read: {reason_of(error)}") from error
        new = []
        for text in written.split(b"\n")[:-1]:
            if (digest := sha256(text).digest()) not in self._seen:
                self._seen.add(digest)
                new.append(metrics_line(text))
        return new


def draw(folder: Path, trusted: Mapping[str, Any]) -> str:
    """The report of a run as far as it is, a page. Raises RunError where there is no step yet, or
    what is there is damaged."""
    from lsp.report.page import render

    def render_now() -> str:
        with unreadable():
            return render(read_record(folder, trusted=trusted))

    return settled(folder, render_now)
