"""W&B's sweep files: what is taken, what is refused, and how values reach Hydra."""

import itertools
import math
import os
import string

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lsp.errors import RunError
from lsp.settings.compose import compose
from sweeps.distributions import KEYS, NEEDED
from sweeps.space import hydra_value, points, read_sweep, words_of

TREE = {
    "program": "run.py",
    "method": "random",
    "metric": {"name": "eval/pocket/win_rate", "goal": "maximize"},
    "parameters": {"seed": {"values": [0, 1]}},
}


def write(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    tree = {key: value for key, value in {**TREE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return path


def test_random_points_are_in_range_and_repeat(tmp_path):
    parameters = {
        "method.beta": {"distribution": "log_uniform_values", "min": 0.001, "max": 1.0},
        "optim.lr": {"min": 0.0001, "max": 0.001},
        "num_queries": {"min": 2, "max": 4},  # whole numbers, as W&B has it
        "seed": {"value": 3},
    }
    sweep = read_sweep(write(tmp_path, parameters=parameters))
    found = points(sweep, 400, 1)
    assert found == points(sweep, 400, 1) != points(sweep, 400, 2)
    assert all(0.001 <= p["method.beta"] <= 1 and p["seed"] == 3 for p in found)
    assert {p["num_queries"] for p in found} == {2, 3, 4}
    with pytest.raises(RunError, match="say count="):
        points(sweep, None, 0)
    few = read_sweep(write(tmp_path, parameters={"seed": {"values": [1, 2, 3]}}))
    assert sorted(p["seed"] for p in points(few, 3, 0)) == [1, 2, 3]
    with pytest.raises(RunError, match="3 different points, fewer than count=4"):
        points(few, 4, 0)
    large = {"optim.lr": {"distribution": "log_normal", "mu": 800}}
    with pytest.raises(RunError, match="log_normal draws numbers that are too large"):
        points(read_sweep(write(tmp_path, parameters=large)), 3, 0)


def test_run_cap_is_the_number_of_points_at_most(tmp_path):
    random = read_sweep(write(tmp_path, run_cap=3, parameters={"seed": {"min": 0, "max": 9}}))
    assert len(points(random, None, 0)) == 3 and len(points(random, 2, 0)) == 2
    with pytest.raises(RunError, match="count=4 is more than the file's run_cap=3"):
        points(random, 4, 0)
    few = read_sweep(write(tmp_path, run_cap=9, parameters={"seed": {"values": [1, 2]}}))
    assert len(points(few, None, 0)) == 2
    both = {"seed": {"values": [0, 1]}, "method.beta": {"values": [0.1, 0.2]}}
    grid = read_sweep(write(tmp_path, method="grid", run_cap=3, parameters=both))
    # By names, the last one fastest, as W&B's grid goes.
    assert [(p["method.beta"], p["seed"]) for p in points(grid, None, 0)] == [
        (0.1, 0),
        (0.1, 1),
        (0.2, 0),
    ]
    assert len(points(grid, 2, 0)) == 2 and list(points(grid, 1, 0)[0]) == ["method.beta", "seed"]


def test_a_grid_lists_whole_numbers_and_refuses_more_points_than_anybody_runs(tmp_path):
    parameters = {
        "seed": {"min": 1, "max": 3},
        "group_size": {"distribution": "q_uniform", "min": 2, "max": 6, "q": 2},
    }
    sweep = read_sweep(write(tmp_path, method="grid", parameters=parameters))
    found = {(p["seed"], p["group_size"]) for p in points(sweep, None, 0)}
    assert found == set(itertools.product([1, 2, 3], [2, 4]))
    wide = {name: {"min": 0, "max": 999} for name in ("seed", "num_steps")}
    with pytest.raises(RunError, match="a grid of 1,000,000 points, and at most 100,000 are run"):
        points(read_sweep(write(tmp_path, method="grid", parameters=wide)), None, 0)
    assert len(points(read_sweep(write(tmp_path, method="grid", parameters=wide)), 5, 0)) == 5


def test_nested_parameters_have_dotted_names(tmp_path):
    nested = {
        "optim": {"parameters": {"lr": {"value": 0.1}, "a": {"parameters": {"b": {"value": 1}}}}}
    }
    sweep = read_sweep(write(tmp_path, method="grid", parameters=nested))
    assert points(sweep, None, 0) == [{"optim.lr": 0.1, "optim.a.b": 1}]
    twice = {**nested, "optim.lr": {"value": 0.2}}
    with pytest.raises(RunError, match="parameter optim.lr stands twice"):
        read_sweep(write(tmp_path, parameters=twice))


def test_numbers_are_read_as_both_versions_of_yaml_write_them(tmp_path):
    texts = {
        "1e-6": 1e-6,  # a text in YAML 1.1
        "1E5": 1e5,
        "-.5e3": -500.0,
        "6.0e-5": 6e-5,
        "0x10": 16,
        "012": 10,
        "1_000": 1000,
        ".inf": math.inf,
        "null": None,
        "~": None,
        "yes": True,
        "'1e-6'": "1e-6",
        "1e6x": "1e6x",
        "2024-07-26": "2024-07-26",
    }
    path = tmp_path / "sweep.yaml"
    head = "program: run.py\nmethod: grid\nmetric: {name: m}\nparameters:\n  x:\n    values:\n"
    path.write_text(head + "".join(f"    - {text}\n" for text in texts))
    found = [point["x"] for point in points(read_sweep(path), None, 0)]
    assert found == list(texts.values())
    assert [type(x) for x in found] == [type(x) for x in texts.values()]
    path.write_text(head.replace("values:", "min: 1e-6\n    max: 1e-2").replace("grid", "random"))
    assert all(1e-6 <= point["x"] <= 1e-2 for point in points(read_sweep(path), 20, 0))


def test_settings_of_a_command_go_to_every_run(tmp_path, monkeypatch):
    start = ["${env}", "${interpreter}", "${program}"]
    command = [*start, "tracker=none", "${args_no_hyphens}", "run_name=${envvar:SWEEP_OF}"]
    monkeypatch.setenv("SWEEP_OF", "mine")
    assert read_sweep(write(tmp_path, command=command)).words == ("tracker=none", "run_name=mine")
    monkeypatch.delenv("SWEEP_OF")
    with pytest.raises(RunError, match="command needs the environment variable SWEEP_OF"):
        read_sweep(write(tmp_path, command=command))


COMMAND = ["python", "run.py", "${args_no_hyphens}"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameters": None}, "has no 'parameters'"),
        ({"parameters": {}}, "parameter parameters is no group of parameters"),
        ({"method": "bayes"}, "bayes needs W&B's server: wandb sweep, wandb agent"),
        ({"method": "hill"}, "method=hill is neither grid nor random"),
        ({"metric": None}, "has no metric.name"),
        ({"metric": {"name": "m", "goal": "most"}}, "metric.goal=most is neither minimize nor max"),
        ({"metric": {"name": "m", "target": 1}}, "metric.target ends a sweep on the way, which"),
        ({"metric": {"name": "m", "gaol": 1}}, "metric.gaol is no key of a metric"),
        ({"program": "train.py"}, "program=train.py; runs here are of run.py"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "early_terminate stops runs on"
         " the way, which needs W&B's server .wandb agent.; leave it out: every point runs to its"),
        ({"scheduler": {"engine": "optuna"}}, "scheduler draws points as others end, which needs"),
        ({"run_cap": 0}, "run_cap=0 is no whole number from 1"),
        ({"run_cap": True}, "run_cap=True is no whole number"),
        ({"name": ""}, "name= is no text"),
        ({"runcap": 3}, "runcap is no key of a sweep; known: program, name, method"),
        ({"parameters": {"seed": 3}}, "parameter seed is 3; write 'value"),
        ({"parameters": {"a b": {"value": 1}}}, "parameter 'a b' is no name of a setting"),
        ({"parameters": {3: {"value": 1}}}, "parameter '3' is no name"),
        ({"parameters": {"run_dir": {"value": "x"}}}, "run_dir: every run has its own here"),
        ({"parameters": {"seed": {"values": []}}}, "parameter seed: values is no list of values"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameter a.parameters is no group of"),
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1}}}, "uniform lists no values,"
         " and a grid needs them; or choose method: random"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameter x: needs numbers min < max"),
        ({"parameters": {"x": {"value": {"a b": 1}}}}, "a group with a key that is no name"),
        ({"parameters": {"x": {"value": list(range(2000))}}}, "a value of more than 1,000 items"),
        ({"parameters": {"x": {"value": b"x"}}}, "b'x' is no number, text, list or group"),
        ({"command": "python run.py"}, "command does not give the point's settings to run.py"),
        ({"command": ["torchrun", *COMMAND[1:]]}, "command does not give the point's"),
        ({"command": ["python", "run.py", "${args}"]}, "command does not give the point's"),
        ({"command": ["python"]}, "command does not give the point's"),
        ({"command": [*COMMAND, "-m"]}, "command has -m, which is no setting of run.py"),
    ],
)  # fmt: skip
def test_what_a_local_sweep_cannot_do_is_one_line(tmp_path, changes, says):
    with pytest.raises(RunError, match=f"sweep.yaml: .*{says}") as raised:
        read_sweep(write(tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_unreadable_sweep_files(tmp_path):
    with pytest.raises(RunError, match="there is no file .*sweep files are in sweeps/"):
        read_sweep(tmp_path / "gone.yaml")
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise(string.ascii_lowercase)
    )
    values = "\nprogram: run.py\nmethod: grid\nmetric: {name: m}\nparameters: {v: {value: *z}}\n"
    for text, says in (
        ("a: [1", "is not valid YAML"),
        ("[" * 5000, "nests too deeply|is not valid YAML"),
        ("seed: 1\nseed: 2", "is not valid YAML: seed stands twice"),
        (bomb + values, "a is no key of a sweep"),
        (f"parameters:\n  x: {{value: {'[' * 9}1{']' * 9}}}", "method=None"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(RunError, match=f"bad.yaml.*{says}"):
            read_sweep(tmp_path / "bad.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(RunError, match="is no plain file"):
        read_sweep(tmp_path / "pipe.yaml")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = st.text(st.sampled_from("\\${}'\"a, []:=#\n()"), max_size=12)
WORDS = st.sampled_from(["null", "True", "1e-6", "nan", "a b", "???", "1_000", "${seed}", "a/b.c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | ODD | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b_1"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_hydra_reads_every_value_back_with_its_type(value):
    override = OverridesParser.create().parse_override(f"x={hydra_value(value)}")
    assert not override.is_sweep_override()
    found = OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize("text", ["it's", "a,b", "[a]", "null", "true", "1e-6", "${seed}", "a\nb"])
def test_texts_reach_a_run_as_texts(text):
    assert compose(words_of({"run_name": text, "seed": 3})).run_name == text
    assert words_of({"run_name": None, "method": "lsp", "x": 1e-06, "y": True}) == [
        "run_name=null",
        "method=lsp",
        "x=1e-06",
        "y=true",
    ]


def form(kind):
    """What W&B's schema has for one distribution, as a strategy."""
    number = st.integers(-30, 30) | st.floats(-1e3, 1e3)
    above = st.integers(1, 30) | st.floats(1e-6, 1e3)
    keys = {
        "value": VALUES,
        "values": st.lists(VALUES, min_size=1, max_size=3),
        "probabilities": st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, max_size=3),
        **dict.fromkeys(("min", "max"), st.integers(-30, 30) if kind == "int_uniform" else number),
        **dict.fromkeys(("q", "a", "b", "sigma"), above),
        "mu": number,
    }
    needed = {key: keys[key] for key, default in KEYS[kind].items() if default is NEEDED}
    more = {key: keys[key] for key in KEYS[kind] if key not in needed}
    named = {"distribution": st.just(kind)}
    implied = ("constant", "categorical", "categorical_w_probabilities", "int_uniform", "uniform")
    if kind in implied:
        return st.fixed_dictionaries(needed, optional={**more, **named})
    return st.fixed_dictionaries({**needed, **named}, optional=more)


NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,4}", fullmatch=True)
FORM = st.recursive(
    st.one_of([form(kind) for kind in KEYS]),
    lambda inner: st.fixed_dictionaries(
        {"parameters": st.dictionaries(NAME, inner, min_size=1, max_size=2)}
    ),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given(
    parameters=st.dictionaries(NAME, FORM, min_size=1, max_size=3),
    method=st.sampled_from(["grid", "random"]),
    cap=st.integers(1, 5),
)
def test_every_file_of_the_schema_is_taken_or_refused_with_one_line(
    tmp_path_factory, parameters, method, cap
):
    path = write(
        tmp_path_factory.mktemp("sweep"), parameters=parameters, method=method, run_cap=cap
    )
    try:
        found = points(read_sweep(path), None, 0)
    except RunError as error:
        assert "\n" not in str(error).replace(str(path), "")
        return
    assert 1 <= len(found) <= cap
    for point in found:
        for word in words_of(point):
            assert not OverridesParser.create().parse_override(word).is_sweep_override()
