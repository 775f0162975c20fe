"""W&B sweep files without a server."""

import json
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from lsp.errors import RunError
from lsp.settings.compose import compose
from sweeps.local import Sweep, arguments_of, draw, main, outcome_table, points, read_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = [SWEEPS / "beta.yaml", SWEEPS / "self_reward_weight.yaml"]  # W&B's; the others compare


def write(tmp_path, **changes):
    tree = {
        "program": "run.py",
        "method": "random",
        "metric": {"name": "eval/pocket/win_rate", "goal": "maximize"},
        "parameters": {"seed": {"values": [0, 1]}},
        **changes,
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_point_of_our_sweeps_is_a_valid_command_line(path):
    sweep = read_sweep(path)
    found = points(sweep, None, 0)
    assert len(found) == {"beta": 72, "self_reward_weight": 15}[sweep.name]
    assert sweep.metric == "eval/pocket/win_rate"
    for point in found:
        config = compose(arguments_of(point))
        assert config.seed == point["seed"]
    command = yaml.safe_load(path.read_text())["command"]
    assert command == ["${env}", "python", "${program}", "${args_no_hyphens}"]


def test_the_weight_sweep_goes_from_lsp_zero_to_lsp():
    sweep = read_sweep(SWEEPS / "self_reward_weight.yaml")
    labels = {
        point["method.self_reward_weight"]: compose(arguments_of(point)).method.label
        for point in points(sweep, None, 0)
    }
    assert labels == {0: "lsp_zero", 0.25: "lsp", 0.5: "lsp", 1: "lsp", 2: "lsp"}


def test_random_points_are_in_range_and_repeat(tmp_path):
    parameters = {
        "method.beta": {"distribution": "log_uniform_values", "min": 0.001, "max": 1.0},
        "optim.lr": {"min": 0.0001, "max": 0.001},
        "num_queries": {"distribution": "int_uniform", "min": 2, "max": 4},
        "seed": {"value": 3},
    }
    sweep = read_sweep(write(tmp_path, parameters=parameters))
    found = points(sweep, 400, 1)
    assert found == points(sweep, 400, 1) != points(sweep, 400, 2)
    assert all(0.001 <= p["method.beta"] <= 1 and p["seed"] == 3 for p in found)
    assert {p["num_queries"] for p in found} == {2, 3, 4}
    # Log-uniform: as many below as above the geometric middle, 0.0316.
    below = sum(p["method.beta"] < 10**-1.5 for p in found)
    assert 160 < below < 240
    with pytest.raises(RunError, match="say count="):
        points(sweep, None, 0)
    few = read_sweep(write(tmp_path, parameters={"seed": {"values": [1, 2, 3]}}))
    assert sorted(p["seed"] for p in points(few, 3, 0)) == [1, 2, 3]
    with pytest.raises(RunError, match="3 different points, fewer than count=4"):
        points(few, 4, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameters": None}, "has no 'parameters'"),
        ({"method": "bayes"}, "bayes needs W&B's server"),
        ({"method": "hill"}, "method=hill is neither grid nor random"),
        ({"metric": None}, "has no metric.name"),
        ({"program": "train.py"}, "program=train.py; runs here are of run.py"),
        ({"parameters": {"seed": 3}}, "parameter seed is 3; write 'value"),
        ({"parameters": {"seed": {"values": []}}}, "parameter seed has no list of values"),
        ({"method": "grid", "parameters": {"x": {"min": 0, "max": 1}}}, "a grid needs them"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "needs numbers min <= max"),
        ({"parameters": {"x": {"min": "a", "max": 1}}}, "needs numbers min <= max"),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
            "a log scale needs min above 0",
        ),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "distribution": "normal"}}},
            "distribution=normal is none of uniform",
        ),
    ],
)
def test_bad_sweep_files(tmp_path, changes, says):
    with pytest.raises(RunError, match=says):
        read_sweep(write(tmp_path, **changes))


def test_unreadable_sweep_files(tmp_path):
    with pytest.raises(RunError, match="there is no file"):
        read_sweep(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(RunError, match="is not valid YAML"):
        read_sweep(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "error: name one sweep: python -m sweeps.local sweeps/beta.yaml"),
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
    sweep = Sweep("s", "m", "maximize", "grid", {"b": {"values": [1, 2]}, "seed": {"values": [0]}})
    outcomes = [({"b": 1, "seed": s}, v) for s, v in ((0, 0.2), (1, 0.4))]
    outcomes += [({"b": 2, "seed": 0}, 0.5)]
    lines = outcome_table(sweep, outcomes).splitlines()
    assert lines[2] == "| 1 | 0.3000 | 0.1414 | 2 |  |"
    assert lines[3] == "| 2 | 0.5000 |  | 1 | best |"
    smaller = Sweep("s", "m", "minimize", "grid", sweep.parameters)
    assert outcome_table(smaller, outcomes).splitlines()[2].endswith("| best |")


def test_a_sweep_runs_resumes_and_survives_a_failing_point(small, tmp_path, capfd):
    parameters = {"method.beta": {"values": [0.1, -1]}, "seed": {"value": 0}}
    path = write(tmp_path, method="grid", parameters=parameters)
    arguments = [str(path), "workers=2", f"folder={tmp_path / 'out'}", *small, "tracker=none"]
    with pytest.raises(SystemExit, match=r"(?s)1 runs failed.*method.beta=-1: must be at"):
        main(arguments)
    out, err = capfd.readouterr()
    assert "| 0.1 |" in out and err.count("run.py") == 2 and err.count("FAILED") == 1
    assert (tmp_path / "out" / "outcome.png").read_bytes().startswith(b"\x89PNG")
    ((point, value),) = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert point == {"method.beta": 0.1, "seed": 0} and 0 <= value <= 100
    with pytest.raises(SystemExit):
        main(arguments)
    assert "| 0.1 |" in capfd.readouterr().out
    # The same folder with other settings is refused, not reported under them.
    with pytest.raises(SystemExit, match="(?s)started with other settings.*optim.lr"):
        main([*arguments, "optim.lr=0.1"])


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
