"""W&B sweep files without a server."""

import json
import re
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from lsp.settings.compose import compose
from sweeps.local import draw, folder_names, main, outcome_table
from sweeps.space import Parameter, Sweep, points, read_sweep, words_of

COMMAND = ["${env}", "python", "${program}", "${args_no_hyphens}"]
SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = [SWEEPS / "beta.yaml", SWEEPS / "self_reward_weight.yaml"]  # W&B's; the others compare


def write(tmp_path, **changes):
    tree = {
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "eval/pocket/win_rate", "goal": "maximize"},
        **changes,
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_point_of_our_sweeps_is_a_valid_command_line(path):
    sweep = read_sweep(path)
    found = points(sweep, None, 0)
    assert len(found) == {"beta": 72, "self_reward_weight": 15}[sweep.name]
    assert sweep.metric == "eval/pocket/win_rate"
    for point in found:
        config = compose(words_of(point))
        assert config.seed == point["seed"]
    command = yaml.safe_load(path.read_text())["command"]
    assert command == ["${env}", "python", "${program}", "${args_no_hyphens}"]


def test_the_weight_sweep_goes_from_lsp_zero_to_lsp():
    sweep = read_sweep(SWEEPS / "self_reward_weight.yaml")
    labels = {
        point["method.self_reward_weight"]: compose(words_of(point)).method.label
        for point in points(sweep, None, 0)
    }
    assert labels == {0: "lsp_zero", 0.25: "lsp", 0.5: "lsp", 1: "lsp", 2: "lsp"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "error: name one sweep: lsp sweep sweeps/beta.yaml"),
        (["workers=2"], "name one sweep"),
        (["x.yaml", "fast"], "name one sweep"),
        (["x.yaml", "workers=0"], "workers=0: must be at least 1. Choose workers=1 or more"),
        (
            ["x.yaml", "count=many", "draw_seed=-1"],
            "2 problems .*count=many: must be a whole number.*draw_seed=-1: must be at least 0",
        ),
        (["gone.yaml", "num_steps=3"], "there is no file gone.yaml; sweep files are in sweeps/"),
    ],
)
def test_bad_command_lines(arguments, says):
    with pytest.raises(SystemExit, match=f"(?s){says}"):
        main(arguments)


def test_the_table_is_over_seeds_and_marks_the_best():
    swept = [Parameter(name, "categorical", {}) for name in ("b", "seed")]
    sweep = Sweep("s", "m", "maximize", "grid", swept)
    outcomes = [({"b": 1, "seed": s}, v) for s, v in ((0, 0.2), (1, 0.4))]
    outcomes += [({"b": 2, "seed": 0}, 0.5)]
    lines = outcome_table(sweep, outcomes).splitlines()
    assert lines[2] == "| 1 | 0.3000 | 0.1414 | 2 |  |"
    assert lines[3] == "| 2 | 0.5000 |  | 1 | best |"
    smaller = Sweep("s", "m", "minimize", "grid", sweep.parameters)
    assert outcome_table(smaller, outcomes).splitlines()[2].endswith("| best |")


