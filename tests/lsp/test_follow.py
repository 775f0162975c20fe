"""``lsp show RUN --follow``: each step of a run in the terminal, as the run writes it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lsp import show
from lsp.errors import RunError
from lsp.run.folder import lock_run, note_phase, update_run
from lsp.show import main
from lsp.tools.places import ROOT
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import METRICS, read_trace
from tests.ctrl_c import hear_ctrl_c


def follower(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "lsp", "show", str(folder), "--follow"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "90"}, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def steps_of(text):
    return [int(number) for number in re.findall(r"(?m)^step (\d+)/", text)]


def test_every_step_is_shown_as_it_comes_until_the_run_ends_and_ctrl_c_ends_the_look_alone(
    gated_run,
):
    run = gated_run(steps=6)
    run.played(1)
    process, other = follower(run.folder), follower(run.folder)
    for each in (process, other):  # while step 2 waits for its reward
        assert each.stdout.readline().startswith("step 1/6  R ")
    other.send_signal(signal.SIGINT)
    assert other.communicate()[1] == f"interrupted; {run.folder} was looked at, no more\n"
    assert other.returncode == 130
    run.may(6)
    out, err = process.communicate()
    assert process.returncode == 0 and err == ""
    assert steps_of(out) == [2, 3, 4, 5, 6]
    assert out.count("  ? ") >= 6 and out.count("    best ") == out.count("  ? ")
    assert out.splitlines()[-1].startswith("Finished: 6 steps in ")


def test_a_finished_run_is_its_last_step(small_run, capsys):
    main([str(small_run[0]), "follow=true"])
    out = capsys.readouterr().out
    assert steps_of(out) == [3] and out.splitlines()[-1].startswith("Finished: 3 steps in ")


@pytest.fixture
def going(small_run, tmp_path, monkeypatch):
    """``going(event, …)``: a run of three steps that goes on: each time that somebody who follows
    it waits, the next event happens; with the last its process ends."""
    folder = Path(shutil.copytree(small_run[0], tmp_path / "run"))
    (folder / "summary.json").unlink()
    update_run(folder, status="running")
    lock = lock_run(folder)
    tracker, like = LocalTracker(folder), read_trace(folder, [3])[0]
    seconds = [0.0]

    def step(number, query="copy a"):
        rows = [like | {"step": number, "query": query, "answer": query}]
        tracker.log(number, {"reward/external/mean": number / 10}, rows)

    def end(status="interrupted"):
        update_run(folder, status=status, reason="SIGTERM")
        lock.close()

    def prepared(*events):
        waiting = iter([*events, end])

        def sleep(asked):
            seconds[0] += asked
            next(waiting)()

        clock = SimpleNamespace(sleep=sleep, monotonic=lambda: seconds[0])
        monkeypatch.setattr(show, "time", clock)
        return folder

    def passes(more):
        seconds[0] += more

    prepared.step, prepared.lock, prepared.passes, prepared.end = step, lock, passes, end
    return prepared


def test_half_a_line_is_waited_for_and_steps_of_one_moment_are_all_shown(going, capsys):
    line = json.dumps({"step": 4, "reward/external/mean": 0.4})
    metrics = going().joinpath(METRICS)

    def half():
        with metrics.open("a") as stream:
            stream.write(line[:20])

    def rest_and_two_more():
        with metrics.open("a") as stream:
            stream.write(line[20:] + "\n")
        going.step(5)
        going.step(6)

    folder = going(half, rest_and_two_more)
    main([str(folder), "follow=true"])
    out = capsys.readouterr().out
    assert steps_of(out) == [3, 4, 5, 6]
    assert "step 5/3  R 0.500\n  ? copy a " in out
    assert out.splitlines()[-1].startswith("Interrupted after step 6 of 3 (SIGTERM); go on with: ")


def test_what_a_run_that_goes_on_plays_again_is_shown_again(going, capsys):
    folder = going()

    def taken_back():
        lines = (folder / METRICS).read_text().splitlines(keepends=True)
        new = folder / "new"
        new.write_text("".join(line for line in lines if json.loads(line)["step"] < 3))
        new.replace(folder / METRICS)
        (folder / "trace" / "step-000003.parquet").unlink()

    def played_again():
        with (folder / METRICS).open("a") as stream:
            for step in (3, 4):
                stream.write(json.dumps({"step": step, "reward/external/mean": 0.9}) + "\n")

    going(taken_back, played_again)
    main([str(folder), "follow=true"])
    assert steps_of(capsys.readouterr().out) == [3, 3, 4]


def test_a_long_silence_says_what_the_run_does(going, capsys):
    note_phase(going.lock, "step 4/3, update")
    folder = going(lambda: going.passes(49), lambda: going.passes(49), lambda: going.step(4))
    main([str(folder), "follow=true"])
    said = capsys.readouterr()
    assert re.fullmatch(r"step 4/3, update: \d+ s so far\n", said.err)
    assert steps_of(said.out) == [3, 4]


def test_one_line_a_text_whatever_it_holds(going, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    folder = going(lambda: going.step(4, "\x1b[2J\u202eone\ntwo" + "x" * 10**5))
    main([str(folder), "follow=true", "filter=TWO"])
    out = capsys.readouterr().out
    assert "  ? ␛[2J⟦U+202E⟧one⏎tw" in out and "\x1b" not in out and "\u202e" not in out
    shown = out[out.index("step 4/") :].splitlines()
    assert max(map(len, shown[:3])) <= 60


def test_a_run_whose_folder_goes_away_and_a_step_beside_follow(going, small_run):
    folder = going(lambda: going().rename(going().with_name("moved")))
    with pytest.raises(RunError, match="run is gone: it was moved or removed"):
        main([str(folder), "follow=true"])
    with pytest.raises(RunError, match="step=2 is one step, and follow=true shows those that come"):
        main([str(small_run[0]), "follow=true", "step=2"])


def test_a_killed_run_says_so(going, capsys):
    folder = going()
    going.end("running")
    main([str(folder), "follow=true"])
    assert "Killed after step 3 of 3 (its process is gone)" in capsys.readouterr().out
