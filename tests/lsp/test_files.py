"""Files that are whole or not there."""

import json
import math
import multiprocessing
from dataclasses import dataclass

import pytest

from lsp.files import (
    files_below,
    finite,
    is_locked,
    lock,
    next_free,
    read_csv,
    replacing,
    sha256,
    sync,
    write_csv,
    write_json,
    write_json_lines,
    write_text,
)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.startswith(".a.")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_files_below_a_folder_are_those_of_folders_inside_too(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    paths = [tmp_path / "a", tmp_path / "b" / "c" / "d", tmp_path / "b" / "e"]
    for path in paths:
        path.touch()
    assert files_below(tmp_path) == paths
    with pytest.raises(FileNotFoundError):
        files_below(tmp_path / "gone")


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    with pytest.raises(ValueError), replacing(path):
        raise ValueError  # before anything was written
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_and_json_has_no_number_that_json_lacks(tmp_path):
    write_text(tmp_path / "t", "é 中\n")
    assert (tmp_path / "t").read_bytes() == "é 中\n".encode()
    write_json(tmp_path / "j", {"a": math.nan, "b": (1, math.inf), "ü": 1.5})
    text = (tmp_path / "j").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [1, None], "ü": 1.5}
    assert "ü" in text and text.endswith("}\n")
    write_json_lines(tmp_path / "l", [{"a": 1}, [2]])
    assert (tmp_path / "l").read_text() == '{"a": 1}\n[2]\n'


def test_numbers_that_are_not_finite_become_none_at_any_depth():
    value = {"a": [1, math.inf, {"b": -math.inf}], "c": "nan", "d": (math.nan, True)}
    assert finite(value) == {"a": [1, None, {"b": None}], "c": "nan", "d": [None, True]}


@dataclass
class Line:
    name: str
    value: float | None


def test_tables_come_back_as_they_were_written(tmp_path):
    write_csv(tmp_path / "t.csv", [Line('a,"b"\nc', 0.5), Line("é", None)])
    assert read_csv(tmp_path / "t.csv") == [
        {"name": 'a,"b"\nc', "value": "0.5"},
        {"name": "é", "value": ""},
    ]


def test_a_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    sync(tmp_path / "f")
    sync(tmp_path)


def test_the_next_free_name_is_the_smallest(tmp_path):
    assert next_free(tmp_path, "old").name == "old-1"
    (tmp_path / "old-1").mkdir()
    (tmp_path / "old-3").mkdir()
    assert next_free(tmp_path, "old").name == "old-2"


def hold(path, held, over):
    with lock(path):
        held.set()
        over.wait(900)


def test_a_lock_is_held_against_others_until_its_process_ends(tmp_path):
    path = tmp_path / ".lock"
    assert not is_locked(path)
    context = multiprocessing.get_context("spawn")
    held, over = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, held, over))
    other.start()
    assert held.wait(900) and is_locked(path)
    with pytest.raises(BlockingIOError):
        lock(path, wait=False)
    other.kill()  # however it ends
    other.join()
    assert not is_locked(path)
    with lock(path):
        assert is_locked(path)
    assert not is_locked(path)
