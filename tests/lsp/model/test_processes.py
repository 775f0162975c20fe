"""Several processes are one run: real ones, started by torchrun, that talk by gloo."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.model.processes import Processes
from lsp.run.checkpoint import newest_checkpoint
from lsp.run.folder import read_run
from lsp.tracking.reader import read_metrics, read_summary, read_trace, trace_steps

ROOT = Path(__file__).parents[3]
HANGS = 900
"""Seconds after which a process that should have ended is taken to hang."""


def begun(module, *arguments, **variables):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def torchrun(count, *arguments, **variables):
    options = ("--standalone", f"--nproc_per_node={count}")
    return begun("torch.distributed.run", *options, *arguments, **variables)


def output_of(job):
    out, err = job.communicate(timeout=HANGS)
    assert job.returncode == 0, err[-4000:]
    return out


def error_of(job):
    _, err = job.communicate(timeout=HANGS)
    assert job.returncode != 0
    return err


def overrides(small, folder, *settings):
    own = ["tracker=none", "hardware=cpu", "runtime.threads=1", f"run_dir={folder}"]
    return [*small, *own, *settings]


def compared(one, other):
    """The largest difference of two runs' metrics, all but times and how the batch was cut."""
    left, right = read_metrics(one), read_metrics(other)
    assert [set(line) for line in left] == [set(line) for line in right]
    return max(
        abs(a[key] - b[key])
        for a, b in zip(left, right, strict=True)
        for key in a
        # A cosine of small gradients is a difference of large ones.
        if not key.startswith(("time/", "runtime/", "batch/", "optim/role_gradient_cosine"))
        and a[key] is not None
    )


def rows_of(folder):
    columns = ("step", "query_id", "query", "answer_id", "answer", "quality_text", "reward_details")
    return [tuple(row[key] for key in columns) for row in read_trace(folder)]


@given(st.integers(0, 100), st.integers(1, 16))
def test_parts_are_all_of_it_and_alike_in_size(count, size):
    parts = [Processes(rank, size).part_of(count) for rank in range(size)]
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_gathers_its_own_values():
    processes = Processes()
    assert processes.all_gather_lists([1, 2]) == [1, 2]
    assert processes.all_gather("a") == ["a"] and processes.broadcast("a") == "a"
    assert processes.is_first


def check_same(one, other, count, out):
    """Of a run and the same run of ``count`` processes, whose last part printed ``out``."""
    assert rows_of(one) == rows_of(other)
    assert compared(one, other) < 1e-5
    assert [line["runtime/world_size"] for line in read_metrics(other)[1:]] == [count] * 3
    assert out.count("three plays of the last step") == 1  # one process keeps the record
    accuracies = [read_summary(run)["final/accuracy"] for run in (one, other)]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=1e-5)


UNEVEN = ("num_queries=5", "optim.role_gradients_every=1")
SLOW = pytest.mark.slow
PROGRAM = {"ddp": "run.py", "fsdp": "tests/fsdp_on_cpu.py"}


