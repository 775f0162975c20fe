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

from lsp import train_command
from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.tracking.reader import read_trace, trace_steps

pytestmark = pytest.mark.usefixtures("without_pictures")
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
PATIENCE = 900
"""Seconds until a process counts as hanging."""
# Made up; none of them opens anything.
PLANTED = {
    "WANDB_API_KEY": ("zzTop" + "SecretValue123") * 3,
    "SOME_TOKEN": "hf_" + "abcdefghijKLMNOP1234",
    "OPENAI_API_KEY": "sk-proj-" + "abcDEF0123456789abcDEF",
}
IN_A_FILE = "ghp_" + "abcdefghij0123456789KLMNOPqrst"


def run_py(*overrides, environment=ENVIRONMENT, **more):
    return subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **more,
    )


def test_errors_are_plain_text_and_exit_with_1():
    result = run_py("method=lps", "num_generations=4")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: 2 problems in the settings\n")
    assert "Traceback" not in result.stderr


def test_a_run_ends_with_table_plays_and_places_and_has_no_planted_key(tmp_path):
    """Of a run by W&B offline, with keys in its environment and in a file beside the code that git
    does not track; its whole folder is read, W&B's files too."""
    folder, note = tmp_path / "run", ROOT / f"untracked-note-{os.getpid()}.txt"
    note.write_text(IN_A_FILE)
    try:
        result = run_py(
            "num_steps=3", "num_queries=4", "group_size=3", "eval.dev_per_cell=2",
            "eval.test_per_cell=2", "eval.challenger_samples=8", f"run_dir={folder}",
            environment={**ENVIRONMENT, **PLANTED},
        )  # fmt: skip
    finally:
        note.unlink()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: offline (WANDB_MODE), project language-self-play\n")
    for word in ("exact accuracy", "greedy accuracy", "length 8", "reverse", "wins",
                 "legal queries", "three plays of the last step", str(folder)):  # fmt: skip
        assert word in result.stdout
    assert "step 3/3" in result.stderr and "Traceback" not in result.stderr
    assert note.name in json.loads((folder / "run.json").read_text())["git_untracked"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for secret in (*PLANTED.values(), IN_A_FILE):
        assert secret not in result.stdout + result.stderr
        for path in files:
            assert secret.encode() not in path.read_bytes(), path.relative_to(folder)


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    """Also where who stops it sends several. While it goes, nobody else gets into its folder."""
    folder = tmp_path / "run"
    shape = ["num_queries=4", "group_size=3", "eval=none", "tracker=none", "num_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *shape, f"run_dir={folder}"],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_steps(process, folder, 3)
    for resume in (["resume=auto"], []):
        with pytest.raises(RunError, match="another process is writing|exists and is not empty"):
            start([*shape, *resume, f"run_dir={folder}"])
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.02)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"go on with: python run.py resume={folder}" in stderr and "Traceback" not in stderr
    steps = trace_steps(folder)
    assert steps == list(range(1, len(steps) + 1))
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], run["step"]) == ("interrupted", steps[-1])


def wait_for_steps(process, folder, count):
    while len(trace_steps(folder)) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


KILLED = """
import os, signal, sys
import lsp.loop.recorder
from lsp.loop.launch import start

def dying_at(real, is_the_moment):
    def wrapped(*arguments, **more):
        if is_the_moment(*arguments, **more):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return wrapped

# os.replace puts every file and folder into its place.
where = sys.argv[1]
if where == "shard":
    os.replace = dying_at(os.replace, lambda a, b: str(b).endswith("step-000005.parquet"))
elif where == "checkpoint":
    os.replace = dying_at(os.replace, lambda a, b: str(b).endswith("step-000006"))
else:
    module = lsp.loop.recorder
    module.update_run = dying_at(module.update_run, lambda f, **v: v.get("step") == 6)
start(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Overrides of nine steps with a checkpoint every three, and the rows of such a run."""
    shape = ["num_queries=4", "group_size=3", "eval=none", "tracker=none", "num_steps=9",
             "checkpoint.every=3"]  # fmt: skip
    folder = tmp_path_factory.mktemp("whole") / "run"
    start([*shape, f"run_dir={folder}"])
    return shape, rows_of(folder)


def rows_of(folder):
    return [{**row, "run_id": ""} for row in read_trace(folder)]


