"""What a message tells to type is typed, and does what it promises: each command that the program
prints is taken out of the text that a real situation brought up, and run.

``advice`` marks a test with the functions whose commands it executes; test_advice.py finds all that
print one, so that a new one needs a test.
"""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from advice import ROOT, SHAPE, commands, execute, places_and_texts, refused

from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.report import page
from lsp.report.game import read_index
from lsp.report.record import read_record
from lsp.tracking.reader import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the user stands; with the folder of a run to come, which has a blank in its name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that is done."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    start([*SHAPE, f"run_dir={folder}"])
    return folder


# Where a run starts.


@pytest.mark.advice("lsp/run/init.py:_named", "lsp/settings/rules.py:_broken_rules")
def test_an_init_that_is_not_named_whole(finished, place):
    folder = finished
    for words, fix in (
        ([f"init.run={folder}"], "init=checkpoint"),
        (["init=grpo", f"init.run={folder}"], "init=checkpoint"),
        (["init=checkpoint"], f"init.run={folder}"),
    ):
        said = refused(*SHAPE, *words, kind=(RunError, ConfigError))
        assert fix.partition("run=")[0] in said.lower()
        kept = [word for word in words if word != "init=grpo"]
        assert start([*SHAPE, *kept, fix])["init"].startswith("run lsp")


@pytest.mark.slow
@pytest.mark.advice("lsp/loop/earlier_run.py:command_line", "lsp/run/commands.py:_command")
def test_the_earlier_run_that_is_missing_is_made_by_the_command_that_is_named(
    place, llama_folder, classifier_folder, capsys
):
    data = place.parent / "queries.jsonl"
    data.write_text("\n".join(json.dumps({"instruction": f"say {word}"}) for word in "abc"))
    paper = [*SHAPE[1:], "num_steps=1", "world=paper", f"model.name={llama_folder}",
             f"reward.name={classifier_folder}", "reward.dtype=float32", f"data.path={data}",
             "rollout.max_new_tokens=8", "rollout.max_query_tokens=8",
             "prompts.judge=rate"]  # fmt: skip
    (command,) = commands(refused(*paper, "method=grpo", "init=grpo"))
    assert execute(command)["method"] == "grpo"
    assert "(grpo), step-000001" in start([*paper, "method=grpo", "init=grpo"])["init"]
    # In the pocket world the command is run at once, and said.
    start([*SHAPE, "init=grpo", "method=lsp_zero"])
    (command,) = commands(capsys.readouterr().out)
    assert execute(command)["method"] == "grpo"


@pytest.mark.advice("lsp/model/loading.py:_reason")
def test_a_damaged_checkpoint_is_replaced_by_an_older_one(finished, place):
    run = shutil.copytree(finished, place)
    newest = shutil.copytree(run / "checkpoints" / "step-000003", place.parent / "model")
    (newest / "model.safetensors").write_bytes(b"cut")
    said = refused(*SHAPE, f"model.name={newest}")
    (words,) = re.findall(r"by an older one with (.*)<folder>", said)
    older = f"'{run / 'checkpoints' / 'step-000003'}'"
    assert "step-000003" in start([*SHAPE, *f"{words}{older}".split(" ", 1)])["init"]


@pytest.mark.advice(
    "lsp/model/loading.py:load_pretrained",
    "lsp/model/loading.py:read_files",
    "lsp/settings/rules.py:_model_problems",
)
def test_an_adapter_is_given_beside_its_base(place):
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lsp.model.language_model import load_model

    base = ROOT / "lsp" / "pocket" / "base"
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=str(base))
    get_peft_model(model, adapted).save_pretrained(place.parent / "adapter")
    adapter = place.parent / "adapter"
    said = refused(*SHAPE, f"model.name={adapter}", kind=ConfigError)
    with pytest.raises(ValueError) as raised:
        load_model(adapter, "float32", torch.device("cpu"))
    pattern = rf"give its base as model\.name, and the adapter with (.*{adapter})"
    (words,) = {re.search(pattern, text)[1] for text in (said, str(raised.value))}
    assert "merged into pocket" in start([*SHAPE, *words.split()])["init"]


@pytest.mark.slow
def test_processes_are_started_as_the_message_says_and_go_on_as_they_were(place):
    run = [*SHAPE, "hardware=cpu", "hardware.gpus=2", f"run_dir='{place}'"]
    launcher = re.search(r"start it by (torchrun --nproc_per_node=2) ", refused(*run))[1]

    def in_a_shell(command):
        result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    in_a_shell(f"{launcher} run.py {shlex.join(run)}")
    (command,) = commands(refused(f"run_dir='{place}'"))
    assert command.startswith("torchrun --nproc_per_node 2 run.py ")
    in_a_shell(f"{command} num_steps=4")
    assert read_metrics(place)[-1]["step"] == 4


# Several values, evaluations, comparisons.


