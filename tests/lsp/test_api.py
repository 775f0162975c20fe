"""``lsp.train`` and ``lsp.load``, and the notebook that shows them."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

import lsp
from lsp.errors import ConfigError, RunError
from lsp.tools.places import ROOT
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.usefixtures("without_pictures")
SHORT = ["num_steps=2", "num_queries=4", "group_size=3", "eval=none", "tracker=none"]
IN_A_FRESH_PYTHON = """
import sys
import lsp
heavy = {"torch", "transformers", "hydra", "numpy", "pyarrow", "wandb"}
assert not heavy & {*sys.modules}, "importing lsp is light"
import lsp.algorithm
assert callable(lsp.train) and callable(lsp.load)
run = lsp.train(sys.argv[1:])
assert run.status == "finished"
assert not [name for name in sys.modules if name.partition(".")[0] == "wandb"], "tracker=none"
"""


def test_importing_is_light_and_without_a_tracker_nothing_of_wandb_is_imported(tmp_path):
    words = [*SHORT, f"run_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "WANDB_API_KEY": "x" * 40}  # which nobody looks at
    subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PYTHON, *words],
        cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_run_is_made_and_its_folder_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsp.run.folder.IS_CHECKOUT", False)  # which may have runs too
    run = lsp.train(SHORT)
    assert run.folder.parent.name == "outputs" and run.id == run.folder.name
    assert run.summary["steps"] == 2 and run.settings["num_queries"] == 4
    longer = lsp.train([f"resume={run.id}", "num_steps=3"])
    assert longer == run and longer.summary["steps"] == 3
    named = lsp.train([*SHORT, "run_dir=mine", "resume=auto"])
    assert named.folder.name == "mine" and lsp.load("mine") == named
    assert lsp.load(run.id[:8]).folder.resolve() == run.folder.resolve()


def test_what_makes_no_run_is_refused():
    with pytest.raises(RunError, match=r"settings come as a list: lsp.train\(\['seed=1'\]\)"):
        lsp.train("seed=1")
    with pytest.raises(RunError, match="dry_run=true makes no run"):
        lsp.train(["dry_run=true"])
    with pytest.raises(ConfigError, match="seeed=1: no such setting"):
        lsp.train(["seeed=1"])
    with pytest.raises(RunError, match="there is no run 'nowhere'"):
        lsp.load("nowhere")


def test_metrics_are_a_row_a_step_and_null_where_nothing_was_measured(small_run):
    table = lsp.load(small_run[0]).metrics()
    lines = read_metrics(small_run[0])
    assert isinstance(table, pa.Table) and table.num_rows == len(lines)
    names = {name for line in lines for name in line}
    assert set(table.column_names) == names
    for name in ("step", "reward/solver/mean", "eval/pocket/accuracy"):
        assert table[name].to_pylist() == [line.get(name) for line in lines]
    assert table["eval/pocket/accuracy"].null_count > 0


def test_rows_are_those_of_the_trace(small_run):
    run = lsp.load(small_run[0])
    assert run.rows().to_pylist() == read_trace(small_run[0])
    some = run.rows([2], ["query", "reward"])
    assert some.column_names == ["query", "reward"] and some.num_rows == len(
        read_trace(small_run[0], [2])
    )
    assert run.rows([], ["query"]).num_rows == 0


def test_a_model_is_loaded_by_its_checkpoint(small_run):
    run = lsp.load(small_run[0])
    assert run.checkpoints == ["step-000002", "step-000003"]
    model, tokenizer = run.model("step-000002", device="cpu")
    assert model.config.vocab_size >= len(tokenizer)
    with pytest.raises(RunError, match="no checkpoint 'step-9'; it has step-000002"):
        run.model("step-9")


def test_a_run_that_is_damaged_says_which_file(small_run, tmp_path):
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    (folder / "metrics.jsonl").write_text("{\n")
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1"):
        lsp.load(folder).metrics()
    assert lsp.load(folder).status == "finished"


def test_the_notebook_runs_twice(tmp_path, monkeypatch):
    """Its cells in order, as Jupyter would run them, the last expression's value left out."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs/notebooks/first_run.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(not c["outputs"] for c in notebook["cells"] if c["cell_type"] == "code")
    for _ in range(2):
        names = {}
        for cell in cells:
            exec(compile(cell, "first_run.ipynb", "exec"), names)
        assert names["run"].summary["steps"] == 4
        assert names["again"].checkpoints == ["step-000002", "step-000004"]
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]