@pytest.mark.parametrize(
    ("count", "parallel"),
    [(2, "ddp"), pytest.param(4, "ddp", marks=SLOW), pytest.param(4, "fsdp", marks=SLOW)],
)
def test_a_run_of_several_processes_is_the_run_of_one(small, tmp_path, count, parallel):
    one, other = tmp_path / "one", tmp_path / "other"
    more = (*UNEVEN, f"hardware.parallel={parallel}")
    job = torchrun(count, PROGRAM[parallel], *overrides(small, other, *more))
    start(overrides(small, one, *UNEVEN))
    check_same(one, other, count, output_of(job))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_run_of_two_goes_on_as_the_run_of_one(small, tmp_path, parallel):
    """Its checkpoints hold whole weights and moments. The judge draws, and what the reward tells of
    itself is that of all answers."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = (*UNEVEN, "self_reward.mode=generate", "reward=weighted")
    parts = (*more, f"hardware.parallel={parallel}", "num_steps=2")
    job = torchrun(2, PROGRAM[parallel], *overrides(small, cut, *parts))
    start(overrides(small, whole, *more))
    output_of(job)
    out = output_of(torchrun(2, PROGRAM[parallel], f"resume={cut}", "num_steps=3"))
    check_same(whole, cut, 2, out)
    assert "reward/external/part/verifier/mean" in read_metrics(cut)[-1]
    with pytest.raises(RunError, match="gpus=2, and the processes of this run are 1; start it by"):
        start([f"resume={cut}", "num_steps=4", "hardware.gpus=2"])
    for run, other in ((whole, ()), (cut, ("hardware.parallel=ddp",))):  # or as one
        start([f"resume={run}", "num_steps=4", *other])
    assert rows_of(whole) == rows_of(cut) and compared(whole, cut) < 1e-5


@pytest.mark.slow
def test_accelerate_launch_starts_the_same_run(small, tmp_path):
    """Its ``--cpu`` starts one process whatever number is asked for; ``--multi_gpu`` starts them
    all, on CPUs too."""
    settings = overrides(small, tmp_path / "run", "num_steps=1", "hardware.gpus=2")
    arguments = ("--num_processes=2", "--main_process_port=0", "run.py", *settings)
    launch = ("accelerate.commands.accelerate_cli", "launch")
    output_of(begun(*launch, "--multi_gpu", *arguments))
    assert read_metrics(tmp_path / "run")[-1]["runtime/world_size"] == 2
    err = error_of(begun(*launch, "--cpu", *arguments))
    assert "hardware.gpus=2, and the processes of this run are 1" in err


def test_overrides_of_a_resumed_run_are_checked_with_its_own_settings(small, tmp_path, monkeypatch):
    run = tmp_path / "run"
    own = ("model.lora.rank=4", "model.dtype=bfloat16", "eval=none", "objective=null")
    small = [text for text in small if not text.startswith("eval.")]
    start(overrides(small, run, *own, "num_steps=1"))
    saved = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="shards what is trained, and under LoRA"):
        start([f"resume={run}", "num_steps=2", "hardware.parallel=fsdp"])
    assert (run / "config.yaml").read_text() == saved
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    start([f"resume={run}", "num_steps=2"])
    assert trace_steps(run) == [1, 2]


FSDP, BFLOAT16 = "hardware.parallel=fsdp", "model.dtype=bfloat16"


CHECKPOINTING = "optim.gradient_checkpointing=true"
HSDP = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
}


@pytest.mark.parametrize(
    ("count", "cases", "variables"),
    [
        (2, [(100, ()), (7, (BFLOAT16, CHECKPOINTING)), (100, (FSDP, CHECKPOINTING))], {}),
        pytest.param(3, [(2, ()), (2, (FSDP,))], {}, marks=SLOW),  # one has no row at all
        pytest.param(2, [(7, (FSDP, BFLOAT16))], {}, marks=SLOW),
        pytest.param(4, [(100, ("model.lora.rank=4",))], {}, marks=SLOW),
        pytest.param(4, [(100, (FSDP,))], HSDP, marks=SLOW),
    ],
)
def test_losses_and_gradients_are_those_of_one_process(tmp_path, count, cases, variables):
    """On fixed rows, so many of them under these settings, to 1e-5 in norm; weights stay equal
    everywhere, bit for bit."""
    worker = Path(__file__).with_name("updates_worker.py")
    job = torchrun(count, worker, tmp_path / "results.pt", json.dumps(cases), **variables)
    updated = runpy.run_path(str(worker))["updated"]
    expected = [updated(Processes(), kept, settings) for kept, settings in cases]
    output_of(job)
    for case, ours, theirs in zip(
        cases, torch.load(tmp_path / "results.pt"), expected, strict=True
    ):
        exact = BFLOAT16 not in case[1]
        for one, two in zip(ours["gradients"], theirs["gradients"], strict=True):
            # Under bfloat16 another grouping of rows rounds otherwise.
            assert (one - two).norm() <= (1e-5 if exact else 0.05) * max(1e-3, two.norm()), case
        assert ours["rows"].keys() == theirs["rows"].keys()
        for name, value in theirs["metrics"].items():
            if exact and not name.startswith(("batch/", "rollout/logprob_mismatch")):
                assert ours["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


DIES = """
import os
calls = 0