@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("shard", 3),
        pytest.param("checkpoint", 3, marks=pytest.mark.slow),
        pytest.param("after", 6, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_middle_of_writing_nothing_is_lost(
    uninterrupted, tmp_path, capsys, where, step
):
    """Kill -9 inside a shard's and a checkpoint's writing, and just after the checkpoint."""
    shape, expected = uninterrupted
    folder = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, *shape, f"run_dir={folder}"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rows_of(folder)  # every shard that is there can be read
    start([f"resume={folder}"])
    assert f"resumed at step {step}" in capsys.readouterr().out
    assert rows_of(folder) == expected


@pytest.mark.slow
def test_a_full_disk_is_one_clear_message_and_loses_nothing(tmp_path):
    """A file-size limit stands in for the full disk: writing fails with an OSError."""
    folder = tmp_path / "run"

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    shape = ["num_steps=3", "num_queries=4", "group_size=3", "eval=none", "tracker=none"]
    result = run_py(*shape, "checkpoint.every=2", f"run_dir={folder}", preexec_fn=small_files)
    assert result.returncode == 1
    assert "error: the run could not be written" in result.stderr
    assert (
        f"go on with: python run.py resume={folder}" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert trace_steps(folder) == [1, 2]
    assert start([f"resume={folder}"])["status"] == "finished"


@pytest.mark.slow
def test_a_failing_job_of_a_multirun_does_not_stop_the_others(tmp_path):
    result = run_py("-m", "seed=0,-1,1", "num_steps=1", "eval=none", "tracker=none",
                    f"runs_root={tmp_path}")  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "job 1/3  " in result.stderr and "job 3/3  " in result.stderr
    assert "error: job seed=-1" in result.stderr and "error: 1 jobs failed" in result.stderr
    assert len(list(tmp_path.glob("lsp-s*/summary.json"))) == 2


def run_py_main(arguments):
    """``run.py`` in this process, up to where Hydra would take over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_command, "hydra_main", lambda: pytest.fail("it was not refused"))
        train_command.train(arguments)


@pytest.mark.slow
def test_a_multirun_goes_through_the_files_of_a_group(tmp_path):
    words = ["method=glob(lsp*)", "seed=range(1,3)", "dry_run=true", "tracker=none"]
    result = run_py("-m", *words, f"runs_root={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("  method    lsp_zero") == 2
    assert result.stdout.count("  method    lsp") == 4


def test_a_multirun_that_cannot_be_is_refused_before_any_job(monkeypatch):
    with pytest.raises(SystemExit, match="write group_size=4"):
        run_py_main(["-m", "seed=0,1", "num_generations=4"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="^error: torchrun starts one run at a time"):
        run_py_main(["-m", "seed=0,1"])


def test_the_slurm_launcher_composes():
    """No Slurm here: the config is printed with it. (Jobs run through submitit below.)"""
    shown = run_py("--cfg", "hydra", "hydra/launcher=slurm")
    assert shown.returncode == 0, shown.stderr
    assert "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher" in shown.stdout
    assert "signal_delay_s: 120" in shown.stdout


@pytest.mark.slow
def test_a_job_that_submitit_asks_to_stop_gets_another_turn(tmp_path):
    """Its local executor, which differs from Slurm's by the queue alone, runs a job and starts it
    again where it asks for that, as the queue does."""
    folder, steps = tmp_path / "run", 100
    command = [
        sys.executable, "run.py", "-m", "hydra/launcher=submitit_local", f"run_dir={folder}",
        "resume=auto", f"num_steps={steps}", "num_queries=4", "group_size=2", "eval=none",
        "tracker=none", f"hydra.sweep.dir={tmp_path}/sweep",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    wait_for_steps(process, folder, 2)
    (job,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"submitit.core._submit\0{tmp_path}" in path.read_text(errors="replace")
    ]
    os.kill(job, signal.SIGUSR2)
    assert process.wait(timeout=PATIENCE) == 0, process.stderr.read()
    assert trace_steps(folder) == list(range(1, steps + 1))
    (log,) = tmp_path.glob("sweep/.submitit/*/*_log.out")
    said = log.read_text()
    assert "SIGUSR2" in said + log.with_suffix(".err").read_text() and "resumed at step" in said
