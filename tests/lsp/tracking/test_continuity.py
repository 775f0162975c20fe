"""A record that checks itself: what was written, what is there, what is missing by step."""

import json
import shutil

import pytest

from lsp.files import sha256
from lsp.tracking.continuity import Gap, Manifest, scan
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import MANIFEST, METRICS, read_manifest, shard
from lsp.tracking.rows import SCHEMA

EMPTY = dict.fromkeys(SCHEMA.names)


@pytest.fixture
def run(tmp_path):
    """Five steps after an evaluation of the start, with their manifest."""
    tracker = LocalTracker(tmp_path)
    tracker.log(0, {"x": 0.5}, [])
    for step in range(1, 6):
        tracker.log(step, {"x": float(step)}, [{**EMPTY, "step": step}] * step)
    tracker.secure()
    return tmp_path


def edit_lines(run, change):
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    (run / METRICS).write_bytes(b"".join(change(lines)))


def gaps(run, until=5):
    return [str(gap) for gap in scan(run, until).gaps]


def test_the_manifest_has_rows_and_hashes_of_each_step(run):
    start, *steps = read_manifest(run)["steps"]
    assert start["step"] == 0 and (start["rows"], start["shard"]) == (0, None)
    assert [entry["rows"] for entry in steps] == [1, 2, 3, 4, 5]
    assert [entry["shard"] for entry in steps] == [sha256(shard(run, n)) for n in range(1, 6)]


def test_a_whole_record_has_no_gap_and_knows_what_lies_past_a_step(run):
    found = scan(run, 3)
    assert not found.gaps and [line.step for line in found.lines] == [0, 1, 2, 3]
    assert [line.step for line in found.strange_lines] == [4, 5]
    assert found.strange_files == [shard(run, 4), shard(run, 5)]
    assert [entry["step"] for entry in found.entries] == [0, 1, 2, 3]
    nothing = scan(run, 0)
    assert not nothing.gaps and not nothing.lines and len(nothing.strange_files) == 5


DAMAGE = {
    "a line is gone": (
        lambda run: edit_lines(run, lambda lines: [*lines[:3], *lines[4:]]),
        ["step 3 has no line in metrics.jsonl"],
    ),
    "half a line in the middle": (
        lambda run: edit_lines(run, lambda lines: [*lines[:3], lines[3][:9] + b"\n", *lines[4:]]),
        ["step 3 has no line in metrics.jsonl (line 4 cannot be read)"],
    ),
    "a line that lost its end swallows the next": (
        lambda run: edit_lines(run, lambda lines: [*lines[:3], lines[3][:9], *lines[4:]]),
        ["step 3 has no line in metrics.jsonl (line 4 cannot be read)",
         "step 4 has no line in metrics.jsonl (line 4 cannot be read)"],
    ),
    "a number was changed": (
        lambda run: edit_lines(run, lambda lines: [x.replace(b"3.0", b"3.5") for x in lines]),
        ["step 3 has another line in metrics.jsonl than was written"],
    ),
    "a line stands twice": (
        lambda run: edit_lines(run, lambda lines: [*lines[:4], lines[2], *lines[4:]]),
        ["step 2 stands twice in metrics.jsonl"],
    ),
    "two lines changed places": (
        lambda run: edit_lines(run, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
        ["step 2 stands behind a later one in metrics.jsonl"],
    ),
    "a strange line between": (
        lambda run: edit_lines(run, lambda lines: [*lines[:4], b"\xff\n", *lines[4:]]),
        ["step 3 is followed by a line in metrics.jsonl that cannot be read"],
    ),
    "the evaluation of the start is gone": (
        lambda run: edit_lines(run, lambda lines: lines[1:]),
        ["step 0 has no line in metrics.jsonl"],
    ),
    "metrics.jsonl is gone": (
        lambda run: (run / METRICS).unlink(),
        [f"step {step} has no line in metrics.jsonl" for step in range(6)],
    ),
    "a shard is gone": (
        lambda run: shard(run, 2).unlink(),
        ["step 2 has no shard in trace/"],
    ),
    "a shard of zeroes": (
        lambda run: shard(run, 2).write_bytes(bytes(shard(run, 2).stat().st_size)),
        ["step 2 has another shard in trace/ than was written"],
    ),
    "another step's shard": (
        lambda run: shutil.copy(shard(run, 1), shard(run, 2)),
        ["step 2 has another shard in trace/ than was written"],
    ),
    "a folder in a shard's place": (
        lambda run: (shard(run, 2).unlink(), shard(run, 2).mkdir()),
        ["step 2 has no shard that can be read: [Errno 22] it is no regular file: "],
    ),
    "the manifest": (
        lambda run: (run / MANIFEST).write_text('{"steps": [{"step": -1}]}'),
        ["step 0 and all others may have been changed: "],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_each_damage_is_told_by_its_step(run, what):
    damage, expected = DAMAGE[what]
    damage(run)
    found = gaps(run)
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_a_run_of_an_earlier_version_must_have_each_step_once(run):
    """Without a manifest nobody knows what was written; what is there must be readable."""
    (run / MANIFEST).unlink()
    assert gaps(run) == []
    edit_lines(run, lambda lines: [x.replace(b"3.0", b"3.5") for x in lines])
    assert gaps(run) == []
    shard(run, 4).write_bytes(b"PAR1")
    assert gaps(run)[0].startswith("step 4 has no shard that can be read: ")


def test_what_was_consented_to_is_no_gap_any_more(run):
    shard(run, 2).unlink()
    entries = read_manifest(run)
    lost = {"step": 2, "reason": "has no shard in trace/"}
    (run / MANIFEST).write_text(json.dumps({**entries, "gaps": [lost]}))
    found = scan(run, 5)
    assert not found.gaps and found.accepted == [Gap(**lost)]


def test_a_step_that_cannot_be_is_a_strange_line(run):
    """Else a reader would look for nine hundred billion steps."""
    with (run / METRICS).open("a") as stream:
        stream.write('{"step": 900000000000}\n')
    assert gaps(run) == [] and len(scan(run, 5).strange_lines) == 1


def test_strange_files_of_the_trace_are_found_and_half_written_ones_are_a_kills(run):
    (run / "trace" / "step-bad.parquet").write_bytes(b"x")
    shutil.copy(shard(run, 3), run / "trace" / "step-0000003.parquet")
    (run / "trace" / ".step-000006.1.tmp.parquet").write_bytes(b"x")
    assert [path.name for path in scan(run, 5).strange_files] == [
        "step-0000003.parquet", "step-bad.parquet"
    ]  # fmt: skip


def test_a_manifest_goes_on_where_it_was(run):
    manifest = Manifest(run)
    (run / METRICS).open("a").write('{"step": 6}\n')
    manifest.add(6, '{"step": 6}\n', 0)
    manifest.write()
    assert [entry["step"] for entry in read_manifest(run)["steps"]] == [0, 1, 2, 3, 4, 5, 6]
    assert gaps(run, 6) == []  # a step without rows has no shard
