"""The line of a whole sweep: what commands say is read, and the time left, all worked by hand."""

import re
import sys

import pytest

from lsp.loop.progress import Progress
from lsp.tools.heartbeat import Heartbeat
from sweeps.parallel import require_all
from sweeps.progress import (
    Heard,
    Stage,
    Status,
    Told,
    left_words,
    names_of,
    share_of,
    stage_left,
    whole_of_ended,
)


def heard(*lines):
    """(text, seconds after the start) one after the other."""
    found = Heard()
    for text, seconds in lines:
        found = found.line(text, seconds)
    return found


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("step 15/60  2.00 steps/s  22 s left  R 0.500", 0.25),
        ("step 15/60", 0.25),
        ("step 16/60, update: 22 s so far", 0.25),  # which is not done
        ("3/12  3 done, 0 failed, 2 running, 7 waiting", 0.25),  # another launcher's
        ("400/1600 verdicts  3.1/s  6 min 27 s left  $0.04", 0.25),
        ("evaluating the start, 128 of 2064 rows written: 22 s so far", None),
        ("warning: step 3/4 is no share", None),
        ("step 0/0", None),
    ],
)
def test_the_share_that_a_line_tells(text, share):
    assert share_of(text) == share


def test_what_a_run_really_prints_is_read(capsys):
    progress = Progress(num_steps=10, done=0)
    try:
        progress.phase("answers", 3)
        assert share_of(progress.line(2, {"reward/external/mean": 0.5}, 1.0)) == 0.2
        assert share_of(progress.activity()) == 0.2
        assert heard((progress.activity(), 1.0)).words == "step 3/10, answers: 0 s so far"
        assert heard((progress.line(2, {}, 1.0), 1.0)).words == "step 2/10"
    finally:
        progress.close()


def test_of_other_lines_only_a_heartbeat_is_shown():
    with Heartbeat("loading") as heartbeat:
        assert heard((heartbeat.activity(), 9)).words == "loading: 0 s so far"
    assert heard(("run: outputs/x", 1), ("warning: \x1b[2J", 2)).words == "starting"
    assert heard(("\x1b[2J so far", 1)).words == "␛[2J so far"
    assert len(heard((f"{'x' * 500} so far", 1)).words) == 121


def test_a_launcher_in_a_launcher_shows_what_its_own_are_at():
    line = (
        "3/12  3 done, 0 failed, 2 running, 7 waiting  50 s so far, about 2 min 00 s left"
        "  lsp: step 7/60  grpo: step 9/60"
    )
    words = "3/12, 50 s so far, about 2 min 00 s left, lsp: step 7/60, grpo: step 9/60"
    assert heard((line, 50)).words == words
    verdicts = "400/1600 verdicts  3.1/s  6 min 27 s left  $0.04"
    assert heard((verdicts, 50)).words == "400/1600 verdicts, 6 min 27 s left, $0.04"


def test_a_run_by_its_own_pace():
    # Steps 1 to 11 of 41 in 20 s, the first of them 10 s after the start: 80 s for all of it.
    run = heard(("step 1/41", 10.0), ("step 11/41", 30.0))
    assert (run.first, run.last) == (Told(1 / 41, 10.0), Told(11 / 41, 30.0))
    assert run.pace() == pytest.approx(20 / (10 / 41)) and run.pace() == pytest.approx(82)
    assert run.whole() == pytest.approx(92)
    # 30 of 41 steps are left, of 2 s each; 4 s have gone by since the last of them was told.
    assert run.left(34.0, typical=None) == pytest.approx(56)
    assert run.left(500.0, typical=None) == 0
    # That the next one takes its time changes nothing of the pace so far.
    assert run.line("step 12/41, answers: 50 s so far", 80.0).pace() == run.pace()


def test_a_run_that_tells_nothing_is_taken_as_those_before_it():
    assert Heard().left(30.0, typical=100.0) == 70 and Heard().left(30.0, None) is None
    assert heard(("step 1/41", 10.0)).left(30.0, typical=100.0) == 70
    # At its last words (a final evaluation) its pace says nothing any more.
    closing = heard(("step 1/41", 10.0), ("step 41/41", 90.0))
    assert closing.left(95.0, typical=100.0) == 5 and closing.left(95.0, None) is None


def test_what_an_ended_run_says_of_others():
    # From its 31st of 60 steps on in 60 s, after 5 s of loading: from the first it had been 125.
    resumed = heard(("step 31/60, queries: 50 s so far", 5.0))
    assert resumed.first == Told(0.5, 5.0)
    assert whole_of_ended(resumed, 65.0) == 125
    assert whole_of_ended(Heard(), 65.0) == 65
    assert whole_of_ended(heard(("the run x is finished (60 steps); nothing to do", 2)), 2) is None


