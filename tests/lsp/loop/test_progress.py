"""What a run says while it goes, on a terminal and in a log."""

import importlib
import io
import sys
import threading
import time

import pytest

from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.loop.progress import Progress
from lsp.model.probability import completion_logprobs
from lsp.players import Players
from lsp.pocket.evaluation import PocketEvaluator
from lsp.pocket.verifier import PocketVerifier
from lsp.settings.phases import STEP_PHASES
from lsp.tools.heartbeat import at
from lsp.tracking.trackers import Trackers
from lsp.types import DrawKey

METRICS = {
    "reward/external/mean": 0.5,
    "quality/mean": 6.25,
    "reward/solver/mean": 2.375,
    "reward/challenger/mean": -0.5,
    "kl/solver/k2": 0.0123,
    "rollout/distinct_query_frac": 0.75,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def progress():
    made = Progress(num_steps=10, done=0)
    yield made
    made.close()


@pytest.fixture
def on_a_terminal(monkeypatch):
    """(a terminal 60 columns wide, a run's progress on it), made in the test: pytest gives each
    phase of one a stderr of its own."""
    made = []

    def make():
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setattr(sys, "stderr", Terminal())
        made.append(Progress(num_steps=2, done=0))
        return sys.stderr, made[0]

    yield make
    made[0].close()


def went_on(progress, seconds):
    """As if what is being done had begun so much earlier."""
    words, began = progress._doing
    progress._doing = words, began - seconds


def test_the_line_says_rate_time_left_rewards_kl_and_distinct(progress):
    # Four steps in two seconds since the first: 2 a second; five are left.
    assert progress.line(5, METRICS, 2.0) == (
        "step 5/10  2.00 steps/s  2 s left  R 0.500  R_Q 6.25  Solver 2.375  Challenger -0.500"
        "  KL 0.0123  distinct 0.750"
    )
    assert progress.line(1, {}, 0.0) == "step 1/10"


def test_a_slow_step_is_told_by_its_seconds(progress):
    # One step in forty seconds since the first; eight are left.
    assert progress.line(2, {}, 40.0) == "step 2/10  40.0 s a step  5 min 20 s left"


def test_a_step_that_taught_nothing_says_why_and_the_first_of_a_run_has_its_line(progress, capsys):
    why = "nothing played: 100% illegal"
    for step, idle in enumerate(["", "", why, why, "", why], 1):
        progress.idle = idle
        progress.step(step, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/10", "step 3/10"]
    assert [why in line for line in lines] == [False, True] and why in progress.newest


def test_a_log_gets_a_line_now_and_then_and_the_last_as_plain_text(progress, capsys):
    progress.note("evaluating the start")
    for step in range(1, 11):
        progress.phase("queries", step)
        progress.step(step, METRICS)
    written = capsys.readouterr().err
    assert [line.split()[1] for line in written.splitlines()] == ["the", "1/10", "10/10"]
    assert written.replace("\n", "").isprintable()


def test_a_terminal_gets_one_live_line_and_notes_stay(on_a_terminal):
    stream, progress = on_a_terminal()
    progress.phase("queries", 1)
    progress.step(1, METRICS)
    progress.note("hello")
    live, note = stream.getvalue().split("\r\033[K")[-2:]
    assert live.startswith("step 1/2  R 0.500") and len(live) == 59 and note == "hello\n"
    progress.step(2, METRICS)
    progress.note("evaluating on the test split")
    last, after = stream.getvalue().split("\n")[-3:-1]
    assert last.startswith("\r\033[Kstep 2/2  ") and last.endswith("distinct 0.750")
    assert after == "evaluating on the test split"


def test_the_live_line_says_what_takes_seconds_with_a_growing_time(on_a_terminal):
    stream, progress = on_a_terminal()
    progress.step(1, METRICS)
    progress.phase("answers", 2)
    went_on(progress, 65)
    deadline = time.monotonic() + 600
    while "\r\033[Kstep 2/2, answers: 1 min 0" not in stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    newest = stream.getvalue().split("\r\033[K")[-1]
    assert "s so far  step 1/2  R 0.500" in newest and len(newest) == 59


def test_silence_is_broken_by_the_phase_and_its_time(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "SILENT_SECONDS", 0.05)
    progress = Progress(10, 0)
    seen, deadline = "", time.monotonic() + 600

    def wait_for(text):
        nonlocal seen
        while text not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
            seen += capsys.readouterr().err

    wait_for("loading: 0 s so far\n")
    progress.phase("reward", 3)
    went_on(progress, 120)  # from heartbeat to heartbeat
    wait_for("step 3/10, reward: 2 min 00 s so far\n")
    wait_for("step 3/10, reward: 2 min 01 s so far\n")
    progress.close()
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


WORK = {
    "loading": ("lsp.players", "load_players"),
    "evaluation": (PocketEvaluator, "metrics"),
    "queries": (Players, "step_queries"),
    "answers": (Players, "answers"),
    "reward": (PocketVerifier, "__call__"),
    "quality": (Players, "qualities"),
    "update": (Learner, "update"),
    "saving": ("lsp.loop.recorder", "save_checkpoint"),
    "finishing the record": (Trackers, "finish"),
    "writing the report": ("lsp.report.curves", "save_curves"),
}
"""Phase -> what is at work in it."""
TEST = "evaluating on the test split"


def test_whatever_a_run_is_at_a_heartbeat_names_it_with_its_whole_time(
    small, tmp_path, monkeypatch, without_pictures
):
    """Each piece of work takes two minutes and a half on a clock of the test's, and a heartbeat
    comes each minute: the second time goes on from the first."""
    now, beats, made = [1000.0], [], []
    monkeypatch.setattr("lsp.loop.progress.time.monotonic", lambda: now[0])

    def kept(progress, *arguments):
        made.append(progress)
        began(progress, *arguments)

    began = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", kept)

    def slow(work):
        def worked(*arguments, **more):
            for _ in range(2):
                now[0] += 60
                beats.append(made[0].activity())
            now[0] += 30
            return work(*arguments, **more)

        return worked

    for owner, name in WORK.values():
        place = importlib.import_module(owner) if isinstance(owner, str) else owner
        monkeypatch.setattr(place, name, slow(getattr(place, name)))
    start([*small, "num_steps=1", "tracker=none", "objective=null", "eval.every=1", "method=lsp",
           f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    phases = ["loading, the models", "evaluating the start"]
    phases += [f"step 1/1, {name}" for name in (*STEP_PHASES, "evaluation", "saving")]
    phases += [f"{TEST}, 1 of 2: the base", f"{TEST}, 2 of 2: the trained model"]
    phases += ["finishing the record", "writing the report"]
    said = [f"{phase}: {minutes} min 00 s so far" for phase in phases for minutes in (1, 2)]
    assert beats == said


def test_what_is_at_work_tells_how_far_it_is(progress):
    progress.phase("answers", 3)
    went_on(progress, 60)
    at("128 of 256 rows written")
    assert progress.activity() == ("step 3/10, answers, 128 of 256 rows written: 1 min 00 s so far")
    ahead = threading.Thread(target=at, args=("of the step after this one",))
    ahead.start()
    ahead.join()
    assert "128 of 256" in progress.activity()
    progress.phase("update", 3)
    assert progress.activity() == "step 3/10, update: 0 s so far"


def test_the_engine_and_the_scoring_count_their_rows(players, monkeypatch):
    said = []
    monkeypatch.setattr("lsp.rollout.in_process.at", said.append)
    monkeypatch.setattr("lsp.model.probability.at", said.append)
    prompts = players.chat.encode([[("user", "sort cba")]])
    players.engine.max_rows = 2
    players.engine.generate(players.policy, prompts, 3, 2, 1.0, DrawKey(0, 0, "solver"))
    # No two rows fit into a token: each is a pass of its own.
    completion_logprobs(players.policy, prompts * 2, [(7,), (8,)], 1)
    assert said == [
        *("0 of 3 rows written", "2 of 3 rows written"),
        *("0 of 2 rows scored", "1 of 2 rows scored"),
    ]
