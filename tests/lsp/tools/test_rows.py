"""Files of rows as users bring them: every format comes back equal, every mistake has its place."""

import csv
import functools
import gzip
import io
import json
import os
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp.errors import RunError
from lsp.tools import rows as module
from lsp.tools.rows import (
    Row,
    is_file_of_rows,
    is_saved_folder,
    read_lines,
    read_rows,
    unreadable,
    without_ending,
)

pack = functools.partial(gzip.compress, mtime=0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(st.fixed_dictionaries({"instruction": TEXT, "input": TEXT}), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def as_csv(rows):
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["instruction", "input"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_parquet(rows):
    sink = io.BytesIO()
    columns = {name: [row[name] for row in rows] for name in ("instruction", "input")}
    schema = pa.schema([("instruction", pa.string()), ("input", pa.string())])
    pq.write_table(pa.table(columns, schema), sink)
    return sink.getvalue()


def as_lines(rows, end="\n", **more):
    return "".join(json.dumps(row, **more) + end for row in rows).encode()


WRITERS = {
    ".json": lambda rows: json.dumps(rows, ensure_ascii=False).encode(),
    ".jsonl": lambda rows: as_lines(rows, ensure_ascii=False),
    ".csv": as_csv,
    ".parquet": as_parquet,
}


def save(folder, rows, shards=2):
    """What ``Dataset.save_to_disk`` of datasets 5.2 writes, as far as it is read."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        part = pa.Table.from_pylist(rows[i::shards])
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, part.schema) as out,
        ):
            out.write_table(part)
    (folder / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("ending", WRITERS)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_texts_come_back_equal_from_every_format(tmp_path_factory, ending, packed, rows):
    path = tmp_path_factory.mktemp("rows") / f"data{ending}{'.gz' if packed else ''}"
    data = WRITERS[ending](rows)
    path.write_bytes(pack(data) if packed else data)
    assert read_rows(path) == rows


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
)
def test_values_of_json_come_back_equal(tmp_path_factory, rows, end):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "lines.jsonl").write_bytes(as_lines(rows, end, ensure_ascii=False))
    (folder / "array.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "under_data.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    assert read_rows(folder / "lines.jsonl") == rows
    assert read_rows(folder / "array.json") == read_rows(folder / "under_data.json") == rows


ROW = {"instruction": "a\u2028b\x85c", "input": "ü😀"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_marks_of_editors_are_read(tmp_path, ending, encoding):
    text = WRITERS[ending]([ROW]).decode()
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    path = tmp_path / f"data{ending}"
    path.write_bytes((mark + text).encode(encoding))
    assert read_rows(path) == [ROW]


def test_lines_of_objects_may_bear_the_name_of_an_array(tmp_path):
    """``datasets`` writes and reads such files too."""
    path = tmp_path / "data.json"
    path.write_bytes(as_lines([ROW, ROW]))
    assert read_rows(path) == [ROW, ROW]


def test_a_saved_data_set_is_read_without_its_library(tmp_path):
    rows = [{"instruction": f"q{i}", "n": i, "turns": [{"role": "user"}]} for i in range(5)]
    save(tmp_path / "one", rows, shards=1)
    assert read_rows(tmp_path / "one") == rows and is_saved_folder(tmp_path / "one")
    assert [row.place for row in read_rows(tmp_path / "one")][4] == f"{tmp_path / 'one'}, row 5"
    for split, part in (("train", rows), ("test", rows[:2])):
        save(tmp_path / "many" / split, part)
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert is_saved_folder(tmp_path / "many") and unreadable(tmp_path / "many") == ""
    assert read_rows(tmp_path / "many", "test") == rows[:2]
    assert read_rows(tmp_path / "many" / "test") == rows[:2]
    for split, asked in ((None, "and none was chosen"), ("valid", "and not valid")):
        with pytest.raises(
            RunError, match=f"holds the splits train, test, {asked}; name .*/<split>"
        ):
            read_rows(tmp_path / "many", split)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("{}", "names no files of rows"),
        ("[]", "names no files of rows"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "'../x.arrow', which is no file of that"),
        ('{"_data_files": [{"filename": "/etc/passwd"}]}', "which is no file of that folder"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "there is no file .*gone.arrow"),
        ('{"_data_files": [{"filename": "state.json"}]}', "state.json cannot be read as arrow"),
        ("{", "state.json is not valid JSON"),
    ],
)
def test_damaged_saved_data_sets(tmp_path, state, says):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(RunError, match=says):
        read_rows(tmp_path)


def test_places_count_lines_of_text_and_rows_of_tables_from_1(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    (tmp_path / "a.csv").write_text('x,y\n"two\nlines",1\nb,2\n')
    (tmp_path / "a.json").write_text('[\n{"x": 1},\n{"x": 2}]')
    (tmp_path / "a.parquet").write_bytes(as_parquet([ROW]))
    places = {
        name: [row.place for row in read_rows(tmp_path / name)] for name in os.listdir(tmp_path)
    }
    assert places == {
        "a.jsonl": [f"{tmp_path}/a.jsonl, line 1", f"{tmp_path}/a.jsonl, line 3"],
        "a.csv": [f"{tmp_path}/a.csv, line 2", f"{tmp_path}/a.csv, line 4"],
        "a.json": [f"{tmp_path}/a.json, row 1", f"{tmp_path}/a.json, row 2"],
        "a.parquet": [f"{tmp_path}/a.parquet, row 1"],
    }


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", b'{"x": 1}\nnot json\n', r"a.jsonl, line 2 is not valid JSON \(column 1: Exp"),
        ("a.jsonl", b'{"x": 1}\n{"x": "cut', r"line 2 is not valid JSON \(column 7: Unterminated"),
        ("a.jsonl", b'{"x": 1}\n[1]\n', "line 2 is a list, and must be an object"),
        ("a.jsonl", b'{"x": 1}\n\xe2\x80\xa8\n', "line 2 is not valid JSON"),
        ("a.jsonl", b'{"x": 1}{"x": 2}\n', r"line 1 is not valid JSON \(column 9: Extra data"),
        ("a.jsonl", b"[" * 200_000, "line 1 nests lists or objects too deeply"),
        ("a.json", b"[" * 200_000, "a.json nests lists or objects too deeply"),
        ("a.json", b'[{"x": ' + b"9" * 5000 + b"}]", "a.json is not valid JSON .*digits"),
        ("a.json", b'[{"x": 1},\n{"x" 2}]', r"a.json, line 2 is not valid JSON \(column 6: Exp"),
        ("a.json", b'[{"x": 1}, 3]', "a.json, row 2 is the number 3, and must be an object"),
        ("a.json", b'{"x": {"0": 1}}', "holds an object, and must hold an array of objects, or"),
        ("a.json", b"", r"line 1 is not valid JSON \(column 1: Expecting value"),
        ("a.json", b'[{"x": "\xff"}]', "a.json, line 1 is not UTF-8 .*save it as UTF-8"),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xff"}', "a.jsonl, line 2 is not UTF-8"),
        ("a.jsonl", b"\xff\xfe{", "a.jsonl, line 1 is not UTF-16"),
        ("a.jsonl", pack(b"{}"), "begins as a .gz file does, and is named otherwise"),
        ("a.csv", b"PK\x03\x04\xff", "begins as a .zip file does, and is named otherwise"),
        ("a.jsonl.gz", b"{}", "a.jsonl.gz cannot be unpacked as gzip: Not a gzipped file"),
        ("a.jsonl.gz", pack(b"{}" * 99)[:-9], "cannot be unpacked as gzip"),
        ("a.csv", b"x,y\n1,2\n1,2,3\n", "a.csv, line 3 has 3 cells, and the heading 2"),
        ("a.csv", b"x,y\n1\n", "a.csv, line 2 has 1 cells, and the heading 2"),
        ("a.csv", b"x,x\n1,2\n", "a.csv, line 1 names a column twice"),
        ("a.csv", b'x\n"never closed\n\n', r"a.csv, line 2 is not valid CSV \(unexpected end"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read as parquet"),
        ("a.parquet", as_parquet([ROW])[:-20] + b"\0" * 20, "cannot be read as parquet"),
        ("a.txt", b"x", r"ends in none of .json, .jsonl, .csv, .parquet \(or one of them and .gz"),
        ("gz", b"x", "ends in none of .json"),
    ],
)
def test_every_damage_is_one_line_with_its_place(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RunError, match=says) as raised:
        read_rows(tmp_path / name)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ending=st.sampled_from([*WRITERS, ".jsonl.gz"]))
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path_factory, data, ending):
    """Never another exception, whatever was done to it."""
    plain = WRITERS[ending.removesuffix(".gz")]([ROW] * 3)
    whole = bytearray(pack(plain) if ending.endswith(".gz") else plain)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("rows") / f"data{ending}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert isinstance(read_rows(path), list)
    except RunError as error:
        assert str(path) in str(error)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RunError, match="has two columns of one name"):
        read_rows(tmp_path / "a.parquet")


def test_what_is_no_plain_file_is_refused_and_not_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "null.jsonl").symlink_to("/dev/zero")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.jsonl"))
        for name in ("pipe.jsonl", "null.jsonl", "socket.jsonl"):
            for read in (read_rows, read_lines):
                with pytest.raises(RunError, match=f"{name} is no plain file .a pipe, a device or"):
                    read(tmp_path / name)
    for name in ("gone.jsonl", "never.csv"):
        with pytest.raises(RunError, match=f"there is no file .*{name}"):
            read_rows(tmp_path / name)
    with pytest.raises(RunError, match="cannot be read: .*(null byte|too long)"):
        read_rows(tmp_path / "a\0.jsonl")
    with pytest.raises(RunError, match="cannot be read: .*too long"):
        read_rows(tmp_path / ("a" * 300 + ".jsonl"))


def test_a_folder_says_which_of_its_files_could_be_meant(tmp_path):
    with pytest.raises(RunError, match="a folder that save_to_disk did not write; name a file"):
        read_rows(tmp_path)
    (tmp_path / "b.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"name one of its files, for instance .*/b\.jsonl"):
        read_rows(tmp_path)


@pytest.mark.parametrize("ending", [*WRITERS, ".jsonl.gz"])
def test_a_size_that_cannot_be_meant_is_said(tmp_path, monkeypatch, ending):
    """A packed file is not unpacked further than that either."""
    data = WRITERS[ending.removesuffix(".gz")]([{"instruction": "x" * 5000, "input": ""}] * 10)
    path = tmp_path / f"a{ending}"
    path.write_bytes(pack(data) if ending.endswith(".gz") else data)
    assert len(read_rows(path)) == 10
    monkeypatch.setattr(module, "MOST_ROWS", 9)
    if "json" not in ending or "jsonl" in ending:
        with pytest.raises(RunError, match="has 1[01] rows, and at most 9 are read; split it"):
            read_rows(path)
    monkeypatch.setattr(module, "memory_bytes", lambda: 200_000)
    says = "holds more than 2e-05 GB, the most that is read here: as rows they take 10 times as"
    with pytest.raises(RunError, match=says):
        read_rows(path)


def test_parts_of_names():
    assert is_file_of_rows("a/b.JSON") and is_file_of_rows("b.csv.gz")
    assert not is_file_of_rows("tatsu-lab/alpaca") and not is_file_of_rows("a.gz")
    from pathlib import Path

    assert without_ending(Path("a/b.c.jsonl.gz")) == "b.c" and without_ending(Path("a/b")) == "b"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": "x", "y": 1}, "f, line 7 has no column 't'; it has 'prompt', 'y'$"),
        ({}, "f, line 7 has no column 't'; it has none"),
        ({"t": None}, "f, line 7: 't' is null, and must be text"),
        ({"t": 5}, "'t' is the number 5, and must be text"),
        ({"t": float("nan")}, "'t' is the number nan"),
        ({"t": True}, "'t' is true, and must be text"),
        ({"t": ["x"]}, "'t' is a list, and"),
        ({"t": {"x": 1}}, "'t' is an object, and"),
        ({"t": b"x"}, "'t' is bytes, and"),
        ({"t": [{"role": "user", "content": "hi"}]}, "'t' is a list of messages, and"),
        (
            {"messages": [{"role": "user", "content": "hi"}]},
            "it has 'messages'; a column of messages is not read, so write the user's text into",
        ),
        ({"t": " \n"}, "'t' is empty"),
        ({"t": "\ud800"}, "'t' holds half a character"),
    ],
)
def test_what_is_no_text_is_said_with_its_place(columns, says):
    with pytest.raises(RunError, match=says):
        Row(columns, "f, line 7").text("t")


def test_texts_and_numbers_of_a_row():
    row = Row(
        {"t": "x", "e": "", "n": 1, "c": " 2.5", "o": None, "b": True, "h": 10**400}, "f, row 1"
    )
    assert row.text("t") == "x" and row.text("e", may_be_empty=True) == ""
    assert (row.number("n"), row.number("c")) == (1.0, 2.5)
    assert row.number("o") is row.number("e") is row.number("missing") is None
    for column, kind in (("t", "the text 'x'"), ("b", "true"), ("h", "the number 1000")):
        with pytest.raises(RunError, match=f"f, row 1: '{column}' is {kind}.*must be a number"):
            row.number(column)


def test_lines_of_a_text_file_end_with_a_newline_alone(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffcats \u2028 owls\r\n\n \ndogs", encoding="utf-8")
    assert read_lines(tmp_path / "a.txt") == ["cats \u2028 owls\r", "dogs"]
