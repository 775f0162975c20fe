"""Several processes are one run: real ones, started by torchrun, that talk by gloo."""

import json
import os
import re
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
from lsp.model.device import choose_device
from lsp.model.processes import Processes
from lsp.run.checkpoint import newest_checkpoint
from lsp.run.folder import read_run
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace, trace_steps

ROOT = Path(__file__).parents[3]


def torchrun(count, *arguments, **more):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment | more, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-4000:]
    return out


def overrides(small, folder, *more):
    return [*small, "tracker=none", "hardware=cpu", "runtime.threads=1", f"run_dir={folder}", *more]


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
    parts = [Processes(rank, size).part(count) for rank in range(size)]
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_alone_everything_is_ones_own():
    processes = Processes()
    assert (
        processes.all_gather_lists([1, 2]),
        processes.all_gather("a"),
        processes.broadcast("a"),
    ) == ([1, 2], ["a"], "a")
    tensor = torch.ones(2)
    processes.all_reduce([tensor])
    assert tensor.tolist() == [1, 1] and processes.first


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "count", [2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda count: f"{count} processes"
)
def test_a_run_of_several_processes_is_the_run_of_one(small, tmp_path, count, parallel):
    """Uneven parts: five queries a step."""
    one, other = tmp_path / "one", tmp_path / "other"
    start(overrides(small, one, "num_queries=5", "tracker.role_gradients_every=1"))
    more = ("num_queries=5", "tracker.role_gradients_every=1", f"hardware.parallel={parallel}")
    out = finished(torchrun(count, "run.py", *overrides(small, other, *more)))
    assert rows_of(one) == rows_of(other)
    assert compared(one, other) < 1e-5
    assert [line["runtime/world_size"] for line in read_metrics(other)[1:]] == [count] * 3
    assert out.count("three plays of the last step") == 1  # one process keeps the record
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    assert summaries[1]["final/accuracy"] == pytest.approx(summaries[0]["final/accuracy"], abs=1e-5)


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_a_killed_run_of_two_goes_on(small, tmp_path, parallel):
    """Its checkpoints hold whole weights and moments. The judge draws, and what the reward tells of
    itself is that of all answers."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ("self_reward.mode=generate", "reward=weighted")
    start(overrides(small, whole, *more))
    more += (f"hardware.parallel={parallel}",)
    finished(torchrun(2, "run.py", *overrides(small, cut, *more, "num_steps=2")))
    finished(torchrun(2, "run.py", f"resume={cut}", "num_steps=3"))
    assert rows_of(whole) == rows_of(cut) and compared(whole, cut) < 1e-5
    assert "reward/external/part/verifier/mean" in read_metrics(cut)[-1]
    with pytest.raises(RunError, match="gpus=2, and the processes of this run are 1; start it by"):
        start([f"resume={cut}", "num_steps=4", "hardware.gpus=2"])
    for run, other in ((whole, ()), (cut, ("hardware.parallel=ddp",))):  # or as one
        start([f"resume={run}", "num_steps=4", *other])
    assert rows_of(whole) == rows_of(cut) and compared(whole, cut) < 1e-5


def test_accelerate_launch_starts_the_same_run(small, tmp_path):
    """Its ``--cpu`` starts one process whatever number is asked for; ``--multi_gpu`` starts them
    all, on CPUs too."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    given = overrides(small, tmp_path / "run", "num_steps=1", "hardware.gpus=2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    asked = ["--num_processes=2", "--main_process_port=0", "run.py", *given]
    done = subprocess.run([*command, "--multi_gpu", *asked], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert read_metrics(tmp_path / "run")[-1]["runtime/world_size"] == 2
    done = subprocess.run([*command, "--cpu", *asked], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=240)  # fmt: skip
    assert "hardware.gpus=2, and the processes of this run are 1" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("USE_DEEPSPEED", "true", "asked for deepspeed, which is not used here"),
        ("USE_FSDP", "true", "asked for FSDP; say hardware.parallel=fsdp"),
        ("MIXED_PRECISION", "bf16", "--mixed_precision=bf16, .* say model.dtype=bfloat16"),
        ("DYNAMO_BACKEND", "INDUCTOR", "a dynamo backend, and nothing is compiled here"),
    ],
)
def test_what_accelerate_was_asked_for_is_not_passed_over(
    small, tmp_path, monkeypatch, name, value, says
):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(RunError, match=says):
        start(overrides(small, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    config = compose(["hardware.parallel=fsdp", "model.dtype=bfloat16"])
    if name in ("USE_FSDP", "MIXED_PRECISION"):  # a resumed run's own settings count
        Processes().check_launch(config)


def test_what_a_resumed_run_is_given_is_checked_with_its_own_settings(small, tmp_path, monkeypatch):
    run = tmp_path / "run"
    own = ("model.lora.rank=4", "model.dtype=bfloat16", "eval=none")
    small = [text for text in small if not text.startswith("eval.")]
    start(overrides(small, run, *own, "num_steps=1"))
    saved = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="shards what is trained, and under LoRA"):
        start([f"resume={run}", "num_steps=2", "hardware.parallel=fsdp"])
    assert (run / "config.yaml").read_text() == saved
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    start([f"resume={run}", "num_steps=2"])
    assert trace_steps(run) == [1, 2]


WORKER = """
import sys
from dataclasses import replace
import torch
from lsp.batch import training_rows
from lsp.settings.compose import compose
from lsp.run.init import resolve_init
from lsp.learner import Learner
from lsp.players import load_players
from lsp.model.sharding import full, shard_layers
from lsp.train import Clock, play_queries
from lsp.model.processes import Processes

def updated(world, kept, settings):
    config = compose(["tracker=none", "hardware=cpu", "tracker.role_gradients_every=1", "seed=3",
                      "num_queries=4", "optim.micro_batch_tokens=60", *settings])
    torch.manual_seed(config.seed)  # as every process of a run does: adapters begin at random
    alone = load_players(config, resolve_init(config), None)
    with torch.no_grad():  # so that KL is not zero
        for parameter in alone.policy.parameters():
            parameter.mul_(1.01)
    queries = alone.step_queries(1)
    play = play_queries(alone, config, queries, 1, Clock())
    rows = training_rows(play, config.method, 4, 24, 12)[:kept]
    if config.hardware.parallel == "fsdp" and processes.size > 1:
        shard_layers(alone.policy, world)
    learner = Learner(replace(alone, processes=processes), config)
    learner.optimizer.zero_grad = lambda set_to_none: None  # gradients are looked at afterwards
    stats = learner.update(rows, 1)
    return {"gradients": [full(t.grad) for t in learner.trained], "metrics": stats.metrics(),
            "rows": stats.row, "weights": [full(p.detach()) for p in alone.policy.parameters()]}

if __name__ == "__main__":
    processes = Processes.from_environment()
    processes.start()
    told = updated(world, int(sys.argv[2]), sys.argv[3:])
    everybody = processes.all_gather(told["weights"])
    assert all(torch.equal(a, b) for one in everybody for a, b in zip(one, everybody[0]))
    if processes.first:
        torch.save(told, sys.argv[1])
    del everybody
    processes.leave()
"""


@pytest.mark.parametrize(
    ("count", "kept", "settings"),
    [
        (2, 100, ()),
        (2, 7, ("model.dtype=bfloat16",)),
        (2, 100, ("hardware.parallel=fsdp", "optim.gradient_checkpointing=true")),
        (3, 2, ("hardware.parallel=fsdp",)),
        pytest.param(
            2, 7, ("hardware.parallel=fsdp", "model.dtype=bfloat16"), marks=pytest.mark.slow
        ),
        (3, 2, ()),  # one has no row at all
        pytest.param(4, 100, ("model.lora.rank=4",), marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients_are_those_of_one_process(tmp_path, count, kept, settings):
    """On fixed rows, to 1e-5 in norm; weights stay equal everywhere, bit for bit."""
    (tmp_path / "worker.py").write_text(WORKER)
    worker = torchrun(count, tmp_path / "worker.py", tmp_path / "told.pt", kept, *settings)
    namespace = {"__name__": "worker"}
    exec(WORKER, namespace)
    expected = namespace["updated"](Processes(), kept, settings)
    finished(worker)
    found = torch.load(tmp_path / "told.pt")
    exact = "model.dtype=bfloat16" not in settings
    for one, two in zip(found["gradients"], expected["gradients"], strict=True):
        # Under bfloat16 another grouping of rows rounds otherwise.
        assert (one - two).norm() <= (1e-5 if exact else 0.05) * max(1e-3, two.norm())
    assert found["rows"].keys() == expected["rows"].keys()
    for name, value in expected["metrics"].items():
        if exact and not name.startswith(("batch/", "rollout/logprob_mismatch")):
            assert found["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


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


def test_a_process_that_dies_ends_the_job_with_its_error(small, tmp_path):
    (tmp_path / "luckless.py").write_text(DIES)
    more = ("reward=callable", "reward.path=luckless.reward")
    job = torchrun(
        2, "run.py", *overrides(small, tmp_path / "run", *more),
        PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}",
    )  # fmt: skip
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0 and "the second process is out of luck" in err
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1]
    assert "error: another process of the run has ended, and says why; go on with" in err
    assert read_run(tmp_path / "run")["status"] == "failed"
    assert (tmp_path / "run" / "report.html").is_file()


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
        asked = ["pkill", "-USR2", "-P", str(job.pid), "-f", "--", pattern]
        assert subprocess.run(asked).returncode == 0
    _, err = job.communicate(timeout=120)
    assert "stopped after step" in err and read_run(run)["status"] == "interrupted"
    assert newest_checkpoint(run).is_dir()


def test_the_way_on_names_the_machines(monkeypatch):
    assert Processes().launcher == "python"
    assert Processes(0, 4).launcher == "torchrun --nproc_per_node 4"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Processes(0, 16).launcher == "torchrun --nnodes 2 --nproc_per_node 8"


RACE = """
import os, signal, sys
from lsp.model import processes as world
share, gone = world.World.share, 0

def interrupted(self, value):
    global gone
    told = share(self, value)
    if self.first and value == world.Command.CONTINUE:
        gone += 1  # the first is at the start, the second after step 1
        if gone == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    return told

world.World.share = interrupted
import run
run.main(sys.argv[1:])
"""


def test_a_signal_while_the_others_are_told_to_go_on_waits_for_the_next_step(small, tmp_path):
    (tmp_path / "race.py").write_text(RACE)
    run = tmp_path / "run"
    job = torchrun(2, tmp_path / "race.py", *overrides(small, run, "num_steps=5"))
    _, err = job.communicate(timeout=120)
    assert "stopped after step 2 (SIGTERM)" in err and trace_steps(run) == [1, 2]
    assert f"go on with: torchrun --nproc_per_node 2 run.py resume={run}" in err


def test_errors_that_all_processes_meet_are_said_once(small, tmp_path):
    for mistake in (["num_qeries=3"], ["-m", "seed=0,1"], ["objective=reward/foo"]):
        job = torchrun(2, "run.py", *overrides(small, tmp_path / "run"), *mistake)
        _, err = job.communicate(timeout=120)
        assert job.returncode and err.count("\nerror: ") + err.startswith("error: ") == 1, err
        assert err.count("Traceback") == err.count("ChildFailedError:") == 1  # torchrun's own


ONE_GPU = """
import runpy, time, torch
from torch import distributed
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.set_device = lambda device: time.sleep(60)  # as far as the process with a GPU comes
meet = distributed.init_process_group
distributed.init_process_group = lambda backend, **more: meet("gloo", **more)
runpy.run_path("run.py", run_name="__main__")
"""


def test_more_processes_than_gpus_is_one_message(small, tmp_path):
    (tmp_path / "gpu.py").write_text(ONE_GPU)
    given = [*small, "tracker=none", f"run_dir={tmp_path / 'run'}"]
    job = torchrun(2, tmp_path / "gpu.py", *given, "hardware=auto", "runtime.device=cuda")
    _, err = job.communicate(timeout=120)
    assert "process 1 of this machine has no GPU of its own: there are 1" in err


def test_a_machine_with_too_few_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own"):
        choose_device("auto", 1)
    assert choose_device("auto", 0) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="cuda:0 is one GPU, and each of the run's process"):
        choose_device("cuda:0", 1)
