"""The list of runs, and how a run is found by its name."""

import json
import shutil

import pytest

from lsp.errors import RunError
from lsp.run.folder import find_run, places_of_runs, update_run
from lsp.runs import age, main
from lsp.tools.places import ROOT


@pytest.fixture
def outputs(small_run, interrupted_run, tmp_path, monkeypatch):
    """Where a user stands: ``outputs/`` with a finished and an interrupted run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsp.run.folder.IS_CHECKOUT", False)  # which may have runs too
    for name, (folder, _), started in (
        ("lsp-s0-a", small_run, 2e9),
        ("grpo-s0-b", interrupted_run, 3e9),
    ):
        shutil.copytree(folder, tmp_path / "outputs" / name)
        update_run(tmp_path / "outputs" / name, id=name, started=started)
    return tmp_path / "outputs"


def test_the_newest_run_comes_first_with_status_numbers_and_reason(outputs, capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "age", "status", "method", "world", "steps", "number"]
    newest, older = lines[1], lines[2]
    assert newest.split()[0] == "grpo-s0-b" and "interrupted" in newest and "2 of 5" in newest
    assert "Solver's reward" in newest  # nothing was evaluated
    accuracy = json.loads((outputs / "lsp-s0-a/summary.json").read_text())["final/accuracy"]
    assert older.split()[0] == "lsp-s0-a" and "finished" in older and "3 of 3" in older
    assert older.rstrip().endswith(f"{accuracy:.3f} exact accuracy")
    assert "grpo-s0-b: SIGTERM" in lines[3]
    assert lines[-1].startswith("looked in outputs/")


def test_some_of_them_and_not_all(outputs, capsys):
    main(["lsp"])
    assert "grpo-s0-b" not in capsys.readouterr().out
    main(["count=1"])
    out = capsys.readouterr().out
    assert "lsp-s0-a" not in out and "1 more (count=…); looked in outputs/" in out
    with pytest.raises(RunError, match="no run that begins with zz; looked in outputs/"):
        main(["zz"])


def test_a_damaged_run_is_named_and_the_others_are_listed(outputs, capsys):
    (outputs / "lsp-s0-a" / "summary.json").write_text("{")
    (outputs / "grpo-s0-b" / "run.json").write_text("{")
    main([])
    said = capsys.readouterr()
    assert "lsp-s0-a" in said.out and "note: passed over: " in said.err


def test_a_run_is_found_by_the_beginning_of_its_id_from_any_folder_below(outputs, monkeypatch):
    below = outputs.parent / "deep" / "down"
    below.mkdir(parents=True)
    for place in (outputs.parent, below):
        monkeypatch.chdir(place)
        assert find_run("grpo-s0-b", "outputs").resolve() == outputs / "grpo-s0-b"
        assert find_run("lsp", "outputs").resolve() == outputs / "lsp-s0-a"
    assert find_run("lsp", str(outputs)) == outputs / "lsp-s0-a"


def test_a_beginning_that_several_ids_have_is_refused_with_them(outputs):
    shutil.copytree(outputs / "lsp-s0-a", outputs / "lsp-s1-c")
    says = "2 runs begin with 'lsp': lsp-s0-a, lsp-s1-c; say more of the id"
    with pytest.raises(RunError, match=says):
        find_run("lsp", "outputs")


@pytest.mark.parametrize("name", ["", ".", "..", "*", "[a-z]*", "/", "lsp*", "x" * 300, "outputs"])
def test_a_name_that_is_no_beginning_of_an_id_finds_nothing(outputs, name):
    with pytest.raises((RunError, OSError), match=r"there is no run|File name too long"):
        find_run(name, "outputs")


def test_the_error_says_where_it_looked(outputs, monkeypatch):
    below = outputs.parent / "down"
    below.mkdir()
    monkeypatch.chdir(below)
    with pytest.raises(RunError) as raised:
        find_run("nope", "outputs")
    assert f"under outputs/, {outputs}/" in str(raised.value)
    assert "`lsp runs` lists what there is" in str(raised.value)
    assert places_of_runs(str(outputs)) == [outputs]
    if (ROOT / "outputs").is_dir():
        assert ROOT / "outputs" in places_of_runs("outputs")


def test_ages():
    assert [age(s) for s in (-1, 40, 300, 7200, 864_000)] == ["0 s", "40 s", "5 min", "2 h", "10 d"]
