"""A file of rows that a user brings goes in, its rows come out, each with its place, or one error.

An array of objects in .json (or under its key ``data``), an object in each line of .jsonl, .csv
with a heading, .parquet, each of them as .gz too, and a folder that ``datasets`` wrote with
``save_to_disk``. Only ``\\n`` ends a line of JSON: any other separator is text. Text is UTF-8, or
UTF-16 with its mark. Nothing is guessed and nothing left out.
"""

import csv
import gzip
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lsp.errors import RunError
from lsp.tools.machine import memory_bytes

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")
MARKS = {
    b"\x1f\x8b": ".gz",
    b"PAR1": ".parquet",
    b"PK\x03\x04": ".zip",
    b"\x28\xb5\x2f\xfd": ".zst",
}
"""How compressed and packed files begin -> the ending that they should have."""
LARGEST = 4 * 2**30
"""Bytes of a file, unpacked."""
MEMORY_FACTOR = 10
"""Bytes of memory that a byte of a file takes as rows: 1 to 10, most in CSV of short cells."""
MOST_ROWS = 20_000_000


class Row(dict[str, Any]):
    """Column -> value; ``place`` says where it stands: ``data.jsonl, line 7``, counted from 1."""

    __slots__ = ("place",)

    def __init__(self, columns: dict[str, Any], place: str):
        super().__init__(columns)
        self.place = place

    def text(self, column: str, may_be_empty: bool = False) -> str:
        """The text of a column. Raises RunError where it has none, or half a character."""
        if column not in self:
            raise RunError(f"{self.place} has no column {column!r}; {_columns(self)}")
        value = self[column]
        if not isinstance(value, str):
            raise RunError(f"{self.place}: {column!r} is {_kind(value)}, and must be text")
        if not value.strip() and not may_be_empty:
            raise RunError(f"{self.place}: {column!r} is empty")
        if re.search("[\ud800-\udfff]", value):
            raise RunError(f"{self.place}: {column!r} holds half a character")
        return value

    def number(self, column: str) -> float | None:
        """The number of a column, also where it is written as text, as all is in CSV; None where
        there is none. Raises RunError for anything else."""
        value = self.get(column)
        if value is None or value == "":
            return None
        try:
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                return float(value)
        except (ValueError, OverflowError):
            pass  # said below
        raise RunError(f"{self.place}: {column!r} is {_kind(value)}, and must be a number")


def is_file_of_rows(name: str) -> bool:
    """Whether a name has an ending that is read here, be it there or not."""
    return _ending(Path(name)) in ENDINGS


def is_saved_folder(path: Path) -> bool:
    """Whether ``datasets`` wrote this folder (``Dataset`` or ``DatasetDict``)."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def without_ending(path: Path) -> str:
    """The name of a file of rows by itself."""
    return path.name.removesuffix(".gz").removesuffix(_ending(path))


def unreadable(path: Path) -> str:
    """Why a file or folder cannot be read as rows, as far as that shows without opening it; empty
    where nothing speaks against it."""
    if reason := _no_file(path):
        return reason
    if path.is_dir():
        if is_saved_folder(path):
            return ""
        inside = sorted(file.name for file in path.iterdir() if is_file_of_rows(file.name))
        fix = f"name one of its files, for instance {path / inside[0]}" if inside else "name a file"
        return f"{path} is a folder that save_to_disk did not write; {fix}"
    if _ending(path) not in ENDINGS:
        return f"{path} ends in none of {', '.join(ENDINGS)} (or one of them and .gz)"
    return ""


def read_rows(path: Path, split: str | None = None) -> list[Row]:
    """The rows of a file, or of a folder of ``save_to_disk``, of which ``split`` chooses where it
    holds several. Raises RunError, with the place."""
    if reason := unreadable(path):
        raise RunError(reason)
    if path.is_dir():
        return _saved_rows(path, split)
    ending = _ending(path)
    if ending == ".parquet":
        return _parquet_rows(path)
    text = read_text(path)
    if ending == ".csv":
        return list(_csv_rows(text, path))
    return list(_line_rows(text, path)) if ending == ".jsonl" else _json_rows(text, path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something; only a newline ends one. Raises RunError."""
    return [line for line in read_text(path).split("\n") if line.strip()]


def _ending(path: Path) -> str:
    """Without .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _no_file(path: Path) -> str:
    """Why nothing of this name can be opened: it is missing, or would be read for ever."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no file {path}"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"{path} cannot be read: {error}"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return f"{path} is no plain file (a pipe, a device or a socket); write its rows to a file"
    return "" if os.access(path, os.R_OK) else f"{path} cannot be read: permission denied"


def _columns(row: dict[str, Any]) -> str:
    names = f"it has {', '.join(map(repr, row)):.200}" if row else "it has none"
    if any(map(_is_conversation, row.values())):
        names += "; a column of messages is not read, so write the user's text into one of text"
    return names


