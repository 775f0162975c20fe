"""Checkpoints: whole or not there, damage named, and training that goes on bit for bit."""

import copy
import json
import shutil
from dataclasses import replace

import numpy
import pytest
import torch

from lsp.errors import RunError
from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.run.checkpoint import (
    checkpoint_folders,
    checkpoint_step,
    load_training_state,
    named_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    verified,
)
from lsp.types import TrainingRow

COLLAPSE = {"trends": {"a": {"window": 2}}, "raised": ["a"]}
ROWS = [TrainingRow("solver", (5, 6), (7, 8, 1), (0.0,) * 3, 0.5, 0.1, 1)]


@pytest.fixture
def run_copy(small_run, tmp_path):
    """A copy of the small run that a test may damage."""
    return shutil.copytree(small_run[0], tmp_path / "run")


def learner_of(players, **model):
    config = replace(players.config, model=replace(players.config.model, **model))
    policy = copy.deepcopy(players.policy)
    if model.get("dtype") == "bfloat16":
        policy = policy.bfloat16()
    return Learner(replace(players, policy=policy, config=config), config)


def save(run, step, learner, keep=2, also=()):
    players = learner.players
    signatures = numpy.arange(6, dtype=numpy.uint32).reshape(2, 3) + 2**31
    state = {"skipped_in_a_row": 3, "best": {}, "collapse": {**COLLAPSE, "signatures": signatures}}
    return save_checkpoint(
        run,
        step,
        players.policy,
        players.reference,
        players.chat.tokenizer,
        learner.training_tensors(),
        state,
        keep,
        also,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_learner_goes_on_from_a_checkpoint_bit_for_bit(players, tmp_path, dtype):
    """Two updates, or one, a checkpoint and one in another learner: weights and moments."""
    whole, first = learner_of(players, dtype=dtype), learner_of(players, dtype=dtype)
    whole.update(ROWS, 1)
    first.update(ROWS, 1)
    folder = save(tmp_path, 1, first)
    second = learner_of(players, dtype=dtype)
    second.players.policy.load_state_dict(first.players.policy.state_dict())
    state = load_training_state(folder, second.players.policy, second.named, second.optimizer)
    signatures = state["collapse"].pop("signatures")
    assert state == {"skipped_in_a_row": 3, "best": {}, "collapse": COLLAPSE}
    assert signatures.tolist() == [[2**31, 2**31 + 1, 2**31 + 2], [2**31 + 3, 2**31 + 4, 2**31 + 5]]
    whole.update(ROWS, 2)
    second.update(ROWS, 2)
    for name, tensor in whole.named.items():
        assert torch.equal(tensor, second.named[name]), name
        moments = whole.optimizer.state[tensor]
        assert moments.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for kind, value in second.optimizer.state[second.named[name]].items():
            assert torch.equal(value, moments[kind]), (name, kind)


def test_moments_and_steps_lie_where_the_weights_are(players, tmp_path):
    """A fused AdamW on a GPU takes no step count from elsewhere."""
    first, second = learner_of(players), learner_of(players)
    first.update(ROWS, 1)
    folder = save(tmp_path, 1, first)
    model = second.players.policy.to("meta")
    named = {name: parameter for name, parameter in model.named_parameters()}
    load_training_state(folder, model, named, second.optimizer)
    kept = second.optimizer.state[next(iter(named.values()))]
    assert {name: value.device.type for name, value in kept.items()} == {
        "step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta",
    }  # fmt: skip


def test_the_newest_and_some_beside_them_are_kept(players, tmp_path):
    learner = learner_of(players)
    for step in (1, 2, 3, 4, 5):
        best = () if step < 2 else (2,)
        assert save(tmp_path, step, learner, keep=2, also=best).name == f"step-00000{step}"
    assert [checkpoint_step(folder) for folder in checkpoint_folders(tmp_path)] == [2, 4, 5]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_that_is_there_is_not_written_again(players, tmp_path):
    learner = learner_of(players)
    before = (save(tmp_path, 1, learner) / "checkpoint.json").stat().st_mtime_ns
    assert (save(tmp_path, 1, learner) / "checkpoint.json").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_is_refused_by_name_and_the_older_offered(run_copy):
    old, new = checkpoint_folders(run_copy)
    assert verified(new) == newest_checkpoint(run_copy) == new
    weights = new / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=rf"damaged: model.safetensors .*older one is {old}"):
        newest_checkpoint(run_copy)
    (new / "config.json").unlink()
    with pytest.raises(RunError, match="config.json, model.safetensors missing or changed"):
        newest_checkpoint(run_copy)
    shutil.rmtree(new)
    (old / "trainer.safetensors").unlink()
    with pytest.raises(RunError, match="there is no older one"):
        newest_checkpoint(run_copy)
    shutil.rmtree(old)
    with pytest.raises(RunError, match="has no checkpoint"):
        newest_checkpoint(run_copy)


@pytest.fixture
def two_templates(llama_folder, llama3_tokenizer, tmp_path):
    """A model whose tokenizer has a second chat template, saved in a folder inside the model's."""
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    tokenizer = copy.deepcopy(llama3_tokenizer)
    template = tokenizer.chat_template
    tokenizer.chat_template = {"default": template, "tool_use": template + "{# tools #}"}
    tokenizer.save_pretrained(folder)
    assert (folder / "additional_chat_templates" / "tool_use.jinja").is_file()
    return folder


@pytest.mark.usefixtures("without_pictures")
def test_a_folder_inside_the_model_is_saved_hashed_and_read_again(two_templates, tmp_path):
    data, run = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text('{"instruction": "Name one."}\n{"instruction": "Name two."}')
    start([
        f"model.name={two_templates}", "data=alpaca", f"data.path={data}", "method=grpo",
        "eval=none", "tracker=none", "objective=null", "num_steps=1", "num_queries=2",
        "group_size=2", "rollout.max_new_tokens=4", f"run_dir={run}",
    ])  # fmt: skip
    start([f"resume={run}", "num_steps=2"])
    checkpoint = newest_checkpoint(run)
    name = "additional_chat_templates/tool_use.jinja"
    assert name in json.loads((checkpoint / "checkpoint.json").read_text())["files"]
    assert (checkpoint / name).read_text().endswith("{# tools #}")
    (checkpoint / name).write_text("other")
    with pytest.raises(RunError, match=f"damaged: {name} missing or changed"):
        newest_checkpoint(run)


def test_a_checkpoint_by_its_name(small_run):
    folder, _ = small_run
    assert named_checkpoint(folder, "step-000002") == folder / "checkpoints" / "step-000002"
    with pytest.raises(RunError, match="has no checkpoint 'step-7'; it has step-000002, step-0000"):
        named_checkpoint(folder, "step-7")
