"""What a run tells to type as it ends early, or where its folder is not what was meant, is typed
and does what it promises (as in test_advice.py)."""

import importlib.util
import re
import shutil
import sys

import pytest
from advice import SHAPE, commands, execute, failing, refused

from lsp.cli.main import run
from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.loop.progress import Progress
from lsp.report.record import read_record
from lsp.run.checkpoint import checkpoint_folders
from lsp.run.folder import read_run, saved_tree, update_run
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the user stands; with the folder of a run to come, which has a blank in its name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my run"


def steps_of(folder):
    return [line["step"] for line in read_metrics(folder)]


# Runs that end early.


@pytest.mark.advice("lsp/loop/recorder.py:interrupt", "lsp/report/record.py:state")
def test_a_stopped_and_a_killed_run_go_on(interrupted_run, tmp_path):
    folder, said = interrupted_run
    copy = shutil.copytree(folder, tmp_path / "run")
    (command,) = commands(said)
    assert f"go on with: {command}" in said
    assert commands(read_record(folder).state) == [command]
    assert execute(command.replace(str(folder), str(copy)))["steps"] == 5
    killed = shutil.copytree(folder, tmp_path / "killed")
    update_run(killed, status="running")
    (command,) = commands(read_record(killed).state)
    execute(command)
    assert steps_of(killed) == steps_of(copy) == [1, 2, 3, 4, 5]


REWARDS = """
import pathlib
from lsp.contracts import Reward, RewardSettings
from lsp.settings.schema import Code, setting, settings

def lengths(queries, answers):
    if pathlib.Path(__file__).with_suffix(".broken").exists():
        raise RuntimeError("the disk is full")
    return [float(len(answer)) for answer in answers]

@settings
class Mine(RewardSettings):
    path: Code = setting("a function")
    def build(self, context):
        return Lengths()

class Lengths(Reward):
    def __call__(self, queries, answers):
        try:
            return lengths(queries, answers)
        except RuntimeError as error:
            raise ValueError(f"{error}; make room") from error
"""
NAMED = {
    "a function": ["reward=callable", "reward.path=my_rewards.lengths"],
    "a part of a sum": [
        "reward=weighted", "reward.parts.verifier.weight=0.5",
        "+reward@reward.parts.long.reward=callable", "+reward.parts.long.weight=0.1",
        "reward.parts.long.reward.path=my_rewards.lengths", "reward.parts.long.reward.range=[0,99]",
    ],
    "a class and its function in a sum": [
        "reward=weighted", "+reward.parts.mine={weight: 0.5, reward: {_target_: my_rewards.Mine,"
        " path: my_rewards.lengths}}",
    ],
    "a function beside a model with code": [
        "reward=callable", "reward.path=my_rewards.lengths", "model.trust_remote_code=true",
        "rollout.max_rows=8", "run_name='a, b'",
    ],
}  # fmt: skip


