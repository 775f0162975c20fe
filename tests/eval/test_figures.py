"""The paper's figures from run folders: grouping, intervals, the paper's numbers, the files."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from eval.__main__ import evaluate
from eval.bars import FIGURES, PAPER, Bar, bar_of, paper_values, win_values
from eval.compare import Evaluation
from eval.figures import FigureSettings, main, make_figures
from eval.settings import read_settings
from lsp.errors import RunError
from lsp.run.folder import read_run, update_run
from lsp.settings.compose import CONF, compose

COUNTS = {"oasst": 188, "helpful_base": 129, "selfinstruct": 252, "koala": 156, "vicuna": 80}


@pytest.fixture(scope="module")
def runs(small_run, tmp_path_factory):
    """Folders of evaluated runs: LSP with two seeds, GRPO, GRPO from LSP; the first has a control.
    They are one small run under other names: what is tested here is what is read and drawn."""
    root = tmp_path_factory.mktemp("figures")
    found = {}
    kinds = {"lsp-0": "lsp", "lsp-1": "lsp", "grpo-0": "grpo", "after-0": "grpo"}
    for name, method in kinds.items():
        found[name] = shutil.copytree(small_run[0], root / name)
        init = {**read_run(found[name])["init"], "method": "lsp" if name == "after-0" else None}
        update_run(found[name], method=method, init=init, seed=int(name[-1]))
        words = [
            "benchmark=pocket",
            "benchmark.per_cell=1",
            f"run={found[name]}",
            f"runs_root={root}",
        ]
        for more in (["control=true"], []) if name == "lsp-0" else ([],):
            evaluate(read_settings([*words, *more]))
    return root, found


def rewrite(folder, preferences):
    """Give an evaluation these preferences, over and over."""
    path = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in path.open()]
    for i, row in enumerate(rows):
        row["preference"] = preferences[i % len(preferences)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def test_the_papers_bars_are_whole_wins():
    """Every value of v3, and v1's of Vicuna, is k wins over the set's n, to the printed digit."""
    with PAPER.open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["set"] != "overall"]
    assert len(rows) == 43
    for row in rows:
        n, value = COUNTS[row["set"]], float(row["win_rate"])
        assert min(abs(100 * k / n - value) for k in range(n + 1)) <= 0.051, row
    assert sum(COUNTS.values()) == 805
    assert paper_values("v1", 2)[("lsp", "overall")] == (40.6, "second-hand")
    assert paper_values("v3", 3)[("grpo_from_lsp", "overall")] == (39.5, "read directly")
    assert ("base", "overall") not in paper_values("v1", 2)  # not given: the cell stays empty


def test_every_bar_has_an_experiment_of_its_name():
    for figure, bars in FIGURES.items():
        for bar in bars[1:]:
            (file, *_) = sorted((CONF / "experiment").glob(f"paper_v*/{bar}.yaml"))
            name = file.relative_to(CONF / "experiment").with_suffix("").as_posix()
            config = compose([f"experiment={name}", "init.run=x" if "_from_" in bar else "seed=0"])
            start = config.init.source if config.init.source != "base" else None
            run = {"method": config.method.label, "init": {"method": start}}
            assert bar_of(run) == bar and config.world.name == "paper", (figure, bar)
            text = file.read_text()
            assert f"python run.py experiment={name} " in text and "# Expect" in text
            pocket = compose([f"experiment={name}", "world=pocket"])
            assert pocket.world.name == "pocket" and pocket.model.name == "pocket"


def test_ties_are_losses_and_missing_verdicts_stay_missing():
    rows = [{"preference": p} for p in (2.0, 1.5, 1.2, None)]
    values = win_values(Evaluation(Path("."), {}, rows))
    assert values[:3] == [100.0, 0.0, 0.0] and math.isnan(values[3])


def test_a_bar_says_where_the_papers_value_lies():
    ours = {"set": "overall", "bar": "lsp", "win_rate": 40.0, "low": 38.0, "high": 42.0,
            "seeds": 1, "n": 805, "n_missing": 0}  # fmt: skip
    assert Bar(**ours, paper=40.6, reading="second-hand").verdict == (
        "the paper's 40.6 (second-hand) lies inside our interval"
    )
    assert "outside" in Bar(**ours, paper=43.1, reading="second-hand").verdict
    assert Bar(**ours, paper=None, reading=None).verdict == "the paper's value is not known"


def test_figure_2_is_drawn_from_run_folders(runs, capsys):
    root, found = runs
    rewrite(found["lsp-0"] / "eval" / "pocket", [2.0])
    n = rewrite(found["lsp-1"] / "eval" / "pocket", [1.0])
    rewrite(found["grpo-0"] / "eval" / "pocket", [1.5, 2.0])
    names = [str(found[name]) for name in ("lsp-0", "lsp-1", "grpo-0")]
    main([*names, "figure=2", "benchmark=pocket", f"out={root / 'out'}"])
    out = capsys.readouterr().out
    assert "LSP                  overall        50.0 [0.0, 100.0], 2 seeds" in out
    assert "the paper's 40.6 (second-hand) lies inside our interval" in out
    assert "GRPO                 overall        50.0" in out and "cannot be told apart" in out
    names = {path.name for path in (root / "out").iterdir()}
    assert names == {f"figure-2{end}" for end in
                     (".png", ".pdf", ".csv", "-curves.png", "-curves.pdf")}  # fmt: skip
    assert (root / "out" / "figure-2.pdf").read_bytes().startswith(b"%PDF")
    with (root / "out" / "figure-2.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 9 and {row["bar"] for row in rows} == {"base", "grpo", "lsp"}
    (lsp,) = [row for row in rows if (row["bar"], row["set"]) == ("lsp", "overall")]
    assert (float(lsp["win_rate"]), lsp["seeds"], lsp["paper"]) == (50.0, "2", "40.6")
    assert int(lsp["n"]) == 2 * n
    assert next(row for row in rows if row["bar"] == "base")["paper"] == ""


def test_figure_3_has_the_stages(runs):
    root, found = runs
    control = Path("eval/pocket/control")
    shutil.copytree(found["lsp-0"] / control, found["grpo-0"] / control)
    settings = FigureSettings(figure=3, paper="v3", benchmark="pocket", out=str(root / "three"))
    text = make_figures([str(found[name]) for name in ("grpo-0", "after-0")], settings)
    assert "GRPO from LSP" in text and "the paper's 39.5 (read directly)" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the runs"),
        (
            ["lsp-0", "figure=4", "paper=v2"],
            "2 problems .*figure=4: is no choice here. Choose one of 2, 3.*paper=v2: is no choice"
            " here. Choose one of v1, v3",
        ),
        (["after-0"], "is GRPO from LSP, no bar of figure 2; its bars are base"),
        (["lsp-1"], "make it with `python -m eval run=.*lsp-1 benchmark=pocket control=true`"),
        (["lsp-0", "benchmark=alpaca_eval"], "holds no evaluation; make one with"),
        (["lsp-0", "lsp-0"], "are both LSP of seed 0"),
        (["nowhere"], "there is no run 'nowhere'"),
        (["lsp-0", "colour=red"], "colour=red: no such setting. Known here: benchmark, figure"),
    ],
)
def test_what_cannot_be_drawn(runs, words, says):
    root, _ = runs
    with pytest.raises(SystemExit, match=f"(?s){says}"):
        main(["benchmark=pocket", f"runs_root={root}", f"out={root / 'no'}", *words])


def test_evaluations_that_differ_are_no_figure(runs, tmp_path):
    _, found = runs
    other = shutil.copytree(found["grpo-0"], tmp_path / "grpo")
    place = other / "eval" / "pocket" / "results.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "judge": "another"}))
    with pytest.raises(RunError, match="cannot stand side by side: judge is verifier and another"):
        make_figures([str(found["lsp-0"]), str(other)], FigureSettings(benchmark="pocket"))


def test_only_seeds_are_averaged_and_only_what_is_current(runs, tmp_path):
    _, found = runs
    other = shutil.copytree(found["lsp-1"], tmp_path / "lsp-9")
    update_run(other, seed=9)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("kl_estimator: k2", "kl_estimator: k3"))
    settings = FigureSettings(benchmark="pocket", out=str(tmp_path / "out"))
    with pytest.raises(RunError, match="differ in method.kl_estimator: only seeds"):
        make_figures([str(found["lsp-0"]), str(other)], settings)
    shutil.copytree(found["lsp-0"], tmp_path / "grown")
    shutil.rmtree(tmp_path / "grown" / "checkpoints" / "step-000003")
    with pytest.raises(RunError, match="is of step-000003, and .* is at step-000002; evaluate it"):
        make_figures([str(tmp_path / "grown")], settings)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be made"):
        make_figures(
            [str(found["lsp-0"])], FigureSettings(benchmark="pocket", out=str(tmp_path / "file"))
        )
