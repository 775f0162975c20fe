"""A run's folder, read while somebody writes to it."""

import pytest

from lsp.errors import RunError
from lsp.files import read_lines
from lsp.report import live
from lsp.report.live import NewLines, activity, draw, settled, version
from lsp.run.folder import lock_run, note_phase, read_phase, update_run
from lsp.tracking.reader import METRICS


def test_a_version_is_another_after_each_change_and_no_other_time(run):
    first = version(run)
    assert version(run) == first
    (run / "wandb" / "something").mkdir(parents=True)  # not what a report reads
    assert version(run) == first
    with (run / METRICS).open("a") as stream:
        stream.write("\n")
    second = version(run)
    (run / "trace" / "step-000004.parquet").touch()
    assert len({first, second, version(run)}) == 3
    assert version(run, ".lock") != version(run)


def test_what_a_run_does_is_what_its_lock_says(run):
    assert activity(run).words == "finished"
    update_run(run, status="running")
    assert activity(run).words == "killed (its process is gone)"
    with lock_run(run) as lock:
        assert read_phase(run) is not None  # of the run as it was, long ago
        note_phase(lock, "step 4/9, answers with more words than the next")
        note_phase(lock, "step 4/9, update")
        assert activity(run).words == "step 4/9, update: 0 s so far"
        update_run(run, status="interrupted")  # it is being gone on with, and still loads
        assert (activity(run).status, activity(run).going) == ("running", True)
        lock.truncate(0)  # of an earlier version
        assert read_phase(run) is None and activity(run).words == "running: 0 s so far"
    (run / "run.json").unlink()
    with pytest.raises(RunError, match="is gone: it was moved or removed"):
        activity(run)


def test_lines_come_once_and_whole_and_those_that_were_taken_back_too(tmp_path):
    path, lines = tmp_path / METRICS, NewLines(tmp_path)
    assert lines.read() == []
    path.write_text('{"step":1}\n{"step"')
    assert [line.step for line in lines.read()] == [1]
    with path.open("a") as stream:
        stream.write(':2}\n{"step":3}\nbroken\n')
    assert [line.step for line in lines.read()] == [2, 3, None]
    assert lines.read() == []
    new = tmp_path / "new"
    new.write_text('{"step":1}\n{"step":2,"loss":1.0}\n')  # step 2 was played again
    new.replace(path)
    assert [line.entries for line in lines.read()] == [{"step": 2, "loss": 1.0}]
    written, place = read_lines(path, 1000, (0, 0))
    assert written == path.read_bytes() and place[1] == len(written)
    path.write_text('{"step":9}\n')  # cut
    assert [line.step for line in lines.read()] == [9]


def test_damage_is_what_stays_so_while_nobody_writes(run, monkeypatch):
    monkeypatch.setattr(live, "MOMENT", 0)
    tries = []

    def reads(*, written_meanwhile):
        def read():
            tries.append(1)
            if len(tries) <= written_meanwhile:
                (run / METRICS).touch()
            if len(tries) <= 3:
                raise RunError("half of it")
            return "all"

        tries.clear()
        return settled(run, read)

    assert reads(written_meanwhile=3) == "all" and len(tries) == 4
    with pytest.raises(RunError, match="half of it"):
        reads(written_meanwhile=1)
    assert len(tries) == 2


def test_a_run_that_goes_on_has_a_report_and_one_before_its_first_step_says_so(run):
    update_run(run, status="running")
    (run / "summary.json").unlink()
    with lock_run(run):
        assert "Still going: 3 of 3 steps so far" in draw(run, {})
        (run / METRICS).write_text("")
        with pytest.raises(RunError, match="has no recorded step yet"):
            draw(run, {})
