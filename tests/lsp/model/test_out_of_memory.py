"""Memory that ends: the message names the phase and three settings, and the run goes on from it."""

import json
import threading

import pytest
import torch

from lsp import players as players_module
from lsp.errors import RunError
from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.model.out_of_memory import OutOfMemory, memory_guard
from lsp.players import Players
from lsp.rewards.reward_model import ClassifierScorer
from lsp.rewards.self_reward import RubricSelfJudge
from lsp.settings.compose import compose
from lsp.settings.phases import PHASES, STEP_PHASES
from lsp.tracking.reader import read_metrics, read_trace, trace_steps

GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.\nmore lines"


def failing(call, error, at):
    """``call``, but its ``at``-th call raises."""
    count = 0

    def wrapped(*arguments, **options):
        nonlocal count
        count += 1
        if count == at:
            raise error
        return call(*arguments, **options)

    return wrapped


WHERE = {
    "queries": (Players, "step_queries", 3, "generation of the queries"),
    "answers": (Players, "answers", 3, "generation of the answers"),
    "reward": (ClassifierScorer, "__call__", 3, "the external reward"),
    "quality": (RubricSelfJudge, "score", 3, "the quality self-reward"),
    "update": (Learner, "_backward", 3, "the update"),
}
NAMED = {
    "queries": ["rollout.max_rows=32", "rollout.max_tokens=1048576", "rollout.max_query_tokens=8"],
    "answers": ["rollout.max_rows=32", "rollout.max_tokens=1048576", "rollout.max_new_tokens=8"],
    "reward": ["reward.max_tokens=16384", "reward.max_length=4096", "reward.dtype=float32"],
    "quality": ["rollout.max_rows=32", "rollout.max_tokens=1048576", "rollout.max_new_tokens=8"],
    "update": [
        "optim.micro_batch_tokens=8192", "optim.gradient_checkpointing=False", "model.lora.rank=0"
    ],
}  # fmt: skip


@pytest.fixture
def shape(llama_folder, classifier_folder, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"instruction": f"Name {i}."}) for i in range(6)))
    return [
        "world=paper", f"model.name={llama_folder}", f"reward.name={classifier_folder}",
        "reward.dtype=float32", f"data.path={data}", "method=grpo", "method.log_quality=true",
        "tracker=none", "num_steps=3", "num_queries=3", "group_size=2", "prompts.judge=rate",
        "rollout.max_new_tokens=8", "rollout.max_query_tokens=8", "checkpoint.every=1",
        "runtime.device=cpu", f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip


@pytest.mark.parametrize("phase", WHERE)
def test_a_phase_that_runs_out_of_memory_is_named(shape, tmp_path, monkeypatch, phase):
    owner, name, at, words = WHERE[phase]
    with monkeypatch.context() as patch:
        error = torch.OutOfMemoryError(GPU)
        patch.setattr(owner, name, failing(getattr(owner, name), error, at))
        with pytest.raises(RunError) as raised:
            start(shape)
    first, _, *lines = str(raised.value).splitlines()
    # The third call is the third step's, so two are done.
    assert first == f"out of memory in {words}: {GPU.splitlines()[0]}"
    assert [line.strip().partition(": ")[0] for line in lines[:3]] == NAMED[phase]
    assert lines[3].startswith(
        "everything up to the last checkpoint is kept; with rollout.max_rows"
    )
    assert lines[4].startswith("with others changed, start again from its weights: python run.py ")
    assert len(lines) == 5 and "Traceback" not in str(raised.value)
    folder = tmp_path / "run"
    assert trace_steps(folder) == [1, 2]
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert (folder / "report.html").is_file()
    assert (folder / "checkpoints" / "step-000002").is_dir()


@pytest.mark.slow
def test_the_way_out_goes_on_with_smaller_parts_of_the_same_game(shape, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_backward", failing(Learner._backward, MemoryError(), 3))
        with pytest.raises(RunError, match="the update: Python could not allocate any more"):
            start(shape)
    resume = [f"resume={tmp_path / 'run'}", "world=paper"]
    with pytest.raises(RunError, match="rollout.max_rows, .* may change"):
        start([*resume, "group_size=3"])
    smaller = ["optim.micro_batch_tokens=64", "rollout.max_rows=2", "reward.max_tokens=100"]
    start([*resume, *smaller])
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "micro_batch_tokens: 64" in saved and "max_rows: 2" in saved
    whole = tmp_path / "whole"
    start([*shape, f"run_dir={whole}"])
    rows, again = (
        [(row["query"], row["answer"]) for row in read_trace(folder)]
        for folder in (whole, tmp_path / "run")
    )
    metrics = read_metrics(tmp_path / "run")
    assert rows == again and len(metrics) == 3
    assert list(WHERE) == list(STEP_PHASES)  # one word each in metrics, messages and plans
    for line in metrics:
        timed = [key for key in line if key.startswith("time/")]
        assert sorted(timed) == sorted(f"time/{phase}" for phase in STEP_PHASES)


def test_the_cpus_memory_is_told_too(shape, tmp_path, monkeypatch):
    def load(*arguments, **options):
        torch.empty(2**50)

    monkeypatch.setattr(players_module, "load_model", load)
    with pytest.raises(RunError, match="out of memory in loading the models: .*DefaultCPUAllocato"):
        start(shape)
    assert not (tmp_path / "run").exists()  # it never began


@pytest.mark.parametrize(
    "place",
    [
        "transformers.AutoModelForCausalLM.from_pretrained",
        "lsp.model.language_model.completion_scores",
    ],
)
def test_it_is_not_taken_for_a_model_that_is_unfit(shape, monkeypatch, place):
    monkeypatch.setattr(place, failing(None, torch.OutOfMemoryError(GPU), 1))
    with pytest.raises(RunError, match="out of memory in loading the models: CUDA out of memory"):
        start(shape)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="shape"), memory_guard("update"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["world=paper", "model.lora.rank=8", "model.dtype=bfloat16", "runtime.device=auto"],
        ["reward=weighted", "+reward@reward.parts.more.reward=skywork",
         "+reward.parts.more.weight=1", "optim.gradient_checkpointing=true"],
    ],
)  # fmt: skip
def test_three_settings_that_still_help_are_named(phase, overrides):
    config = compose(overrides)
    _, _, *lines = OutOfMemory(phase, "CUDA out of memory.").advice(config).splitlines()
    assert len(lines) == 3 and len(set(lines)) == 3
    assert not [line for line in lines if "=bfloat16" in line or "=True" in line]
    if phase == "reward" and "reward=weighted" in overrides:
        assert lines[0] == "  reward.parts.more.reward.max_tokens=16384: lower"