@pytest.mark.parametrize(
    ("running", "waiting", "typical", "workers", "left"),
    [
        ([], 0, None, 2, 0.0),
        ([None], 0, None, 1, None),
        ([30.0], 1, None, 1, None),
        ([30.0, 50.0], 0, None, 2, 50.0),
        ([30.0, 50.0], 3, 100.0, 2, 230.0),  # 30+100=130, 50+100=150, 130+100=230
        ([30.0], 1, 100.0, 2, 100.0),  # a place is free
        ([None], 1, 100.0, 1, 150.0),  # half of one, and one
    ],
)
def test_the_time_left_of_a_stage(running, waiting, typical, workers, left):
    assert stage_left(running, waiting, typical, workers) == left


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([(None, 3)], "time left unknown yet"),
        ([(None, 1), (60.0, 4)], "time left unknown yet"),
        ([(65.0, 3)], "about 1 min 05 s left"),
        ([(0.4, 1)], "about to end"),
        ([(65.0, 3), (None, 60)], "about 1 min 05 s left and 60 more of unknown time"),
        ([(65.0, 3), (None, 60), (5.0, 2)], "about 1 min 10 s left and 60 more of unknown time"),
    ],
)
def test_the_words_of_the_time_left(stages, words):
    assert left_words(stages) == words


def test_names_are_where_commands_write_below_what_they_share():
    runs = [["run.py", "seed=0", f"run_dir=out/base-{b}/lsp"] for b in (0, 1)]
    assert names_of(runs) == ["base-0/lsp", "base-1/lsp"]
    assert names_of(runs[:1]) == ["lsp"]
    assert names_of([["-m", "sweeps.paper", "figure=2"]]) == ["-m sweeps.paper figure=2"]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: now[0])
    return now


def test_bases_that_are_schooled_first_count_and_their_time_is_not_that_of_runs(clock, capsys):
    base = ["-m", "lsp.pocket.pretrain", "out=b/model"]
    runs = [["run.py", f"run_dir=r/{name}"] for name in ("one", "two", "three")]
    status = Status([Stage([base], 2), Stage(runs, 2)])
    status.enter(0)
    status.begin(0)
    assert status.line() == (
        "0/4  0 done, 0 failed, 1 running, 3 waiting  0 s so far, time left unknown yet"
        "  model: starting"
    )
    status.hear(0, ["step 1/100"])
    clock[0] = 50
    status.hear(0, ["step 51/100  loss 0.1"])
    # 50 steps in 50 s, and 49 are left.
    assert status.line().endswith(
        "50 s so far, about 49 s left and 3 more of unknown time  model: step 51/100"
    )
    clock[0] = 100
    status.end(0, "")
    assert status.line().endswith("1 min 40 s so far, time left unknown yet")
    status.enter(1)
    status.begin(0)
    status.begin(1)
    clock[0] = 140
    status.end(0, "FAILED")  # says nothing of how long a run takes
    assert "1 done, 1 failed, 1 running, 1 waiting  2 min 20 s so far, time left unknown" in (
        status.line()
    )
    status.begin(2)
    clock[0] = 160
    status.end(1, "")
    # The second took 60 s, and the third, which says nothing, began 20 s ago.
    assert status.line() == (
        "3/4  2 done, 1 failed, 1 running, 0 waiting  2 min 40 s so far, about 40 s left"
        "  three: starting"
    )
    said = capsys.readouterr().err
    assert "FAILED  run.py run_dir=r/one\n2/4  1 done, 1 failed," in said
    assert said.replace("\n", "").isprintable()


def test_a_log_gets_the_line_each_thirty_seconds_and_a_terminal_one_that_is_redrawn(
    clock, capsys, monkeypatch
):
    stages = [Stage([["run.py", "run_dir=x"]], 1)]
    status = Status(stages)
    for clock[0] in (0, 1, 29, 30, 31, 61):
        status.show()
    assert len(capsys.readouterr().err.splitlines()) == 3  # at 0, 30 and 61
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    status = Status(stages)
    status.show()
    status.note("hello")
    status.close()
    said = capsys.readouterr().err
    assert said == f"\r\033[K{status.line()[:39]}\r\033[Khello\n\r\033[K"


SHORT = ["num_queries=2", "group_size=2", "eval=none", "tracker=none", "objective=null"]


@pytest.mark.slow
def test_the_smallest_sweep_says_what_its_runs_are_at(tmp_path, capfd):
    """A base that is schooled first, then two runs, one of which had been made already."""
    school = ["-m", "lsp.pocket.pretrain", "steps=2", "batch=2", f"out={tmp_path / 'base'}"]
    runs = [["run.py", "method=lsp_zero", "num_steps=2", f"seed={seed}", *SHORT, "resume=auto",
             f"run_dir={tmp_path / f'run-{seed}'}"] for seed in (0, 1)]  # fmt: skip
    require_all(Stage(runs[:1], 1))
    capfd.readouterr()
    require_all(Stage([school], 2), Stage(runs, 2))
    lines = capfd.readouterr().err.splitlines()
    counted = [line for line in lines if re.match(r"\d/3  ", line)]
    assert counted[0].startswith("0/3  0 done, 0 failed, 1 running, 2 waiting  0 s so far")
    assert counted[0].endswith("time left unknown yet  base: starting")
    assert any("1 done, 0 failed, 2 running, 0 waiting" in line for line in counted)
    assert counted[-1].startswith("3/3  3 done, 0 failed, 0 running, 0 waiting")
    assert counted[-1].endswith(" in all")
    assert [line.split("  ")[0] for line in lines if line not in counted] == ["done"] * 3
