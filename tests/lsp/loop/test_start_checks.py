"""What a start refuses a dry run refuses too, in the same words; what a dry run takes, starts."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lsp import train_command
from lsp.loop.checks import metrics_of
from lsp.loop.launch import start
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")
ROOT = Path(__file__).parents[3]
SMALLEST = ("num_steps=1", "num_queries=2", "group_size=2", "tracker=none", "eval=none")


@pytest.fixture(scope="module")
def run_py():
    """What ``run.py`` calls, in this process: what ``sys.exit`` is given ends a process with status
    1 and that text."""
    return train_command.main


@pytest.fixture
def here(tmp_path, monkeypatch, llama_folder):
    """A folder to be in, with a model that is whole and several that are not, and odd files."""
    monkeypatch.chdir(tmp_path)
    for name in ("llama", "weightless", "cut", "wordless", "templateless", "short", "torn"):
        shutil.copytree(llama_folder, tmp_path / name)
    (tmp_path / "weightless/model.safetensors").unlink()
    os.truncate(tmp_path / "cut/model.safetensors", 3000)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "wordless" / file).unlink()
    (tmp_path / "templateless/chat_template.jinja").unlink()
    config = json.loads((tmp_path / "short/config.json").read_text())
    (tmp_path / "short/config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    (tmp_path / "torn/config.json").write_text("{")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/note.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "good.jsonl").write_text('{"instruction": "Name one."}\n')
    (tmp_path / "bad.jsonl").write_text('{"instruction": \n')
    (tmp_path / "other.jsonl").write_text('{"question": "Name one."}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "word " * 900}))
    os.mkfifo(tmp_path / "fifo.txt")
    return tmp_path


OF_DATA = ("model.name=./llama", "method=grpo", "data=alpaca", "rollout.max_new_tokens=4")
REFUSED = {
    # settings
    "runtime.threads=100000": "must be at most 1024",
    "num_queries=1000000000": "must be at most 65536",
    "num_queries=60000 group_size=60000": "more than 1,048,576 answers a step",
    "optim.lr=1e9": "must be at most 10",
    "optim.lr=1e-300": "must be at least 1e-12",
    "rollout.temperature=1e-9": "must be at least 0.01",
    "rollout.top_p=1e-12": "must be at least 0.01",
    "collapse.max_unparsed_frac=1e9": "must be at most 1",
    "collapse.similarity=50": "must be at most 1",
    "tracker=wandb tracker.finish_seconds=100000000000000000000000000": "must be at most 86400",
    "num_steps=two": "must be a whole number",
    "rollout.stop=['']": "holds an empty text, which would end every completion",
    "runtime.device=cuda:x": "is no device",
    "hardware.gpus=4": "start it by torchrun --nproc_per_node=4",
    "model.name='two words'": "is neither a folder here nor a Hub id",
    "model.name='~nobody/model'": "there is no model in that folder",
    "run_dir=''": "is empty. Write what is meant, null for none",
    "prompts.challenger='{nope}'": "{nope} has no value",
    "reward=callable reward.path=gone.reward": "cannot be imported",
    "init=checkpoint": "init=checkpoint does not say which",
    # metrics
    "objective=loss/totl": "is no metric of this run; docs/metrics.md has them all, near it are",
    "objective=kl/challenger/k2 method=grpo": "is no metric of this run",
    "objective=eval/pocket/winrate eval=pocket": "none of its numbers. Near it are eval/pock",
    "objective=eval/mine/win_rate eval=pocket": "is no metric of this run",
    # files
    "init=checkpoint init.run=/nope": "there is no run '/nope', neither as a folder nor as an id",
    "init=checkpoint init.run=./adapter": "has no adapter_model.safetensors; give init.run=<a LoRA",
    "resume=nope": "there is no run 'nope'",
    "resume=auto": "resume=auto needs run_dir=…",
    "run_dir=/dev/null": "run_dir=/dev/null exists and is not empty; give another run_dir",
    "run_dir=taken": "exists and is not empty",
    "run_dir=file/x": "cannot write to the run folder file/x: Not a directory; choose another",
    "run_dir=gone": "cannot write to the run folder gone: Not a directory",
    "run_dir=/proc/x": "cannot write to the run folder /proc/x: Permission denied",
    "runs_root=file": "cannot write to the run folder file: Not a directory",
    f"run_dir={'x' * 300}": "File name too long",
    "prompts.challenger_seeds=fifo.txt prompts.query_form='{written}{seed}'": "is no plain file",
    "method=grpo data=alpaca data.path=nope.jsonl": "there is no file nope.jsonl",
    "model.name=./taken": "there is no model in that folder",
    "model.name=./torn": "there is no model in that folder",
    # memory and device
    "hardware.gpu_memory_gb=0.001": "and hardware.gpu_memory_gb=0.001; alone,",
    "hardware.offload=true": "this run is on the CPU; choose hardware.offload=false",
    "runtime.device=cuda:99": "runtime.device=cuda:99: t",
    # models without their weights
    "model.name=./weightless": "there is no model.safetensors in 'weightless'",
    "model.name=./cut": "a file of its weights is damaged or was not fetched whole",
    "model.name=./wordless": "the model 'wordless' cannot be loaded",
    "model.name=./templateless": "has no chat template",
    "model.name=./short": "tokens, and the model has embeddings for 9",
    "rollout.max_query_tokens=110 rollout.max_new_tokens=90": "the Solver may need",
    "rollout.stop=['中']": "the stop string '中' can never occur",
    "prompts.challenger_stop=['中']": "the stop string '中' can never occur",
    "+model.template_kwargs.messages=1": "template_kwargs cannot hold messages",
    "reward=skywork reward.name=./llama method=frozen_challenger": "is no reward model: its files",
    f"{' '.join(OF_DATA)} data.path=bad.jsonl": "bad.jsonl",
    f"{' '.join(OF_DATA)} data.path=other.jsonl": "other.jsonl",
    f"{' '.join(OF_DATA)} data.path=empty.jsonl": "empty.jsonl",
    f"{' '.join(OF_DATA)} data.path=long.jsonl": "no query of the data set fits",
    # an earlier run that nobody makes
    "world=paper model.name=./llama reward=concise init=grpo rollout.max_new_tokens=9"
    " rollout.max_query_tokens=9": "there is no finished run of method=grpo",
}


def tree(folder):
    """What lies below a folder, with what a change of it would change."""
    return {path: path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(("command", "says"), REFUSED.items(), ids=REFUSED)
def test_what_a_start_refuses_a_dry_run_refuses_in_the_same_words(command, says, here, run_py):
    words = [*SMALLEST, *split(command)]
    before, said = tree(here), []
    for more in ([], ["dry_run=true"]):
        with pytest.raises(SystemExit) as ended:
            run_py([*words, *more])
        said.append(ended.value.code)
    assert said[0] == said[1] and said[0].startswith("error: ") and says in said[0]
    assert "Traceback" not in said[0] and tree(here) == before


def split(command):
    """The words of a command line, quotes kept as Hydra reads them."""
    words = command.replace("two words", "two\0words").split(" ")
    return [word.replace("\0", " ") for word in words]


def test_an_environment_that_no_tracker_knows_is_refused_alike(here, run_py, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    for more in ([], ["dry_run=true"]):
        with pytest.raises(SystemExit, match="^error: WANDB_MODE=sometimes is no mode; use one of"):
            run_py([*SMALLEST, "tracker=wandb", *more])


STARTS = {
    "": "run",
    "method=grpo objective=loss/total rollout.stop=[a] runtime.device=cpu": "run",
    "init=grpo runs_root=runs": "run",
    "objective=reward/challenger/mean optim.role_gradients_every=1 model.lora.rank=2": "new/run",
    "eval=pocket eval.dev_per_cell=1 eval.test_per_cell=1 eval.challenger_samples=8"
    " eval.exact=false objective=eval/pocket/distinct_query_frac": "run",
    "model.name=./llama init=checkpoint init.run=./llama self_reward.mode=generate": "empty",
    f"{' '.join(OF_DATA)} data.path=good.jsonl": "run",
}


@pytest.mark.parametrize(("command", "folder"), STARTS.items(), ids=STARTS)
def test_what_a_dry_run_takes_starts(command, folder, here, run_py, capsys):
    (here / "empty").mkdir()
    words = [*SMALLEST, *command.split(), f"run_dir={folder}"]
    before = tree(here)
    run_py([*words, "dry_run=true"])
    assert "\nplan: " in capsys.readouterr().out and tree(here) == before
    run_py(words)
    assert json.loads((here / folder / "run.json").read_text())["status"] == "finished"
    # It can be gone on with, and a dry run says so; another run cannot begin there.
    going_on, before = [f"resume={folder}", "num_steps=2"], tree(here)
    run_py([*going_on, "dry_run=true"])
    assert f"goes on   with {folder} from step 1" in capsys.readouterr().out
    assert tree(here) == before
    run_py(going_on)
    with pytest.raises(SystemExit, match="exists and is not empty"):
        run_py([*words, "dry_run=true"])


def test_a_run_that_another_process_writes_is_refused_alike(here, run_py):
    from lsp.run.folder import lock_run

    run_py([*SMALLEST, "run_dir=run"])
    with lock_run(here / "run"):
        for more in ([], ["dry_run=true"]):
            with pytest.raises(SystemExit, match="^error: another process is writing to run; wait"):
                run_py(["resume=run", "num_steps=2", *more])


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lsp"],
        ["method=grpo"],
        ["method=lsp_zero", "method.log_quality=false", "method.kl_estimator=exact"],
        ["method=gated_penalised", "rollout.max_query_tokens=8"],
        ["reward=weighted", "world=pocket"],
    ],
    ids=" ".join,
)
def test_the_metrics_that_are_foreseen_are_those_of_a_run(overrides, small, tmp_path):
    """Else a right objective would be refused, or a wrong one found out after the first step."""
    from fnmatch import fnmatchcase

    command = [*small, *overrides, "tracker=none", "optim.role_gradients_every=1"]
    command.append(f"run_dir={tmp_path / 'run'}")
    if "reward=weighted" in overrides:
        part = "+reward.parts.{0}.weight=1 +{1}@reward.parts.{0}.reward={2}"
        command += part.format("short", "reward", "concise").split()
    foreseen = metrics_of(compose(command))
    start(command)
    found = {key for line in read_metrics(tmp_path / "run") for key in line} - {"step"}
    stray = [key for key in found if not any(fnmatchcase(key, name) for name in foreseen)]
    assert not stray
    # Not where nothing of their kind happened within three steps.
    rare = {"reward/challenger/invalid", "quality/std", "quality/weighted_std_ratio"}
    assert {name for name in foreseen if "*" not in name} - found <= rare