@pytest.mark.slow
@pytest.mark.advice("lsp/settings/compose.py:_checked")
def test_several_values_are_a_multirun(place):
    said = refused(*SHAPE, "dry_run=true", "seed=0,1", f"run_dir={place}", kind=ConfigError)
    (command,) = commands(said.rstrip("."))
    result = subprocess.run(
        [sys.executable, *shlex.split(command)[1:], f"hydra.sweep.dir={place.parent}"],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\nplan: ") == 2
    with pytest.raises(SystemExit) as raised:
        execute("python -m eval", "run=a,b", "benchmark=pocket")
    assert "is several values. Choose one" in str(raised.value)


@pytest.mark.advice("eval/compare.py:read_evaluation", "eval/bars.py:read_evaluations",
        "lsp/plan/text.py:plan", "lsp/report/matrix.py:read_matrix")  # fmt: skip
def test_evaluations_that_are_missing_are_made_by_the_commands_that_are_named(
    finished, place, capsys
):
    from eval.crossplay import read_matrix

    shutil.copytree(finished, place)

    def said_by(command):
        with pytest.raises(SystemExit) as raised:
            execute(command)
        return str(raised.value)

    start([*SHAPE, "dry_run=true"])
    *_, command = commands(capsys.readouterr().out)
    assert command == "python -m eval run=<run> dry_run=true"
    execute(command.replace("<run>", shlex.quote(f"'{place}'")), "benchmark=pocket")
    assert "calls" in capsys.readouterr().out
    compare = f"python -m eval.compare '{place}' '{place}' benchmark=pocket"
    execute(commands(said_by(compare))[0], "benchmark.per_cell=1")
    execute(compare)
    figure = f"python -m eval.figures '{place}' figure=2 benchmark=pocket"
    said = said_by(figure)
    assert "no run has the control" in said
    execute(commands(said)[0], "benchmark.per_cell=1")
    execute(figure)
    assert (place.parent / "outputs" / "figures" / "figure-2.png").is_file()
    with pytest.raises(RunError) as raised:
        read_matrix(place / "crossplay")
    (command,) = commands(str(raised.value))
    execute(command.replace("RUN", f"'{place}'"), "queries=4", "samples=2")
    assert read_matrix(place / "crossplay")


@pytest.mark.advice("lsp/report/page.py:_game")
def test_a_step_that_a_report_leaves_out_is_shown_whole(finished, capsys):
    record = read_record(finished)
    index = read_index(finished, record.world)
    (command,) = commands(page._game(record, index, 1, {})["note"])
    execute(command.replace("step=N", "step=2"))
    assert "step 2" in capsys.readouterr().out


# All of them.


USAGE = {
    *("eval/compare.py:main", "eval/crossplay.py:cross_play", "eval/figures.py:make_figures"),
    *("lsp/report/__main__.py:main", "sweeps/reproduce.py:main", "lsp/play.py:main"),
    *("lsp/show.py:main", "lsp/view.py:main", "lsp/workspace.py:main", "lsp/cli/help.py:overview"),
    "lsp/cli/table.py",
}
"""What a command says of its own use, RUN in the place of a run."""
OWN = {
    *("lsp/train_command.py:one_job", "sweeps/compare.py:train_all"),
    *("sweeps/local.py:command_lines", "lsp/cli/completion.py", "sweeps/parallel.py:shown"),
    *("sweeps/paper.py:run_command", "sweeps/phase.py:play", "sweeps/reproduce.py"),
}
"""Command lines that the program itself makes or looks for."""
INSTALLED = {
    *("eval/plan.py:count_tokens", "eval/template.py:read_template"),
    *("lsp/model/smollm2.py:main", "lsp/doctor.py:all_lines", "lsp/cli/requirements.py"),
    *("eval/mathematics.py:math_verify", "eval/humaneval.py:shipped_tasks"),
    *("lsp/instructions/checkers.py:_loaded", "lsp/instructions/checkers.py:problem_of"),
    "lsp/instructions/verifier.py:package_problems",
    *("lsp/queries/dataset.py:_rows", "lsp/queries/dataset.py:InstructionQueries"),
}


def test_each_command_that_the_code_prints_is_executed_in_a_test():
    executed = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for places in re.findall(r"(?ms)^@pytest\.mark\.advice\((.*?)\)$", file.read_text()):
            executed.update(re.findall(r'"(.*?)"', places))
    assert executed | USAGE | INSTALLED | OWN == set(dict(places_and_texts()))


def test_commands_and_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for place, text in places_and_texts():
        for module in re.findall(r"python -m ([a-z]\w*(?:\.\w+)*)", text):
            found = importlib.util.find_spec(module)
            assert found, (place, module)
            if found and found.submodule_search_locations:
                assert importlib.util.find_spec(f"{module}.__main__"), (place, module)
        for extra in re.findall(r"pip install '\.\[([\w-]+)\]'", text):
            assert extra in extras["optional-dependencies"], (place, extra)
