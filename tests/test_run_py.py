"""``python run.py`` as a user meets it: real processes."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lsp.tracking.reader import read_trace, trace_steps

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def run_py(*overrides, **more):
    return subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        **more,
    )


def test_errors_are_plain_text_and_exit_with_1():
    result = run_py("method=lps", "num_generations=4")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: 2 problems in the settings\n")
    assert "Traceback" not in result.stderr


def test_a_run_ends_with_table_plays_and_places(small, tmp_path):
    folder = tmp_path / "run"
    result = run_py(*small, f"run_dir={folder}", "tracker=none")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: off (tracker=none)")
    for word in ("exact accuracy", "greedy accuracy", "length 8", "reverse", "wins",
                 "valid queries", "three plays of the last step", str(folder)):  # fmt: skip
        assert word in result.stdout
    assert "step 3/3" in result.stderr and "Traceback" not in result.stderr


def test_auto_tracking_says_which_mode_and_keeps_wandb_in_the_run(small, tmp_path):
    folder = tmp_path / "run"
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    result = subprocess.run(
        [sys.executable, "run.py", *small, f"run_dir={folder}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: offline (no key was found), project language-self-play")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    run_id = json.loads((folder / "run.json").read_text())["id"]
    assert offline.name.endswith(run_id)


def test_a_multirun_runs_each_job(small, tmp_path):
    result = run_py(
        "-m", "seed=0,1", *small, "tracker=none", f"runs_root={tmp_path}", "checkpoint.every=0"
    )
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("lsp-s*/summary.json"))) == 2
    bad = run_py("-m", "seed=0,1", "num_generations=4")
    assert bad.returncode == 1 and "write group_size=4" in bad.stderr


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM]]
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(small, tmp_path, signals):
    """Also where who stops it sends several."""
    folder = tmp_path / "run"
    overrides = [*small, f"run_dir={folder}", "tracker=none", "num_steps=500", "eval.every=0"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_steps(folder, 3)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"go on with: python run.py resume={folder}" in stderr and "Traceback" not in stderr
    steps = trace_steps(folder)
    assert steps == list(range(1, len(steps) + 1))
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], run["step"]) == ("interrupted", steps[-1])


def wait_for_steps(folder, count):
    deadline = time.monotonic() + 60
    while len(list((folder / "trace").glob("step-*.parquet"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


KILLED = """
import os, signal, sys
import lsp.run.checkpoint, lsp.loop.recorder, lsp.tracking.local
from lsp.loop.launch import start

