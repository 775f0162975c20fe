"""Where a run starts: what ``init`` finds, and what it refuses."""

import json
import shutil
from dataclasses import asdict

import pytest

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.run.checkpoint import checkpoint_folders, newest_checkpoint
from lsp.run.folder import read_run
from lsp.run.init import Init, NoEarlierRun, resolve_init
from lsp.settings.compose import compose

pytestmark = pytest.mark.usefixtures("without_pictures")
SHAPE = ["num_steps=1", "num_queries=3", "group_size=2", "eval=none", "tracker=none"]


def init_of(*overrides):
    return resolve_init(compose(overrides))


def test_the_base_is_the_model_itself():
    assert init_of() == Init("pocket", None, None, "base model pocket")
    assert asdict(Init("a", "b", "c", "d")) == {
        "source": "a",
        "run_id": "b",
        "method": "c",
        "text": "d",
    }


def test_init_grpo_makes_a_run_first_in_the_pocket_world_and_then_takes_it(tmp_path, capsys):
    shape = [*SHAPE, f"runs_root={tmp_path}"]
    with pytest.raises(NoEarlierRun, match="there is no finished run of method=grpo"):
        init_of(*shape, "init=grpo")
    # The objective is the run's own: GRPO has no Challenger.
    start([*shape, "init=grpo", "method=lsp_zero", "objective=reward/challenger/mean"])
    out = capsys.readouterr().out
    assert "no finished run of it from this base yet; training one first" in out
    runs = {read_run(p.parent)["method"]: p.parent for p in tmp_path.glob("*/run.json")}
    assert set(runs) == {"grpo", "lsp_zero"}
    init = read_run(runs["lsp_zero"])["init"]
    assert init["run_id"] == runs["grpo"].name and init["text"] in out
    assert init["source"] == str(newest_checkpoint(runs["grpo"]))
    # Named: by id, by folder, by checkpoint; and a run of another method needs init=checkpoint.
    for name in (runs["grpo"].name, runs["grpo"], newest_checkpoint(runs["grpo"])):
        assert init_of(*shape, "init=grpo", f"init.run={name}").run_id == runs["grpo"].name
    with pytest.raises(RunError, match="is a run of lsp_zero, not of grpo; say init=checkpoint"):
        init_of(*shape, "init=grpo", f"init.run={runs['lsp_zero'].name}")


def test_where_an_earlier_run_takes_hours_none_is_made(llama_folder, tmp_path):
    overrides = [
        "world=paper", f"model.name={llama_folder}", f"runs_root={tmp_path}", "init=grpo",
        "method.log_quality=false", "rollout.max_new_tokens=8", "rollout.max_query_tokens=8",
    ]  # fmt: skip
    said = "method=grpo init=base`, or name one with init.run="
    with pytest.raises(RunError, match=said):
        start(overrides)
    assert not list(tmp_path.iterdir())


def test_an_init_run_of_another_base_is_refused(small_run, llama_folder):
    other = [f"model.name={llama_folder}", "init=checkpoint"]
    with pytest.raises(RunError, match="was trained from another base .*model.name=pocket"):
        init_of(*other, f"init.run={small_run[0]}")
    with pytest.raises(RunError, match="was trained from another base"):
        init_of(*other, f"init.run={newest_checkpoint(small_run[0])}")
    assert init_of("init=checkpoint", f"init.run={llama_folder}").run_id is None


def test_a_damaged_checkpoint_is_refused_as_an_init_too(small_run, tmp_path):
    run = shutil.copytree(small_run[0], tmp_path / "run")
    newest = checkpoint_folders(run)[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="damaged: model.safetensors"):
        init_of("init=checkpoint", f"init.run={newest}")
    newest.rename(newest.with_name("step-000003.bad"))
    assert [path.name for path in checkpoint_folders(run)] == ["step-000002"]


def test_an_adapter_is_merged_into_the_base_that_it_was_trained_on(tmp_path):
    """What it says of its base is compared; a folder by its place, a name by itself."""

    def adapter(**values):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(values))
        return ["init=checkpoint", f"init.run={folder}"]

    hub = ["world=paper", "model.name=some/one"]
    found = init_of(*adapter(base_model_name_or_path="pocket"))
    assert found.is_adapter and found.text.endswith("merged into pocket")
    assert init_of(*adapter()).is_adapter  # it does not say
    assert init_of(*hub, *adapter(base_model_name_or_path="some/one")).is_adapter
    with pytest.raises(RunError, match="is an adapter of a/b, and this run's base is model.name="):
        init_of(*hub, *adapter(base_model_name_or_path="a/b"))
    with pytest.raises(RunError, match="is an adapter of revision abc of some/one; set model.rev"):
        init_of(*hub, *adapter(base_model_name_or_path="some/one", revision="abc"))
    broken = adapter()
    (tmp_path / "3" / "adapter_config.json").write_text("[")
    with pytest.raises(RunError, match="adapter_config.json cannot be read"):
        init_of("init=checkpoint", f"init.run={tmp_path / '3'}")
    assert broken


def test_a_missing_or_damaged_model_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="there is no model in that folder"):
        start(["model.name=./nowhere", f"runs_root={tmp_path}"])
    broken = shutil.copytree("lsp/pocket/base", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(RunError, match="cannot be loaded"):
        start([*SHAPE, f"model.name={broken}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