@pytest.fixture
def my_rewards(place, monkeypatch):
    """The user's module, importable; its rewards fail while the file that this returns is there."""
    (place.parent / "my_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(place.parent)
    yield place.parent / "my_rewards.broken"
    sys.modules.pop("my_rewards", None)


@pytest.mark.advice("lsp/loop/outcome.py:told", "lsp/run/resume.py:_trusting")
@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_a_run_whose_command_line_names_code_goes_on_by_what_its_error_says(
    place, my_rewards, monkeypatch, named
):
    def break_after_a_step(progress, step, metrics):
        if step == 1:
            my_rewards.touch()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", break_after_a_step)
        said = refused(*SHAPE, *named, "checkpoint.every=1", f"run_dir='{place}'")
    (command,) = commands(said)
    assert "the disk is full" in said and f"\ngo on with: {command}" in said
    my_rewards.unlink()
    # ``resume`` alone, as somebody may type it, is answered with the same command.
    alone = refused(f"resume='{place}'")
    assert commands(alone)[0] == command and "code" in alone
    assert execute(command)["status"] == "finished" and steps_of(place) == [1, 2, 3]
    # Longer by a later command line, it still is.
    execute(command, "num_steps=4")
    assert execute(command)["steps"] == 4


@pytest.mark.advice("lsp/run/resume.py:saved_config")
def test_settings_that_cannot_be_used_are_trusted_by_each_command_or_begun_anew(
    place, my_rewards, monkeypatch, capsys
):
    start([*SHAPE, *NAMED["a part of a sum"], f"run_dir='{place}'"])
    said = refused(f"resume='{place}'")
    again = commands(said)[-1]
    assert f"from its weights: {again}" in said
    assert execute(again)["init"].startswith(f"run {read_run(place)['id']}")
    trust = re.search(r"lsp play and lsp crossplay say (.*); else", said)[1]
    monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
    monkeypatch.setattr("sys.stdin.reconfigure", lambda **more: None, raising=False)
    execute(f"python -m lsp.play '{place}' {trust}")
    assert "type a query" in capsys.readouterr().out
    execute(f"python -m eval.crossplay '{place}' queries=4 samples=2 last_only=true {trust}")
    assert (place / "crossplay" / "crossplay.csv").is_file()


def test_a_full_disk_and_a_lost_process_end_a_run_that_then_goes_on(place, monkeypatch):
    for function, at, error in (
        ("lsp.loop.recorder.save_checkpoint", 2, OSError(28, "No space left on device")),
        ("lsp.learner.Learner.update", 1, RuntimeError("gloo: connection closed by peer")),
    ):
        owner, _, name = function.rpartition(".")
        with monkeypatch.context() as patch:
            original = getattr(
                Learner if name == "update" else importlib.import_module(owner), name
            )
            patch.setattr(function, failing(original, at, error))
            resume = [f"resume='{place}'"] if place.exists() else [f"run_dir='{place}'"]
            said = refused(*SHAPE[1:], *resume, "num_steps=3", "checkpoint.every=1")
        (command,) = commands(said)
        if name == "save_checkpoint":
            assert "the run could not be written" in said
        else:
            assert "another process of the run has ended" in said
    assert execute(command)["status"] == "finished" and steps_of(place) == [1, 2, 3]


def test_a_second_ctrl_c_ends_a_run_at_once_and_it_goes_on(place, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", failing(Learner.update, 3, KeyboardInterrupt()))
        assert run("train", [*SHAPE, "checkpoint.every=1", f"run_dir='{place}'"]) == 130
    (command,) = commands(capsys.readouterr().err)
    assert execute(command)["status"] == "finished" and steps_of(place) == [1, 2, 3]


def test_out_of_memory_goes_on_in_smaller_parts_or_starts_again_from_the_weights(
    place, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_backward", failing(Learner._backward, 3, MemoryError()))
        said = refused(*SHAPE, "checkpoint.every=1", "method=lsp_zero", f"run_dir='{place}'")
    go_on, again = commands(said)
    setting = said.partition("written behind it")[0].rpartition("; with ")[2].split(", ")[2]
    assert setting == "optim.micro_batch_tokens"
    first = checkpoint_folders(place)[-1].name
    summary = execute(again, "model.dtype=bfloat16")
    assert (summary["method"], summary["steps"]) == ("lsp_zero", 3) and first in summary["init"]
    assert execute(go_on, f"{setting}=64")["status"] == "finished"
    assert compose([]).optim.micro_batch_tokens != 64 and steps_of(place) == [1, 2, 3]


@pytest.mark.advice(
    "lsp/loop/recorder.py:_count_skipped", "lsp/run/commands.py:start_again_command"
)
def test_steps_without_a_gradient_are_left_by_a_checkpoint_and_a_lower_rate(place, monkeypatch):
    def not_a_number(learner, rows, step):
        stats = update(learner, rows, step)
        if step > 1:
            monkeypatch.setattr(type(stats), "metrics", lambda s: {"optim/skipped": 1.0})
        return stats

    update = Learner.update
    monkeypatch.setattr(Learner, "update", not_a_number)
    said = refused(*SHAPE, "checkpoint.every=1", "optim.max_skipped_steps=2", "optim.lr=2e-3",
                   f"run_dir='{place}'")  # fmt: skip
    (command,) = commands(said)
    monkeypatch.undo()
    monkeypatch.chdir(place.parent)
    summary = execute(command, f"runs_root={place.parent / 'more'}")
    assert f"checkpoint step-000002 of run {read_run(place)['id']}" in summary["init"]
    (again,) = (place.parent / "more").iterdir()
    assert saved_tree(again)["optim"]["lr"] == 1e-3


@pytest.mark.advice("lsp/loop/recorder.py:_write_report")
def test_a_report_that_failed_is_written_by_the_command_that_is_named(place, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("lsp.report.curves.save_curves", failing(None, 1, OSError("no font")))
        start([*SHAPE, f"run_dir='{place}'"])
    (command,) = commands(capsys.readouterr().out)
    assert "report" in command
    execute(command)
    assert str(place / "report.html") in capsys.readouterr().out


# Folders that are not what was meant.


@pytest.mark.advice("lsp/run/place.py:check_free", "lsp/run/resume.py:_agreed")
def test_a_folder_that_is_taken_and_settings_that_differ_go_on_with_the_run_in_it(
    interrupted_run, place
):
    shutil.copytree(interrupted_run[0], place)
    taken = refused(*SHAPE, f"run_dir='{place}'")
    differ = refused(f"resume='{place}'", "method.beta=0.7", "seed=3")
    assert commands(taken) == commands(differ)
    assert "method.beta: the run has 0.1" in differ
    assert execute(commands(taken)[0])["steps"] == 5
    (place.parent / "notes").mkdir()
    (place.parent / "notes" / "note").touch()
    assert not commands(refused(f"run_dir={place.parent / 'notes'}"))  # no run is in it


@pytest.mark.advice("lsp/run/resume.py:_accept")
def test_a_damaged_record_is_gone_on_with_by_consent(interrupted_run, place):
    shutil.copytree(interrupted_run[0], place)
    (place / "trace" / "step-000001.parquet").unlink()
    (command,) = commands(refused(f"resume='{place}'"))
    assert command.endswith("accept_gap=true")
    assert execute(command)["status"] == "finished" and steps_of(place) == [1, 2, 3, 4, 5]


@pytest.mark.advice("lsp/run/resume.py:find_resumed")
def test_a_run_that_never_began_is_begun_in_its_folder(place, monkeypatch):
    def killed(spec, lock, *others):
        lock.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lsp.loop.launch.run", killed)
        start([*SHAPE, "method=lsp_zero", f"run_dir='{place}'"])
    (command,) = commands(refused(f"resume='{place}'"))
    assert execute(command)["method"] == "lsp_zero" and steps_of(place) == [1, 2, 3]
    said = refused("resume=auto")
    assert "resume=auto needs run_dir=…" in said
    assert start(["resume=auto", f"run_dir='{place}'"])["method"] == "lsp_zero"


@pytest.mark.advice("lsp/run/checkpoint.py:named_checkpoint")
def test_a_run_without_a_checkpoint_goes_on_and_saves_one(interrupted_run, place):
    shutil.copytree(interrupted_run[0], place)
    shutil.rmtree(place / "checkpoints")
    from_it = [*SHAPE, "init=checkpoint", f"init.run='{place}'"]
    (command,) = commands(refused(*from_it))
    execute(command)
    assert start(from_it)["init"].startswith("run lsp")
