"""Who answers, by what weights, and answers that are written once and gone on with."""

import gzip
import json
import shutil
from dataclasses import replace

import pytest

from eval.answers import (
    Sampling,
    answers_so_far,
    base_side,
    read_instructions,
    ready_answers,
    resolve_side,
    write_answers,
)
from lsp.errors import RunError


def test_killed_answers_go_on(small_run, data, tmp_path):
    instructions = read_instructions(str(data))
    side = resolve_side(str(small_run[0]), "outputs")
    sampling = Sampling(0.01, 8, 4, "float32", "cpu", None, {}, 0)
    path = tmp_path / "answers.jsonl"
    whole = write_answers(side, instructions, sampling, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])
    assert write_answers(side, instructions, sampling, path) == whole
    assert list(answers_so_far(path)) == list(range(12))


def test_a_server_answers_with_the_weights_that_it_is_given(small_run, data, tmp_path, vllm_stub):
    """And its answers are kept apart from those of this process, wherever it stands."""
    instructions, server = read_instructions(str(data)), vllm_stub()
    here = Sampling(0.0, 8, 4, "float32", "cpu", None, {}, 0)
    there = replace(here, url=server.url)
    side = resolve_side(str(small_run[0]), "outputs")
    written = write_answers(side, instructions, there, tmp_path / "there.jsonl")
    assert written == write_answers(side, instructions, here, tmp_path / "here.jsonl")
    assert len(server.bodies) == len(instructions) and server.calls.count("/resume") == 1
    assert here.identity != there.identity == replace(here, url="http://other:1").identity


def test_changed_weights_are_another_model(small_run, data, tmp_path):
    folder = shutil.copytree(small_run[0] / "checkpoints" / "step-000003", tmp_path / "model")
    before = resolve_side(str(folder), "outputs").identity
    assert resolve_side(str(folder), "outputs").identity == before
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\0\1")
    assert resolve_side(str(folder), "outputs").identity != before


def test_the_base_is_of_the_revision_that_the_run_took(small_run, tmp_path, monkeypatch):
    """And of a Hub id what is loaded is what was looked up, whatever is pushed meanwhile."""
    looked_up = []
    commits = {"main": "c0ffee", "v2": "facade"}
    monkeypatch.setattr(
        "eval.answers.hub_commit", lambda *what: looked_up.append(what) or commits[what[1]]
    )
    run = shutil.copytree(small_run[0], tmp_path / "run")
    run_json = json.loads((run / "run.json").read_text()) | {
        "model": "some/one",
        "base": "some/one@v2",
    }
    (run / "run.json").write_text(json.dumps(run_json))
    base = base_side(resolve_side(str(run), "outputs"))
    assert (base.model, base.revision, base.identity) == ("some/one", "facade", "some/one@facade")
    assert resolve_side("some/other", "outputs").revision == "c0ffee"
    assert looked_up == [("some/one", "v2"), ("some/other", "main")]
    assert base_side(resolve_side(str(run), "outputs"), look_up=False).revision == "v2"


@pytest.mark.parametrize("model", ["gone", "./gone", "pocket"])
def test_a_base_that_is_gone_or_changed_is_one_error(small_run, tmp_path, model):
    run = shutil.copytree(small_run[0], tmp_path / "run")
    run_json = json.loads((run / "run.json").read_text()) | {"model": model, "base": "sha256:0123"}
    (run / "run.json").write_text(json.dumps(run_json))
    with pytest.raises(RunError, match="is not there any more, or has changed since .* baseline="):
        base_side(resolve_side(str(run), "outputs"), look_up=False)


def test_a_kill_while_the_model_loads_loses_no_answer(small_run, data, tmp_path, monkeypatch):
    instructions = read_instructions(str(data))
    side = resolve_side(str(small_run[0]), "outputs")
    sampling = Sampling(0.01, 8, 4, "float32", "cpu", None, {}, 0)
    path = tmp_path / "answers.jsonl"
    write_answers(side, instructions, sampling, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])

    def killed(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.answers._generated", killed)
    with pytest.raises(KeyboardInterrupt):
        write_answers(side, instructions, sampling, path)
    assert path.read_text() == "".join(lines[:5])


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".json.gz"])
def test_ready_answers_come_in_every_format(tmp_path, ending):
    """And may hold every line separator of Unicode, or nothing."""
    rows = [
        {"instruction": "a\u2028b", "output": "c\u2029d\x85"},
        {"instruction": "x", "output": ""},
    ]
    texts = {
        ".json": json.dumps(rows),
        ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        ".csv": "instruction,output\na\u2028b,c\u2029d\x85\nx,\n",
    }
    data = texts[ending.removesuffix(".gz")].encode()
    path = tmp_path / "gpt" / f"answers{ending}"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    side = resolve_side(str(path), "outputs")
    assert (side.name, side.file) == ("gpt-answers", path.resolve())
    assert ready_answers(path, read_instructions(str(path))) == [row["output"] for row in rows]
    with pytest.raises(RunError, match="gone.csv is to be a file of answers, and there is no file"):
        resolve_side("gone.csv", "outputs")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "x"}], "row 1 has no column 'instruction'"),
        ([{"instruction": "x"}, {"instruction": "x"}], "some instructions stand twice"),
        ({"instruction": "x"}, "holds an object, and must hold an array of objects"),
        ([], "holds no instructions"),
        (
            [{"instruction": "x", "dataset": "a"}, {"instruction": "y"}],
            "1 of 2 rows have no",
        ),
        ([{"instruction": "x", "dataset": "overall"}], "row 1: dataset='overall' is no name"),
        ([{"instruction": "x", "dataset": None}], "row 1: dataset=None is no name"),
        ([{"instruction": "x", "dataset": "a\x1b[31m"}], "row 1: dataset=.* is no name of a set"),
        ([{"instruction": "\ud800"}], "row 1: 'instruction' holds half a character"),
    ],
)
def test_bad_benchmarks(tmp_path, rows, says):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(RunError, match=says):
        read_instructions(str(path))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no answer to 12 of 12 instructions, for instance 'copy ab'"),
        ([{"instruction": "copy ab"}], "row 1 has no column 'output'; it has 'instruction'"),
        ([{"instruction": "copy ab", "output": "x"}] * 2, "row 2: its instruction stands twice"),
    ],
)
def test_bad_answer_files(data, tmp_path, rows, says):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(RunError, match=says):
        ready_answers(path, read_instructions(str(data)))