def reward(queries, answers):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 2:
        raise RuntimeError("the second process is out of luck")
    return [0.5] * len(answers)
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_with_its_error(small, tmp_path):
    (tmp_path / "luckless.py").write_text(DIES)
    more = ("reward=callable", "reward.path=luckless.reward")
    job = torchrun(
        2, "run.py", *overrides(small, tmp_path / "run", *more),
        PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}",
    )  # fmt: skip
    err = error_of(job)
    assert "the second process is out of luck" in err
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1]
    assert "error: another process of the run has ended, and reports why; go on with" in err
    assert read_run(tmp_path / "run")["status"] == "failed"
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM to torchrun", "SIGUSR2 to its processes"])
def test_a_signal_stops_all_of_them_with_everything_saved(small, tmp_path, how):
    """The second way is that of docs/slurm_torchrun.sh."""
    run = tmp_path / "run"
    job = torchrun(2, "run.py", *overrides(small, run, "num_steps=5000", "eval.every=0"))
    while not (run / "metrics.jsonl").is_file() or len(read_metrics(run)) < 2:
        time.sleep(0.2)
        assert job.poll() is None
    if how == "SIGTERM to torchrun":
        job.send_signal(signal.SIGTERM)
    else:
        script = (ROOT / "docs" / "slurm_torchrun.sh").read_text()
        (pattern,) = re.findall(r"pkill -USR2 -f -- '(.*)'", script)
        command = ["pkill", "-USR2", "-P", str(job.pid), "-f", "--", pattern]
        assert subprocess.run(command).returncode == 0
    err = error_of(job)
    assert "stopped after step" in err and read_run(run)["status"] == "interrupted"
    assert newest_checkpoint(run).is_dir()


@pytest.mark.slow
def test_sharding_over_cpus_is_refused(small, tmp_path):
    err = error_of(torchrun(2, "run.py", *overrides(small, tmp_path / "run", FSDP)))
    assert "accelerate shards weights over GPUs alone, and this run is on the CPU; choose" in err
    assert not (tmp_path / "run").exists()


def test_the_way_on_names_the_machines(monkeypatch):
    assert Processes().launcher == "python"
    assert Processes(0, 4).launcher == "torchrun --nproc_per_node 4"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Processes(0, 16).launcher == "torchrun --nnodes 2 --nproc_per_node 8"


RACE = """
import os, runpy, signal
from lsp.model.processes import Command, Processes
broadcast, sent = Processes.broadcast, 0

def interrupted(self, value):
    global sent
    received = broadcast(self, value)
    if self.is_first and value == Command.CONTINUE:
        sent += 1  # the first is at the start, the second after step 1
        if sent == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    return received

Processes.broadcast = interrupted
runpy.run_path("run.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_signal_while_the_others_are_told_to_go_on_waits_for_the_next_step(small, tmp_path):
    (tmp_path / "race.py").write_text(RACE)
    run = tmp_path / "run"
    err = error_of(torchrun(2, tmp_path / "race.py", *overrides(small, run, "num_steps=5")))
    assert "stopped after step 2 (SIGTERM)" in err and trace_steps(run) == [1, 2]
    assert f"go on with: torchrun --nproc_per_node 2 run.py resume={run}" in err


@pytest.mark.slow
def test_errors_that_all_processes_meet_are_reported_once(small, tmp_path):
    for mistake in (["num_qeries=3"], ["-m", "seed=0,1"], ["objective=reward/foo"]):
        err = error_of(torchrun(2, "run.py", *overrides(small, tmp_path / "run"), *mistake))
        assert err.count("\nerror: ") + err.startswith("error: ") == 1, err
        assert err.count("Traceback") == err.count("ChildFailedError:") == 1  # torchrun's own


ONE_GPU = """
import runpy, time, torch
from torch import distributed
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.set_device = lambda device: time.sleep(600)  # as far as the process with a GPU comes
meet = distributed.init_process_group
distributed.init_process_group = lambda backend, **more: meet("gloo", **more)
runpy.run_path("run.py", run_name="__main__")
"""


@pytest.mark.slow
def test_more_processes_than_gpus_is_one_message(small, tmp_path):
    (tmp_path / "gpu.py").write_text(ONE_GPU)
    settings = ("hardware=auto", "runtime.device=cuda")
    err = error_of(torchrun(2, tmp_path / "gpu.py", *overrides(small, tmp_path / "run", *settings)))
    assert "process 1 of this machine has no GPU of its own: there are 1" in err
