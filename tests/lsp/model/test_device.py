"""Runs on a device that is not the CPU (tests/fake_device.py): nothing is left behind on the CPU,
and the results are the CPU's. A GPU's own arithmetic is not looked at."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsp.loop.launch import start
from lsp.model.device import choose_device, give_back_freed_memory
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.usefixtures("without_pictures")
ROOT = Path(__file__).parents[3]


def on_fake_device(*commands):
    done = subprocess.run(
        [sys.executable, "tests/fake_device.py", json.dumps(commands)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def same(one, other):
    """Whether two runs wrote the same texts and numbers."""
    texts = ("step", "query", "answer", "quality_text", "reward_details")
    rows, others = read_trace(one, columns=texts), read_trace(other, columns=texts)
    assert rows == others and any(row["answer"] for row in rows)
    for line, twin in zip(read_metrics(one), read_metrics(other), strict=True):
        assert line.keys() == twin.keys()
        for key, value in line.items():
            if not key.startswith(("time/", "runtime/")) and value is not None:
                assert twin[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


CASES = {
    "in full": ["optim.role_gradients_every=1"],
    "LoRA": ["model.lora.rank=4", "rollout.top_p=0.9", "rollout.max_rows=4"],
    "all sorts": ["method.kl_estimator=exact", "optim.gradient_checkpointing=true",
                  "self_reward.mode=generate", "method=frozen_challenger"],
}  # fmt: skip


@pytest.mark.slow
def test_the_pocket_world_on_another_device(small, tmp_path):
    runs = {name: [*small, "tracker=none", "num_steps=2", *more] for name, more in CASES.items()}
    run = tmp_path / "in full" / "there"
    on_fake_device(
        *(
            ["run.py", *settings, f"run_dir={tmp_path / name / 'there'}"]
            for name, settings in runs.items()
        ),
        ["run.py", f"resume={run}", "num_steps=3"],
        ["eval", "eval=pocket", f"run={run}", f"runs_root={tmp_path}"],
        ["eval.crossplay", str(run), "queries=4"],
    )
    assert (run / "eval/pocket/results.json").is_file()
    assert (run / "crossplay/crossplay.csv").is_file()
    for name, settings in runs.items():
        steps = ["num_steps=3"] if name == "in full" else []
        start([*settings, *steps, f"run_dir={tmp_path / name / 'here'}"])
        same(tmp_path / name / "here", tmp_path / name / "there")


@pytest.mark.parametrize("reward", ["llama", pytest.param("deberta", marks=pytest.mark.slow)])
def test_the_papers_world_on_another_device(
    llama_folder, classifier_folder, deberta_folder, tmp_path, reward
):
    folder = {"llama": classifier_folder, "deberta": deberta_folder}[reward]
    settings = [
        "world=paper", f"model.name={llama_folder}", "model.dtype=float32", "method=lsp",
        f"reward.name={folder}", "reward.dtype=float32", "tracker=none", "num_steps=2",
        "num_queries=4", "group_size=2", "rollout.max_new_tokens=8", "rollout.max_query_tokens=48",
        "prompts.judge=rate", "prompts.challenger='ask {task}{template}'",
    ]  # fmt: skip
    on_fake_device(["run.py", *settings, f"run_dir={tmp_path / 'there'}"])
    start([*settings, f"run_dir={tmp_path / 'here'}"])
    same(tmp_path / "here", tmp_path / "there")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc"
)
def test_freed_memory_goes_back_to_the_system():
    """Many small tensors, of which the last, at the end of the heap, stays."""

    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    pieces = [torch.ones(2**14) for _ in range(2_000)]  # 64 kB each
    give_back_freed_memory()
    before = held()
    pieces = pieces[-1:]
    give_back_freed_memory()
    assert before - held() > 2_000 * 2**16 / 2
    assert pieces[0].sum() == 2**14


def test_a_machine_with_too_few_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own"):
        choose_device("auto", 1)
    assert choose_device("auto", 0) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="cuda:0 is one GPU, and each of the run's process"):
        choose_device("cuda:0", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", CASES)
def test_the_pocket_world_on_a_gpu(small, tmp_path, name):
    """Its sums round otherwise, so a token may differ and rows with it; the base's skill does
    not."""
    settings = [*small, "tracker=none", "num_steps=2", *CASES[name]]
    for device in ("cuda", "cpu"):
        start([*settings, f"runtime.device={device}", f"run_dir={tmp_path / device}"])
    start([f"resume={tmp_path / 'cuda'}", "num_steps=3"])
    assert read_metrics(tmp_path / "cuda")[-1]["step"] == 3
    there, here = (read_metrics(tmp_path / device) for device in ("cuda", "cpu"))
    assert [line["step"] for line in there] == [0, 1, 2, 3]
    for key in ("eval/pocket/accuracy", "eval/pocket/greedy_accuracy"):
        assert there[0][key] == pytest.approx(here[0][key], abs=0.01)
