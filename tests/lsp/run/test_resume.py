"""Going on with a run: what is found, what is refused how, and what moves aside."""

import json
import os
import shutil
from pathlib import Path

import pytest

import lsp.files
from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.report.record import read_record
from lsp.run.checkpoint import checkpoint_folders
from lsp.run.resume import find_resumed, saved_config, supersede
from lsp.settings.compose import compose
from lsp.tracking.reader import read_manifest, read_metrics, shard, trace_steps

SMALL = ["num_queries=2", "group_size=2", "eval=none"]
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def run_copy(small_run, tmp_path):
    """A copy of the small run that a test may damage."""
    return shutil.copytree(small_run[0], tmp_path / "run")


def found(*overrides):
    return find_resumed(compose(overrides), overrides)


def test_a_difference_to_the_saved_settings_is_refused_and_shown(small_run):
    folder, _ = small_run
    for changes, shown in (
        (["method.beta=0.7"], "method.beta: the run has 0.1, the command line says 0.7"),
        (["method=grpo"], "method.queries: the run has challenger, the command line says dataset"),
        (["num_steps=2"], "num_steps: the run has 3, the command line says 2"),
        (["tracker=none"], "tracker._target_: the run has lsp.tracking.wandb.WandbTracker, the"),
    ):
        with pytest.raises(RunError, match=shown):
            found(f"resume={folder}", *changes)
    assert found(f"resume={folder}", "num_queries=4", "method=lsp").finished


def test_how_the_work_is_cut_may_change_and_num_steps_may_grow(small_run):
    folder, _ = small_run
    resumed = found(f"resume={folder}", "num_steps=5", "optim.micro_batch_tokens=99",
                    "rollout.max_rows=7", "hardware.parallel=fsdp")  # fmt: skip
    config = resumed.spec.config
    assert (resumed.spec.step, resumed.finished, resumed.changed) == (3, False, True)
    assert (config.num_steps, config.optim.micro_batch_tokens) == (5, 99)
    assert (config.rollout.max_rows, config.hardware.parallel) == (7, "fsdp")
    assert resumed.spec.checkpoint == folder / "checkpoints" / "step-000003"
    with pytest.raises(ValueError, match="micro_batch_tokens=0: must be at least 1"):
        found(f"resume={folder}", "optim.micro_batch_tokens=0")
    assert saved_config(folder).num_steps == 3  # nothing is written before the run goes on


def test_a_run_grows_is_saved_as_grown_and_passes_over_strange_lines(run_copy):
    with (run_copy / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"a": 1}\n5\n\xff\n')
    (run_copy / "trace" / "step-bad.parquet").write_bytes(b"x")
    assert start([f"resume={run_copy}", "num_steps=5"])["steps"] == 5
    assert trace_steps(run_copy) == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_metrics(run_copy)] == [0, 1, 2, 3, 4, 5]
    again = found(f"resume={run_copy}")
    assert (again.spec.config.num_steps, again.spec.step, again.finished) == (5, 5, True)


def test_last_values_survive_a_resume_after_the_last_step(run_copy, small_run):
    """Killed while the test split was being evaluated: everything but the summary is there."""
    (run_copy / "summary.json").unlink()
    assert not found(f"resume={run_copy}").finished  # also where run.json says that it is
    run = json.loads((run_copy / "run.json").read_text())
    (run_copy / "run.json").write_text(json.dumps({**run, "status": "running"}))
    summary = start([f"resume={run_copy}"])
    key = "last/eval/pocket/win_rate"
    assert summary[key] == small_run[1][key]
    assert summary["final/accuracy"] == small_run[1]["final/accuracy"] > 0


def test_resume_auto_starts_or_goes_on(small_run, tmp_path):
    assert found("resume=auto", f"run_dir={tmp_path / 'new'}") is None
    assert found("resume=auto", f"run_dir={small_run[0]}").finished
    with pytest.raises(RunError, match="resume=auto needs run_dir"):
        found("resume=auto")


def test_a_finished_run_says_so(small_run, capsys):
    folder, summary = small_run
    assert start([f"resume={folder}"]) == json.loads(json.dumps(summary))
    assert "is finished (3 steps); nothing to do" in capsys.readouterr().out


def test_a_refused_resume_deletes_nothing(run_copy, monkeypatch):
    """Before its first checkpoint, and refused while it loads."""
    shutil.rmtree(run_copy / "checkpoints")
    (run_copy / "metrics.jsonl").unlink()

    def refuse(*arguments):
        raise ValueError("no")

    monkeypatch.setattr("lsp.players.load_players", refuse)
    with pytest.raises(RunError, match="^no$"):
        start([f"resume={run_copy}", "num_steps=4"])
    assert len(trace_steps(run_copy / "superseded-1")) == 3
    assert (run_copy / "config.yaml").is_file()


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