def test_a_sweep_runs_resumes_and_survives_a_failing_point(small, tmp_path, capfd):
    parameters = {"method.beta": {"values": [0.1, 0.3]}, "seed": {"value": 0}}
    path = write(tmp_path, parameters=parameters, command=[*COMMAND, "tracker=none"])
    out = tmp_path / "out"
    taken = out / "beta-0.3" / "mine.txt"
    taken.parent.mkdir(parents=True)
    taken.write_text("")
    arguments = [str(path), "workers=2", f"folder={out}", *small]
    with pytest.raises(SystemExit, match=r"(?s)1 runs failed.*beta-0.3.* is not empty"):
        main(arguments)
    text, err = capfd.readouterr()
    assert "| 0.1 |" in text and err.count("run.py") == 2 and err.count("FAILED") == 1
    assert err.startswith("checking 2 points\n")
    assert (out / "outcome.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "outcome.html").read_text()
    assert 'href="beta-0.1/report.html"' in page and "1 of 2 runs have" in page
    assert re.search(
        r'<td class="wrong">failed</td><td>[^<]*beta-0.3 exists and is not empty', page
    )
    ((point, value),) = json.loads((out / "outcome.json").read_text())
    assert point == {"method.beta": 0.1, "seed": 0} and 0 <= value <= 100
    with pytest.raises(SystemExit):
        main(arguments)
    assert "| 0.1 |" in capfd.readouterr().out
    # The same folder with other settings is refused, not reported under them.
    with pytest.raises(SystemExit, match="(?s)started with other settings.*optim.lr"):
        main([*arguments, "optim.lr=0.1"])


def test_a_sweep_that_is_stopped_leaves_a_page_of_what_had_ended(tmp_path, monkeypatch, capsys):
    def stopped(commands, workers):
        raise KeyboardInterrupt("what had ended is kept")

    monkeypatch.setattr("sweeps.local.run_all", stopped)
    path = write(tmp_path, parameters={"seed": {"values": [0, 1]}})
    with pytest.raises(KeyboardInterrupt):
        main([str(path), f"folder={tmp_path / 'out'}"])
    page = (tmp_path / "out" / "outcome.html").read_text()
    assert "No outcome: no run has eval/pocket/win_rate." in page and page.count("not started") >= 2
    assert "outcome.html" in capsys.readouterr().out


@pytest.fixture
def no_run(monkeypatch):
    """Fails where a run would be started."""
    monkeypatch.setattr("sweeps.local.run_all", lambda *_: pytest.fail("a run was started"))


@pytest.mark.parametrize(
    ("parameters", "more", "says"),
    [
        ({"method.bta": {"values": [1, 2]}}, [], "2 of 2 points cannot run, so none was started;"
         " the first: method.bta=1 run_dir=.*Did you mean method.beta"),
        ({"method.beta": {"values": [0.1, -1]}}, [], "1 of 2 points .*beta=-1: must be at least 0"),
        ({"seed": {"values": [0, None]}}, [], "1 of 2 points .*seed=null: must be a whole number"),
        ({"seed": {"values": [0, "1"]}}, [], "1 of 2 points .*seed=1: must be a whole number"),
        ({"seed": {"value": 0}}, ["method.beta=0.1,0.2"], "1 of 1 .*method.beta: is several"),
        ({"seed": {"value": 0}}, ["seed=3"], "seed=3: seed is the sweep's own, for each run"),
        ({"seed": {"value": 0}}, ["run_dir=x"], "run_dir=x: run_dir is the sweep's own"),
    ],
)  # fmt: skip
def test_every_point_is_checked_before_the_first_run(tmp_path, no_run, parameters, more, says):
    path = write(tmp_path, parameters=parameters)
    with pytest.raises(SystemExit, match=f"(?s)^error: {says}"):
        main([str(path), f"folder={tmp_path / 'a, b'}", *more])


def test_folders_of_points_have_names_that_tell_them_apart(tmp_path):
    values = {
        "method.beta": [0.1, 0.3],
        "run_name": ["a/b", "a b", "x" * 300, "1", 1, None],
        "rollout.stop": [["a"], ["b"]],
    }
    for name, options in values.items():
        path = write(tmp_path, parameters={name: {"values": options}})
        sweep = read_sweep(path)
        names = folder_names(sweep, points(sweep, None, 0))
        assert len(set(names)) == len(options)
        assert all(re.fullmatch(r"[\w.+-]{1,130}", name) for name in names)
        if name == "method.beta":
            assert names == ["beta-0.1", "beta-0.3"]


def test_lists_null_and_texts_make_a_table_and_a_plot(tmp_path):
    swept = [Parameter("rollout.stop", "categorical", {}), Parameter("x", "categorical", {})]
    sweep = Sweep("s", "m", "maximize", "grid", swept)
    outcomes = [({"rollout.stop": ["a"], "x": None}, 0.5), ({"rollout.stop": [], "x": True}, 0.25)]
    lines = outcome_table(sweep, outcomes).splitlines()
    assert lines[2] == "| [a] | null | 0.5000 |  | 1 | best |"
    assert lines[3] == "| [] | True | 0.2500 |  | 1 |  |"
    assert draw(sweep, outcomes, tmp_path).is_file()


def test_two_swept_numbers_make_a_map_for_each_method(tmp_path):
    """Cells are means over seeds; one picture as wide as there are methods."""
    sweep = read_sweep(SWEEPS / "beta.yaml")
    points_of = [point for point in points(sweep, None, 0) if point["method.beta"] < 0.2]
    outcomes = [(point, point["method.beta"] + point["seed"] / 100) for point in points_of]
    texts = []

    class Watched(Figure):
        def savefig(self, path, **more):
            for axis in self.axes:
                texts.append((axis.get_title(), [text.get_text() for text in axis.texts]))
            super().savefig(path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.local.Figure", Watched)
        assert draw(sweep, outcomes, tmp_path).read_bytes().startswith(b"\x89PNG")
    assert [title for title, _ in texts] == ["lsp", "lsp_zero"]
    assert texts[0][1] == ["0.040", "0.110"] * 4  # beta + the mean of 0, 1 and 2 hundredths
