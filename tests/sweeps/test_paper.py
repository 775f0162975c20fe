"""All bars of a figure as commands and, slowly, as runs; the claims that are reproduced."""

import json
from pathlib import Path

import pytest

from sweeps.paper import PaperSettings, bars_needed, main, run_command, run_figure
from sweeps.reproduce import CLAIMS, Claim, claims_table
from sweeps.reproduce import main as reproduce

ROOT = Path(__file__).parents[2]


def test_bars_and_the_runs_that_they_start_from():
    assert bars_needed(2) == ["grpo", "lsp_zero", "lsp"]
    after = ["lsp_zero_from_grpo", "lsp_from_grpo", "grpo_from_lsp_zero", "grpo_from_lsp"]
    assert set(bars_needed(3)) == {"grpo", "lsp_zero", "lsp", *after}


def test_a_later_stage_takes_the_run_of_the_same_seed():
    folder = Path("/f")
    command = run_command("lsp_from_grpo", 2, folder / "x", folder, "pocket", ["num_steps=3"])
    assert command[1:4] == ["experiment=paper_v1/lsp_from_grpo", "world=pocket", "seed=2"]
    assert "init.run=/f/grpo-seed-2" in command and command[-1] == "num_steps=3"
    command = run_command("grpo_from_lsp", 0, folder / "x", folder, "pocket", [])
    assert command[1] == "experiment=paper_v3/grpo_from_lsp"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["figure=1"], "figure=1: is no choice here. Choose one of 2, 3."),
        (
            ["seeds=0", "workers=0"],
            "seeds=0: must be at least 1. .*workers=0: must be at least 1. Choose workers=1 or",
        ),
        (["seeds=many"], "seeds=many: must be a whole number. Write seeds=<int>."),
        (["paper=v9"], "paper=v9: is no choice here. Choose one of v1, v3."),
        (["now"], "now is no setting; write key=value"),
        (["seed=7"], "seed=7 is set by this command for each run; leave it out"),
        (["init.run=x"], "init.run=x is set by this command"),
        pytest.param(
            ["folder=/nowhere/x", "num_stepz=1", "seeds=1"],
            "failed:\n.*no such setting",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(SystemExit, match=f"(?s){says}"):
        main(words)


@pytest.mark.slow
def test_a_figure_from_nothing(tmp_path):
    settings = PaperSettings(figure=3, paper="v3", seeds=1, folder=str(tmp_path))
    text = run_figure(settings, ["num_steps=2", "num_queries=4", "group_size=2", "tracker=none",
                                 "eval=none"])  # fmt: skip
    assert "LSP from GRPO" in text and (tmp_path / "figure-3.pdf").is_file()
    init = json.loads((tmp_path / "lsp_from_grpo-seed-0" / "run.json").read_text())["init"]
    assert init["method"] == "grpo"


def test_the_docs_show_the_claims():
    assert claims_table() in (ROOT / "docs" / "reproduce.md").read_text()


def test_claims_pass_and_fail(tmp_path):
    (tmp_path / "s.json").write_text('{"final/accuracy": 0.8}')
    (tmp_path / "f.csv").write_text("bar,set,win_rate\nlsp,overall,45.0\n")
    good = Claim("learns", "s.json", "final/accuracy", 0.79, 0.02)
    bad = Claim("wins", "f.csv", "lsp/overall", 40.0, 4.9)
    assert good.verdict(tmp_path) == "PASS  learns: 0.800 (expected 0.79 ± 0.02)"
    assert bad.verdict(tmp_path) == "FAIL  wins: 45.000 (expected 40 ± 4.9)"
    (tmp_path / "s.json").write_text('{"final/accuracy": NaN}')
    assert good.verdict(tmp_path) == "FAIL  learns: nan (expected 0.79 ± 0.02)"
    lines = [claim.verdict(tmp_path) for claim in CLAIMS]  # nothing was run there
    assert all(line.startswith("FAIL  ") and "No such file" in line for line in lines)
    with pytest.raises(SystemExit, match=r"python -m sweeps.reproduce \[table\]"):
        reproduce(["now"])