def test_a_run_whose_base_has_changed_is_refused(run_copy):
    run = json.loads((run_copy / "run.json").read_text())
    (run_copy / "run.json").write_text(json.dumps({**run, "base": "sha256:other"}))
    with pytest.raises(
        RunError, match=r"the base model of .* \(pocket\) has changed since the run"
    ):
        found(f"resume={run_copy}")


def test_damaged_files_of_a_run_are_named(run_copy):
    newest = checkpoint_folders(run_copy)[-1]
    (newest / "checkpoint.json").write_text("{")
    with pytest.raises(RunError, match=r"step-000003 is damaged: checkpoint.json"):
        found(f"resume={run_copy}")
    (run_copy / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"(?s)the settings of .* cannot be used.*init=checkpoint"):
        found(f"resume={run_copy}")
    (run_copy / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run.json cannot be read: .*; if it was one, move it"):
        found(f"resume={run_copy}")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"\xff\xfe", b""])
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "checkpoint"])
def test_any_damage_to_a_run_is_a_message(run_copy, name, content):
    newest = checkpoint_folders(run_copy)[-1]
    path = newest / "checkpoint.json" if name == "checkpoint" else run_copy / name
    path.write_bytes(content)
    with pytest.raises(RunError):
        found(f"resume={run_copy}")


def test_a_dry_run_of_a_resume_says_from_where(run_copy, capsys):
    assert start([f"resume={run_copy}", "num_steps=9", "dry_run=true"]) is None
    out = capsys.readouterr().out
    assert "from step 3" in out and "9 steps" in out
    with pytest.raises(RunError, match="there is no run 'nope'"):
        start(["resume=nope", "dry_run=true"])


def lose_a_line_and_a_shard(run_copy):
    lines = (run_copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_copy / "metrics.jsonl").write_text("".join([*lines[:2], lines[3]]))  # steps 0, 1, 3
    shard(run_copy, 1).write_bytes(b"PAR1")


def test_damage_before_the_checkpoint_needs_consent(run_copy, capsys):
    lose_a_line_and_a_shard(run_copy)
    before = sorted(run_copy.rglob("*"))
    told = (
        r"is damaged: step 1 has another shard in trace/ than was written; step 2 has no line in"
        rf" metrics.jsonl. Restore it, .*python run.py resume={run_copy} accept_gap=true"
    )
    with pytest.raises(RunError, match=told):
        found(f"resume={run_copy}", "num_steps=4")
    assert sorted(run_copy.rglob("*")) == before
    with pytest.raises(ConfigError, match="there is no record yet that could have a gap"):
        compose(["accept_gap=true"])


def test_a_run_goes_on_without_what_is_lost_and_says_so_from_then_on(run_copy, capsys):
    lose_a_line_and_a_shard(run_copy)
    start([f"resume={run_copy}", "num_steps=4", "accept_gap=true"])
    assert "accept_gap=true: the record of" in capsys.readouterr().err
    assert (run_copy / "superseded-1" / "trace" / "step-000001.parquet").read_bytes() == b"PAR1"
    assert [line["step"] for line in read_metrics(run_copy)] == [0, 1, 3, 4]
    assert [gap["step"] for gap in read_manifest(run_copy)["gaps"]] == [1, 2]
    assert found(f"resume={run_copy}").finished  # and asks for no consent again
    (warning,) = read_record(run_copy).warnings
    assert warning.startswith("The run went on without these steps of its record (accept_gap=true)")
    assert not saved_config(run_copy).accept_gap


def test_a_record_is_on_the_disk_in_the_order_in_which_its_parts_need_each_other(
    tmp_path, monkeypatch
):
    """Rows and lines, their manifest, the checkpoint, run.json: each is synced before the next one
    is there under its name."""
    folder, order = tmp_path / "run", []
    synced = lsp.files.os.fsync

    def note(descriptor):
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(folder))
        synced(descriptor)

    monkeypatch.setattr(lsp.files.os, "fsync", note)
    start([*SMALL, "num_steps=2", "checkpoint.every=2", "tracker=none", f"run_dir={folder}"])
    names = [str(path) for path in order if not path.name.startswith(".run.")]
    last = [
        max(i for i, name in enumerate(names) if part in name)
        for part in ("step-000002.parquet", "metrics.jsonl", ".manifest.", "step-000002.tmp/model")
    ]
    assert last == sorted(last)
    assert any(path.name.startswith(".run.") for path in order)