def _kind(value: Any) -> str:
    """What a value is that is not what it should be."""
    if _is_conversation(value):
        return "a list of messages"
    if value is None or isinstance(value, (bool, int, float)):
        return {None: "null", True: "true", False: "false"}.get(value, f"the number {value!r:.40}")
    names = {str: f"the text {value!r:.40}", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def _largest() -> int:
    """Bytes of a file, unpacked, whose rows this machine can hold."""
    return min(LARGEST, int((memory_bytes() or float("inf")) / MEMORY_FACTOR))


def _bytes(path: Path) -> bytes:
    """A file's, unpacked where it ends in .gz."""
    limit, parts, size = _largest(), [], 0
    packed = path.name.endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            while part := stream.read(2**20):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise RunError(_too_large(path))
    except (EOFError, zlib.error, OSError) as error:
        kind = "cannot be unpacked as gzip" if packed else "cannot be read"
        raise RunError(f"{path} {kind}: {error}") from error
    return b"".join(parts)


def _too_large(path: Path) -> str:
    needs = f"as rows they take {MEMORY_FACTOR} times as much memory; split it"
    return f"{path} holds more than {_largest() / 1e9:.3g} GB, the most that is read here: {needs}"


def read_text(path: Path) -> str:
    """A text file's, in UTF-8, or UTF-16 with its mark. Raises RunError."""
    if reason := _no_file(path):
        raise RunError(reason)
    data = _bytes(path)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        is_like = next((ending for mark, ending in MARKS.items() if data.startswith(mark)), None)
        if is_like:
            raise RunError(
                f"{path} begins as a {is_like} file does, and is named otherwise"
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        reason = f"line {line} is not {name} ({error.reason}); save it as UTF-8"
        raise RunError(f"{path}, {reason}") from error


def _parsed(text: str, place: str) -> Any:
    """JSON. Raises RunError that begins with the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{place} is not valid JSON (column {error.colno}: {error.msg})") from error
    except RecursionError as error:
        raise RunError(f"{place} nests lists or objects too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise RunError(f"{place} is not valid JSON ({error})") from error


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise RunError(f"{place} is {_kind(value)}, and must be an object: {{column: value}}")
    return Row(value, place)


def _json_rows(text: str, path: Path) -> list[Row]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # lines of objects
            return list(_line_rows(text, path))
        reason = f"line {error.lineno} is not valid JSON (column {error.colno}: {error.msg})"
        raise RunError(f"{path}, {reason}") from error
    except (RecursionError, ValueError):
        whole = _parsed(text, str(path))
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    if not isinstance(whole, list):
        shape = 'an array of objects, or {"data": [objects]}'
        raise RunError(f"{path} holds {_kind(whole)}, and must hold {shape}")
    return [_row(value, f"{path}, row {number}") for number, value in enumerate(whole, 1)]


def _line_rows(text: str, path: Path) -> Iterator[Row]:
    lines = text.split("\n")
    _check_count(len(lines), path)
    for number, line in enumerate(lines, 1):
        if line.strip(" \t\r"):
            place = f"{path}, line {number}"
            yield _row(_parsed(line, place), place)


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    _check_count(text.count("\n"), path)
    before = csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        heading = next(reader, [])
        if len(set(heading)) < len(heading):
            raise RunError(f"{path}, line 1 names a column twice")
        number = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(heading):
                counts = f"has {len(cells)} cells, and the heading {len(heading)}"
                raise RunError(f"{path}, line {number} {counts}")
            if cells:
                yield Row(dict(zip(heading, cells, strict=True)), f"{path}, line {number}")
            number = reader.line_num + 1
    except csv.Error as error:
        raise RunError(f"{path}, line {number} is not valid CSV ({error})") from error
    finally:
        csv.field_size_limit(before)


def _check_count(rows: int, path: Path) -> None:
    if rows > MOST_ROWS:
        raise RunError(f"{path} has {rows:,} rows, and at most {MOST_ROWS:,} are read; split it")


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        return _batch_rows(file.iter_batches(1024), path, [])
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise RunError(f"{path} cannot be read as parquet: {error!s:.200}") from error


def _saved_rows(folder: Path, split: str | None) -> list[Row]:
    """Of the arrow streams that ``state.json`` names, as ``datasets`` writes them."""
    import pyarrow as pa

    if os.path.isfile(folder / "dataset_dict.json"):
        splits = _parsed(read_text(folder / "dataset_dict.json"), f"{folder}/dataset_dict.json")
        names = splits.get("splits") if isinstance(splits, dict) else None
        if not isinstance(names, list) or split not in names or not _is_plain(split):
            shown = ", ".join(map(str, names)) if isinstance(names, list) else "none"
            asked = "and none was chosen" if split is None else f"and not {split}"
            raise RunError(f"{folder} holds the splits {shown}, {asked}; name {folder}/<split>")
        folder = folder / split
    place = f"{folder}/state.json"
    state = _parsed(read_text(folder / "state.json"), place)
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise RunError(f"{place} names no files of rows; save the data set anew") from error
    if strange := [name for name in names if not _is_plain(name)]:
        raise RunError(f"{place} names {strange[0]!r:.80}, which is no file of that folder")
    rows: list[Row] = []
    for file in (folder / name for name in names):
        if reason := _no_file(file):
            raise RunError(reason)
        try:
            with pa.ipc.open_stream(pa.BufferReader(_bytes(file))) as batches:
                _batch_rows(batches, folder, rows)
        except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
            raise RunError(f"{file} cannot be read as arrow: {error!s:.200}") from error
    return rows


def _is_plain(name: Any) -> bool:
    """Whether this is the name of something inside a folder, and no way out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _batch_rows(batches: Iterable[Any], path: Path, rows: list[Row]) -> list[Row]:
    """The rows so far and those of arrow's batches, which may be far larger than their file."""
    size = 0
    for batch in batches:
        size += batch.nbytes
        if size > _largest():
            raise RunError(_too_large(path))
        _check_count(len(rows) + batch.num_rows, path)
        if len(set(batch.schema.names)) < batch.num_columns:
            raise RunError(f"{path} has two columns of one name")
        values = enumerate(batch.to_pylist(), len(rows) + 1)
        rows += [Row(value, f"{path}, row {number}") for number, value in values]
    return rows