def die(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def dying_at(module, name, says):
    real = getattr(module, name)
    def wrapped(*arguments, **more):
        if says(*arguments, **more):
            die()
        return real(*arguments, **more)
    return wrapped

class Os:
    # os, but for ``replace``, which a module calls to put a file or folder into place
    def __init__(self, says):
        self.replace = dying_at(os, "replace", says)
    def __getattr__(self, name):
        return getattr(os, name)

where = sys.argv[1]
if where == "shard":
    lsp.tracking.local.os = Os(lambda a, b: str(b).endswith("step-000005.parquet"))
elif where == "checkpoint":
    lsp.run.checkpoint.os = Os(lambda a, b: str(b).endswith("step-000006"))
else:
    real = lsp.loop.recorder.update_run
    lsp.loop.recorder.update_run = dying_at(lsp.loop.recorder, "update_run", lambda f, **v: v.get("step") == 6)
start(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Overrides of nine steps with a checkpoint every three, and the rows of such a run."""
    shape = ["num_queries=4", "group_size=3", "eval=none", "tracker=none", "num_steps=9",
             "checkpoint.every=3"]  # fmt: skip
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run_py(*shape, f"run_dir={folder}").returncode == 0
    return shape, rows_of(folder)


def rows_of(folder):
    return [{**row, "run_id": ""} for row in read_trace(folder)]


@pytest.mark.parametrize(("where", "step"), [("shard", 3), ("checkpoint", 3), ("after", 6)])
def test_killed_in_the_middle_of_writing_nothing_is_lost(uninterrupted, tmp_path, where, step):
    """Kill -9 inside a shard's and a checkpoint's writing, and just after the checkpoint."""
    shape, expected = uninterrupted
    folder = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, *shape, f"run_dir={folder}"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    rows_of(folder)  # every shard that is there can be read
    resumed = run_py(f"resume={folder}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {step}" in resumed.stdout
    assert rows_of(folder) == expected


def test_a_failing_job_of_a_multirun_does_not_stop_the_others(tmp_path):
    result = run_py("-m", "seed=0,-1,1", "num_steps=1", "eval=none", "tracker=none",
                    f"runs_root={tmp_path}")  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: job seed=-1" in result.stderr and "error: 1 jobs failed" in result.stderr
    assert len(list(tmp_path.glob("lsp-s*/summary.json"))) == 2


def test_a_multirun_of_several_processes_is_refused():
    result = subprocess.run(
        [sys.executable, "run.py", "-m", "seed=0,1"],
        cwd=ROOT, env={**ENVIRONMENT, "WORLD_SIZE": "2"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1 and "torchrun starts one run at a time" in result.stderr


def test_a_full_disk_is_one_clear_message_and_loses_nothing(small, tmp_path):
    """A file-size limit stands in for the full disk: writing fails with an OSError."""
    folder = tmp_path / "run"

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    result = run_py(*small, f"run_dir={folder}", "tracker=none", preexec_fn=small_files)
    assert result.returncode == 1
    assert "error: the run could not be written" in result.stderr
    assert f"go on with resume={folder}" in result.stderr and "Traceback" not in result.stderr
    assert trace_steps(folder) == [1, 2]
    resumed = run_py(f"resume={folder}")
    assert resumed.returncode == 0, resumed.stderr


def test_the_slurm_launcher_composes_and_its_local_twin_runs(tmp_path):
    """No Slurm here: the config is printed with it, and jobs run through submitit's local
    executor, which differs by the queue alone."""
    shown = run_py("--cfg", "hydra", "hydra/launcher=slurm")
    assert shown.returncode == 0, shown.stderr
    assert "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher" in shown.stdout
    assert "signal_delay_s: 120" in shown.stdout
    result = run_py(
        "-m", "hydra/launcher=submitit_local", "seed=0,1", "num_steps=2", "tracker=none",
        f"runs_root={tmp_path}", "eval=none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("lsp-s*/summary.json"))) == 2


def test_a_job_that_submitit_asks_to_stop_gets_another_turn(tmp_path):
    """Its local executor starts a job again that asks for it, as Slurm's queue does."""
    folder = tmp_path / "run"
    command = [
        sys.executable, "run.py", "-m", "hydra/launcher=submitit_local", f"run_dir={folder}",
        "resume=auto", "num_steps=100", "num_queries=4", "group_size=2", "eval=none",
        "tracker=none", f"hydra.sweep.dir={tmp_path}/sweep",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    while len(trace_steps(folder)) < 2:
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    job = ["pkill", "-USR2", "-f", "--", f"submitit.core._submit {tmp_path}"]
    assert subprocess.run(job).returncode == 0
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert trace_steps(folder) == list(range(1, 101))
    (log,) = tmp_path.glob("sweep/.submitit/*/*_log.out")
    said = log.read_text()
    assert "SIGUSR2" in said + log.with_suffix(".err").read_text() and "resumed at step" in said


def test_two_starts_of_one_folder_leave_one_whole_run(tmp_path):
    """A queue that starts a job twice: one is refused, and nothing of the other is touched."""
    folder = tmp_path / "run"
    command = [sys.executable, "run.py", f"run_dir={folder}", "resume=auto", "num_steps=120",
               "num_queries=4", "group_size=2", "eval=none", "tracker=none"]  # fmt: skip
    settings = {"cwd": ROOT, "env": ENVIRONMENT, "stdout": subprocess.DEVNULL,
                "stderr": subprocess.PIPE, "text": True}  # fmt: skip
    both = [subprocess.Popen(command, **settings) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    refused = next(text for text, p in zip(said, both, strict=True) if p.returncode)
    assert "another process is writing" in refused and "Traceback" not in refused
    assert trace_steps(folder) == list(range(1, 121))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_a_query_and_its_answer_that_may_exceed_the_context_are_refused_at_the_start(tmp_path):
    result = run_py("rollout.max_query_tokens=110", "rollout.max_new_tokens=90", "tracker=none",
                    f"run_dir={tmp_path / 'run'}")  # fmt: skip
    assert result.returncode == 1 and not (tmp_path / "run").exists()
    assert "the Solver may need" in result.stderr and "lower rollout.max_query" in result.stderr
