"""Run folders, inits, checkpoints, resuming: what is found, and what is refused how."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.run.checkpoint import checkpoint_folders, newest_checkpoint, verified
from lsp.run.folder import create_run, find_run, lock_run, read_run, resume_hint
from lsp.run.init import NoEarlierRun, resolve_init
from lsp.run.resume import find_resumed, supersede
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, trace_steps

RECORD = {"method": "lsp", "model": "pocket", "base": "b", "init": {}, "started": 0.0}


@pytest.fixture
def run_copy(small_run, tmp_path):
    """A copy of the small run that a test may damage."""
    return shutil.copytree(small_run[0], tmp_path / "run")


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


def test_run_ids_are_readable_and_unique(tmp_path):
    config = compose([f"runs_root={tmp_path}", "method=grpo", "seed=7"])
    (one, folder, _), (two, _, _) = create_run(config, RECORD), create_run(config, RECORD)
    assert one != two and one.startswith("grpo-s7-") and folder.name == one


def test_a_run_is_found_by_folder_and_by_id(small_run):
    folder, _ = small_run
    assert find_run(str(folder), "nowhere") == folder
    assert find_run(folder.name, str(folder.parent)) == folder
    with pytest.raises(RunError, match="there is no run 'x'"):
        find_run("x", str(folder.parent))


def test_two_processes_cannot_hold_one_run(tmp_path):
    held = lock_run(tmp_path)
    with pytest.raises(RunError, match="another process is writing"):
        lock_run(tmp_path)
    held.close()
    lock_run(tmp_path).close()


def test_a_damaged_checkpoint_is_refused_by_name_and_the_older_offered(run_copy):
    old, new = checkpoint_folders(run_copy)
    assert verified(new) == newest_checkpoint(run_copy) == new
    weights = new / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=rf"damaged: model.safetensors .*older one is {old}"):
        newest_checkpoint(run_copy)
    (new / "config.json").unlink()
    with pytest.raises(RunError, match="config.json, model.safetensors missing or changed"):
        find_resumed(compose([f"resume={run_copy}"]), [])
    shutil.rmtree(new)
    (old / "trainer.safetensors").unlink()
    with pytest.raises(RunError, match="there is no older one"):
        newest_checkpoint(run_copy)
    shutil.rmtree(old)
    with pytest.raises(RunError, match="has no checkpoint"):
        newest_checkpoint(run_copy)


def test_a_difference_to_the_saved_settings_is_refused_and_shown(small_run):
    folder, _ = small_run
    for given, shown in (
        (["method.beta=0.7"], "method.beta: the run has 0.1, the command line says 0.7"),
        (["method=grpo"], "method.queries: the run has challenger, the command line says dataset"),
        (["num_steps=2"], "num_steps: the run has 3, the command line says 2"),
    ):
        overrides = [f"resume={folder}", *given]
        with pytest.raises(RunError, match=shown):
            find_resumed(compose(overrides), overrides)
    same = [f"resume={folder}", "num_queries=4", "method=lsp"]
    assert find_resumed(compose(same), same).finished


def test_num_steps_may_grow_and_the_run_goes_on(run_copy):
    overrides = [f"resume={run_copy}", "num_steps=5"]
    found = find_resumed(compose(overrides), overrides)
    assert (found.step, found.finished, found.config.num_steps) == (3, False, 5)
    summary = start(overrides)
    assert summary["steps"] == 5 and trace_steps(run_copy) == [1, 2, 3, 4, 5]


def test_a_start_that_was_killed_is_taken_over_and_a_live_one_is_not(tmp_path, small):
    """What a kill while loading leaves: a folder in the state ``starting``."""
    config = compose([f"run_dir={tmp_path / 'run'}"])
    _, folder, lock = create_run(config, RECORD)
    with pytest.raises(RunError, match="another process is writing"):
        create_run(config, RECORD)
    assert (folder / "run.json").is_file()
    lock.close()
    overrides = ["resume=auto", f"run_dir={folder}"]
    assert find_resumed(compose(overrides), overrides) is None
    with pytest.raises(RunError, match="never began; start it with run_dir"):
        find_resumed(compose([f"resume={folder}"]), [])
    assert start([*small, *overrides, "tracker=none"])["status"] == "finished"


def test_a_refused_resume_deletes_nothing(run_copy, monkeypatch):
    """Before its first checkpoint, and refused while it loads."""
    shutil.rmtree(run_copy / "checkpoints")
    (run_copy / "metrics.jsonl").unlink()

    def refuse(*arguments):
        raise ValueError("no")

    monkeypatch.setattr("lsp.loop.recorder.load_players", refuse)
    with pytest.raises(RunError, match="^no$"):
        start([f"resume={run_copy}", "num_steps=4"])
    assert len(trace_steps(run_copy / "superseded-1")) == 3
    assert (run_copy / "config.yaml").is_file()


def test_the_best_checkpoint_is_kept_wherever_it_falls(tmp_path, small):
    folder = tmp_path / "run"
    summary = start([*small, "tracker=none", f"run_dir={folder}", "num_steps=7", "eval.every=3",
                     "checkpoint.every=5", "checkpoint.keep=1", "optim.lr=0.05"])  # fmt: skip
    kept = {int(path.name[5:]) for path in checkpoint_folders(folder)}
    assert kept == {summary["best/step"], 7}


def test_last_values_survive_a_resume_after_the_last_step(run_copy, small_run):
    """Killed while the test split was being evaluated: everything but the summary is there."""
    (run_copy / "summary.json").unlink()
    run = json.loads((run_copy / "run.json").read_text())
    (run_copy / "run.json").write_text(json.dumps({**run, "status": "running"}))
    summary = start([f"resume={run_copy}"])
    key = "last/eval/pocket/win_rate"
    assert summary[key] == small_run[1][key]
    assert summary["final/accuracy"] == small_run[1]["final/accuracy"]


def test_a_damaged_checkpoint_is_refused_as_an_init_too(run_copy):
    newest = checkpoint_folders(run_copy)[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="damaged: model.safetensors"):
        resolve_init(compose(["init=checkpoint", f"init.run={newest}"]))
    newest.rename(newest.with_name("step-000003.bad"))
    assert [path.name for path in checkpoint_folders(run_copy)] == ["step-000002"]


def test_a_grown_num_steps_is_saved(run_copy):
    start([f"resume={run_copy}", "num_steps=4"])
    again = [f"resume={run_copy}"]
    found = find_resumed(compose(again), again)
    assert (found.config.num_steps, found.step, found.finished) == (4, 4, True)


def test_resume_auto_starts_or_goes_on(small_run, tmp_path):
    assert find_resumed(compose(["resume=auto", f"run_dir={tmp_path / 'new'}"]), []) is None
    assert find_resumed(compose(["resume=auto", f"run_dir={small_run[0]}"]), []).finished
    with pytest.raises(RunError, match="resume=auto needs run_dir"):
        find_resumed(compose(["resume=auto"]), [])


def test_a_finished_run_says_so(small_run, capsys):
    folder, summary = small_run
    assert start([f"resume={folder}"]) == json.loads(json.dumps(summary))
    assert "is finished (3 steps); nothing to do" in capsys.readouterr().out


def test_what_lies_past_the_checkpoint_moves_aside(run_copy):
    with (run_copy / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "cut')
    (run_copy / "trace" / ".step-000004.parquet.tmp").write_bytes(b"half")
    alarms = [f'{{"step": {step}, "text": "look"}}\n' for step in (1, 3)]
    (run_copy / "alerts.jsonl").write_text("".join(alarms))
    first = supersede(run_copy, 2)
    assert first.name == "superseded-1"
    assert trace_steps(run_copy) == [1, 2] and trace_steps(first) == [3]
    assert [line["step"] for line in read_metrics(run_copy)] == [0, 1, 2]
    assert (run_copy / "alerts.jsonl").read_text() == alarms[0]
    assert (first / "alerts.jsonl").read_text() == alarms[1]
    assert not list((run_copy / "trace").glob(".*"))
    assert supersede(run_copy, 2) is None
    assert supersede(run_copy, 0).name == "superseded-2"
    assert trace_steps(run_copy) == [] and (run_copy / "metrics.jsonl").read_text() == ""


def test_init_grpo_makes_a_run_first_in_the_pocket_world_and_then_takes_it(small, tmp_path, capsys):
    shape = [*small, f"runs_root={tmp_path}", "tracker=none", "eval=none"]
    shape = [text for text in shape if not text.startswith("eval.")]
    config = compose([*shape, "init=grpo"])
    with pytest.raises(NoEarlierRun, match="make one with `python run.py method=grpo"):
        resolve_init(config)
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
        named = resolve_init(compose([*shape, "init=grpo", f"init.run={name}"]))
        assert named.run_id == runs["grpo"].name
    with pytest.raises(RunError, match="is a run of lsp_zero, not of grpo; say init=checkpoint"):
        resolve_init(compose([*shape, "init=grpo", f"init.run={runs['lsp_zero'].name}"]))


def test_an_init_run_of_another_base_is_refused(small_run, tmp_path, llama_folder):
    other = [f"model.name={llama_folder}", "init=checkpoint"]
    with pytest.raises(RunError, match="was trained from another base .*model.name=pocket"):
        resolve_init(compose([*other, f"init.run={small_run[0]}"]))
    with pytest.raises(RunError, match="was trained from another base"):
        resolve_init(compose([*other, f"init.run={newest_checkpoint(small_run[0])}"]))
    assert resolve_init(compose(["init=checkpoint", f"init.run={llama_folder}"])).run_id is None


def test_a_missing_or_damaged_model_is_one_message(small, tmp_path):
    with pytest.raises(ValueError, match="there is no model in that folder"):
        start(["model.name=./nowhere", f"runs_root={tmp_path}"])
    broken = shutil.copytree("lsp/pocket/base", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(RunError, match="cannot be loaded"):
        start([*small, f"model.name={broken}", f"run_dir={tmp_path / 'run'}", "tracker=none"])
    assert not (tmp_path / "run").exists()


def test_the_run_records_what_it_is(small_run):
    folder, summary = small_run
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "finished" and run["method"] == "lsp" and run["world"] == "pocket"
    assert run["init"]["text"] == "base model pocket" and run["base"].startswith("sha256:")
    assert run["command"].startswith("python run.py num_steps=3")
    assert run["packages"]["torch"] and run["cpus"] >= 1 and run["device"] == "cpu"
    assert summary["run_id"] == run["id"]


def test_damaged_files_of_a_run_are_named(run_copy):
    newest = checkpoint_folders(run_copy)[-1]
    (newest / "checkpoint.json").write_text("{")
    with pytest.raises(RunError, match=r"step-000003 is damaged: checkpoint.json"):
        find_resumed(compose([f"resume={run_copy}"]), [])
    (run_copy / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"(?s)the settings of .* cannot be used.*init=checkpoint"):
        find_resumed(compose([f"resume={run_copy}"]), [])
    (run_copy / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"its run.json cannot be read; if it was one, move it"):
        find_resumed(compose([f"resume={run_copy}"]), [])


@pytest.mark.parametrize("content", [b"[]", b"{}", b"\xff\xfe", b""])
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "checkpoint"])
def test_any_damage_to_a_run_is_a_message(run_copy, name, content):
    newest = checkpoint_folders(run_copy)[-1]
    path = newest / "checkpoint.json" if name == "checkpoint" else run_copy / name
    path.write_bytes(content)
    with pytest.raises(RunError):
        find_resumed(compose([f"resume={run_copy}"]), [])


def test_strange_lines_and_files_are_superseded_or_passed_over(run_copy):
    with (run_copy / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"a": 1}\n5\n\xff\n')
    (run_copy / "trace" / "step-bad.parquet").write_bytes(b"x")
    assert start([f"resume={run_copy}", "num_steps=4"])["steps"] == 4
    assert [line["step"] for line in read_metrics(run_copy)] == [0, 1, 2, 3, 4]


def test_a_finished_run_without_its_summary_is_evaluated_again(run_copy):
    (run_copy / "summary.json").unlink()
    assert start([f"resume={run_copy}"])["final/accuracy"] > 0


def test_hints_can_be_typed_as_they_are(tmp_path):
    assert resume_hint(Path("outputs/lsp-s0-1")) == "resume=outputs/lsp-s0-1"
    for name in ("a b", "x=1", "ü", "2026"):
        (typed,) = shlex.split(resume_hint(Path(name)))
        assert compose([typed]).resume == name


def test_a_dry_run_of_a_resume_says_from_where(run_copy, capsys):
    assert start([f"resume={run_copy}", "num_steps=9", "dry_run=true"]) is None
    out = capsys.readouterr().out
    assert "from step 3" in out and "9 steps" in out
    with pytest.raises(RunError, match="there is no run 'nope'"):
        start(["resume=nope", "dry_run=true"])
