"""How runs end: whatever the way out, run.json says how and why, and nothing else is touched."""

import json
import os
import re
import shutil
import signal

import pytest

from lsp.errors import Interrupted, RunError
from lsp.loop.launch import start
from lsp.loop.outcome import outcome_of
from lsp.loop.progress import Progress
from lsp.loop.signals import StopRequests
from lsp.report.record import read_record
from lsp.run.folder import outcome, read_run

pytestmark = pytest.mark.usefixtures("without_pictures")
SHORT = ["num_steps=3", "num_queries=2", "group_size=2", "eval=none", "tracker=none",
         "optim.role_gradients_every=0"]  # fmt: skip


@pytest.fixture
def at_step(monkeypatch):
    """``at_step(2, action)``: something happens after the line of a run's second step."""

    def set_up(wanted, action):
        shown = Progress.step

        def step(progress, step, metrics):
            shown(progress, step, metrics)
            if step == wanted:
                action()

        monkeypatch.setattr(Progress, "step", step)

    return set_up


def ends(folder):
    run = read_run(folder)
    return run["status"], run["reason"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_is_the_reason(tmp_path, at_step, number):
    at_step(2, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=rf"stopped after step 2 \({number.name}\)"):
        start([*SHORT, f"run_dir={tmp_path / 'run'}"])
    assert ends(tmp_path / "run") == ("interrupted", number.name)


def test_a_second_ctrl_c_is_an_end_too(tmp_path, at_step):
    at_step(2, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt, match="go on with: python run.py resume="):
        start([*SHORT, f"run_dir={tmp_path / 'run'}"])
    status, reason = ends(tmp_path / "run")
    assert status == "interrupted" and reason == "SIGINT, which did not wait for the step's end"


def test_an_alarm_stops_and_is_named(tmp_path):
    limits = ["collapse.window=1", "collapse.min_distinct_query_frac=1", "on_collapse=stop"]
    with pytest.raises(Interrupted, match="on_collapse=stop: "):
        start([*SHORT, "num_steps=40", "num_queries=8", *limits, f"run_dir={tmp_path / 'run'}"])
    status, reason = ends(tmp_path / "run")
    assert status == "stopped" and reason.startswith("on_collapse=stop: ")
    assert read_record(tmp_path / "run").state.startswith("Stopped after step ")


def test_an_error_that_nobody_foresaw_is_recorded_with_its_place_and_passes_on(tmp_path, at_step):
    at_step(2, lambda: {}["no such key"])
    with pytest.raises(KeyError) as raised:
        start([*SHORT, f"run_dir={tmp_path / 'run'}"])
    status, reason = ends(tmp_path / "run")
    assert status == "failed"
    assert re.fullmatch(r"KeyError: 'no such key' \(lsp/loop/recorder.py, line \d+\)", reason)
    assert "go on with: python run.py resume=" in raised.value.__notes__[0]
    assert read_record(tmp_path / "run").state.startswith("Failed after step 2 of 3 (KeyError")


def test_reasons_hold_no_secret_and_no_control_characters(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "s3cr3t-s3cr3t")
    said = outcome_of(ValueError("key s3cr3t-s3cr3t\n\x1b[2J" + "x" * 900), StopRequests())[1]
    assert "s3cr3t" not in said and "\x1b" not in said and "\n" not in said and len(said) < 600


def test_what_is_found_without_a_word_was_killed(small_run, tmp_path):
    run = read_run(small_run[0])
    for status in ("starting", "running"):
        assert outcome(tmp_path, {**run, "status": status}) == ("killed", "its process is gone")


def test_a_run_that_was_killed_in_its_closing_completes_it(small_run, tmp_path):
    """Finished is said last: after summary, curves, report and trackers."""
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "status": "running"}))
    (folder / "summary.json").unlink()
    start([f"resume={folder}"])
    assert ends(folder) == ("finished", "") and (folder / "summary.json").is_file()


@pytest.fixture
def refused_while_loading(monkeypatch):
    def refuse(*arguments):
        raise ValueError("no such model")

    monkeypatch.setattr("lsp.players.load_players", refuse)


