"""Files that are whole or not there: written beside their place, then renamed onto it."""

import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` in one step at the end of the block. A
    reader finds the old file or the new one, never half of it; after an error, the old one.
    ``durable``: after a power cut too."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """In UTF-8, in one step."""
    with replacing(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """In one step. JSON has no NaN and no infinity: they are null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", durable)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """One row a line, in one step."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """One line a dataclass instance, its fields as columns, in one step; None is an empty cell."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(vars(rows[0])))
        writer.writeheader()
        writer.writerows(map(vars, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Column -> cell of each line; the first line names the columns."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def finite(value: Any) -> Any:
    """The same plain values with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those inside it, in order. Raises OSError where one cannot be
    listed, FileNotFoundError where it is gone."""

    def refuse(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=refuse)
    return sorted(Path(parent, name) for parent, _, names in found for name in names)


def read_bytes(path: Path, limit: int) -> bytes:
    """Of a regular file (also behind a link). Raises OSError for a pipe, which would be waited for,
    a device, a folder, and what has more than ``limit`` bytes."""
    with _regular(path, limit) as stream:
        return stream.read(limit)


def read_lines(path: Path, limit: int, place: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """Of a file that grows: its whole lines behind ``place``, and the place behind those, for the
    next time; (0, 0) is the beginning. All of it again where it is another file by now, or was cut.
    Raises OSError as ``read_bytes`` does."""
    with _regular(path, limit) as stream:
        status = os.fstat(stream.fileno())
        same = place[0] == status.st_ino and place[1] <= status.st_size
        begin = place[1] if same else 0
        stream.seek(begin)
        written = stream.read(limit)
    whole = written[: written.rfind(b"\n") + 1]
    return whole, (status.st_ino, begin + len(whole))


@contextmanager
def _regular(path: Path, limit: int) -> Iterator[IO[bytes]]:
    """Of ``read_bytes``: the file, open."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Push a file or folder to the disk, so that a rename never overtakes its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def next_free(folder: Path, name: str) -> Path:
    """``<folder>/<name>-K`` with the smallest K from 1 that is not there yet."""
    paths = (folder / f"{name}-{number}" for number in count(1))
    return next(path for path in paths if not path.exists())


def lock(path: Path, wait: bool = True) -> IO[str]:
    """Hold a lock file for this process, until the handle is closed or the process ends, however it
    ends. Raises BlockingIOError where another process holds it and this one is not to ``wait``."""
    handle = _open_lock(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        raise
    return handle


def _open_lock(path: Path, flags: int) -> IO[str]:
    """Raises OSError for what is no file: a pipe would be waited for."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "r" if flags == os.O_RDONLY else "r+")


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file now."""
    try:
        with _open_lock(path, os.O_RDONLY) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False