def test_a_start_that_fails_takes_away_what_it_made_alone(tmp_path, refused_while_loading):
    with pytest.raises(RunError, match="^no such model$"):
        start([*SHORT, f"run_dir={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="^no such model$"):
        start([*SHORT, f"run_dir={tmp_path / 'mine'}"])
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="^no such model$"):
        start([*SHORT, f"run_dir={tmp_path / 'link'}"])
    assert (tmp_path / "link").is_symlink() and list((tmp_path / "mine").iterdir()) == []


def test_a_note_beside_a_start_that_was_killed_stays(tmp_path, refused_while_loading):
    """The folder is taken over, and what a user put there is not this program's to remove."""
    folder = tmp_path / "run"
    folder.mkdir()
    entries = {"id": "x", "status": "starting", "method": "lsp", "model": "pocket", "base": "b",
               "started": 0.0, "init": {"source": "pocket", "run_id": None, "method": None,
                                        "text": "base"}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(entries))
    (folder / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="^no such model$"):
        start([*SHORT, f"run_dir={folder}"])
    assert [path.name for path in folder.iterdir()] == ["note.txt"]


def test_a_resume_that_cannot_load_is_recorded(interrupted_run, tmp_path, refused_while_loading):
    folder = shutil.copytree(interrupted_run[0], tmp_path / "run")
    with pytest.raises(RunError, match="^no such model$"):
        start([f"resume={folder}"])
    status, reason = ends(folder)
    assert status == "failed" and reason.startswith("ValueError: no such model")


FIRST = [*SHORT, "method=lsp", "init=grpo", "resume=auto", "checkpoint.every=1"]


@pytest.mark.slow
def test_the_earlier_run_is_gone_on_with_however_often_it_is_stopped(tmp_path, monkeypatch):
    shown, stopped = Progress.step, []

    def step(progress, step, metrics):
        shown(progress, step, metrics)
        if len(stopped) < 3 and step not in stopped:
            stopped.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "step", step)
    command = [*FIRST, "num_steps=4", f"runs_root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    for last in (1, 2, 3):
        with pytest.raises(Interrupted, match=rf"stopped after step {last} \(SIGTERM\)"):
            start(command)
    assert start(command)["init"].startswith("run grpo-")
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert len(folders) == 2 and folders[0].startswith("grpo-s0-") and folders[1] == "run"


def test_a_request_to_stop_in_the_first_stage_closing_keeps_the_second_from_beginning(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "lsp.loop.finish.print_closing", lambda *arguments: signal.raise_signal(signal.SIGTERM)
    )
    command = [*FIRST, f"runs_root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(
        Interrupted, match=r"asked to stop \(SIGTERM\).*which is finished; the same"
    ):
        start(command)
    (earlier,) = tmp_path.iterdir()
    assert ends(earlier) == ("finished", "")


def test_a_damaged_neighbour_blocks_nobody(tmp_path, capsys):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    start([*FIRST, f"runs_root={tmp_path}", f"run_dir={tmp_path / 'run'}"])
    assert f"note: passed over: {tmp_path / 'damaged'} is no run folder" in capsys.readouterr().err


def test_other_conditions_are_said_and_kept(interrupted_run, tmp_path, capsys):
    folder = shutil.copytree(interrupted_run[0], tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    before = {**run["conditions"], "threads": 64}
    (folder / "run.json").write_text(json.dumps({**run, "conditions": before}))
    start([f"resume={folder}"])
    now = read_run(folder)["conditions"]["threads"]
    said = capsys.readouterr()
    assert f"goes on under other conditions (threads 64 → {now})" in said.err
    changed = {"step": 2, "changed": {"threads": [64, now]}}
    assert read_run(folder)["other_conditions"] == [changed]
    assert "resumed at step 2, after it was interrupted (SIGTERM)" in said.out


def test_a_third_ctrl_c_cuts_the_closing_words_and_not_the_outcome(tmp_path, at_step, monkeypatch):
    """What ended the run stands in run.json before trackers and report have their time."""
    at_step(2, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("lsp.tracking.trackers.Trackers.finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start([*SHORT, f"run_dir={tmp_path / 'run'}"])
    assert ends(tmp_path / "run")[0] == "interrupted"


def test_a_signal_before_anything_is_loaded_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lsp.loop.launch.announce", lambda *arguments: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        start([*SHORT, f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_a_lock_that_is_none_is_one_message(small_run, tmp_path, put):
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    (folder / ".lock").unlink()
    put(folder / ".lock")
    with pytest.raises(RunError, match=r"\.lock cannot be used: .*; remove it"):
        start([f"resume={folder}", "num_steps=4"])
