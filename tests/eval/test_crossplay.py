"""Cross-play of real small runs: the matrix by hand, the cache, what is refused."""

import csv
import json
import math
import shutil
from collections import Counter
from statistics import mean, stdev

import pytest
import yaml

from eval.crossplay import main
from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model import language_model as models
from lsp.players import load_players
from lsp.pocket.evaluation import measure_skill
from lsp.pocket.language import parse, verify
from lsp.pocket.pretrain import BASE_FOLDER
from lsp.report.matrix import draw_matrix, read_matrix
from lsp.run.folder import update_run, weights_identity
from lsp.run.init import Init
from lsp.settings.compose import compose

RUN = ["num_queries=4", "group_size=3", "checkpoint.every=1", "checkpoint.keep=3", "eval=none",
       "tracker=none", "num_steps=3"]  # fmt: skip
SMALL = ["queries=12", "samples=3"]
STEPS = ["step-000001", "step-000002", "step-000003"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run of three checkpoints, some of whose queries are cut and so illegal, cross-played."""
    run = tmp_path_factory.mktemp("runs") / "run"
    start([*RUN, "rollout.max_query_tokens=9", "optim.lr=0.005", f"run_dir={run}"])
    main([str(run), *SMALL])
    return run


@pytest.fixture
def run(played, tmp_path):
    return shutil.copytree(played, tmp_path / "run")


@pytest.fixture
def loads(monkeypatch):
    """How often each model was loaded."""
    counts, load = Counter(), models.load_model

    def counting(source, *more):
        counts[getattr(source, "name", source)] += 1
        return load(source, *more)

    monkeypatch.setattr(models, "load_model", counting)
    return counts


def read(run, *parts):
    return json.loads(run.joinpath("crossplay", *parts).read_text())


def cell_of(run, challenger, solver):
    """The line of the CSV, as text."""
    with (run / "crossplay" / "crossplay.csv").open(newline="") as stream:
        rows = csv.DictReader(stream)
        (row,) = [r for r in rows if (r["challenger"], r["solver"]) == (challenger, solver)]
    return row


def test_the_matrix_has_every_pair_in_order(played):
    rows = read_matrix(played / "crossplay")
    solvers = ["base", *STEPS]
    expected = [(c, s) for c in [*solvers, "data"] for s in solvers]
    assert [(row["challenger"], row["solver"]) for row in rows] == expected
    assert all(0 <= row["reward_mean"] <= 1 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert {row["queries"] for row in rows} == {12}
    by_run = {(r["challenger"], r["solver"]): r["accuracy"] for r in rows}
    assert by_run["data", "base"] != by_run["data", "step-000003"]  # each has its own weights


def test_a_cell_by_hand(played):
    """From the answers that are kept, and by the pocket world's own evaluation."""
    row = cell_of(played, "step-000001", "step-000002")
    asked = read(played, "queries", "step-000001.json")["queries"]
    legal = [q["text"] for q in asked if q["status"] == "stop" and parse(q["text"])]
    assert 0 < len(legal) < 12
    assert (row["queries"], row["played"]) == ("12", str(len(legal)))
    assert float(row["illegal_frac"]) == pytest.approx(1 - len(legal) / 12)
    kept = read(played, "cells", "step-000001__step-000002.json")["queries"]
    assert [q["text"] for q in kept] == legal and {len(q["answers"]) for q in kept} == {3}
    means = [mean(verify(q["text"], answer) for answer in q["answers"]) for q in kept]
    assert float(row["reward_mean"]) == pytest.approx(mean(means))
    assert float(row["reward_se"]) == pytest.approx(stdev(means) / math.sqrt(len(means)))
    config = compose(["tracker=none"])
    checkpoint = str(played / "checkpoints" / "step-000002")
    players = load_players(config, Init(checkpoint, None, None, ""), None)
    exact = measure_skill(players.policy, players, [parse(text) for text in legal]).probability
    assert float(row["accuracy"]) == pytest.approx(mean(exact), rel=1e-5)
    assert float(row["accuracy_se"]) == pytest.approx(
        stdev(exact) / math.sqrt(len(exact)), rel=1e-5
    )


def test_the_data_set_asks_its_own_queries_all_legal(played):
    config = compose([])
    texts = {q["text"] for q in read(played, "queries", "data.json")["queries"]}
    assert texts <= set(config.data.build(BuildContext(config))) and len(texts) == 12
    assert cell_of(played, "data", "base")["illegal_frac"] == "0.0"


def test_a_second_time_nothing_is_loaded(run, loads, capsys):
    before = (run / "crossplay" / "crossplay.csv").read_bytes()
    main([str(run), *SMALL])
    assert not loads and "20 of 20 cells from the cache" in capsys.readouterr().out
    assert (run / "crossplay" / "crossplay.csv").read_bytes() == before


def test_a_missing_cell_alone_is_played_again_with_equal_values(run, loads, capsys):
    """As after a kill: what was written stays, what lacks is what it would have been."""
    table = run / "crossplay" / "crossplay.csv"
    path = run / "crossplay" / "cells" / "step-000003__step-000001.json"
    cell, before = path.read_bytes(), table.read_bytes()
    path.unlink()
    table.unlink()
    main([str(run), *SMALL])
    assert loads == {"step-000001": 1} and "19 of 20 cells" in capsys.readouterr().out
    assert path.read_bytes() == cell and table.read_bytes() == before


def test_one_model_is_loaded_for_all_cells_of_a_solver(run, loads):
    shutil.rmtree(run / "crossplay" / "cells")
    main([str(run), *SMALL])
    assert loads == {"pocket": 1, **dict.fromkeys(STEPS, 1)}


def test_other_settings_and_weights_are_not_mixed(run, capsys):
    before = read(run, "cells", "base__base.json")
    main([str(run), *SMALL, "seed=1"])
    assert "0 of 20 cells" in capsys.readouterr().out
    after = read(run, "cells", "base__base.json")
    assert after["key"] != before["key"] and after["queries"] != before["queries"]
    main([str(run), *SMALL, "seed=1", "samples=2"])
    assert "0 of 20 cells" in capsys.readouterr().out
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / "step-000002")
    shutil.copytree(checkpoints / "step-000003", checkpoints / "step-000002")
    manifest = checkpoints / "step-000002" / "checkpoint.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "step": 2}))
    main([str(run), *SMALL, "seed=1", "samples=2"])
    # Its column is new; of its row only what it now asks otherwise, here all of it.
    assert "12 of 20 cells" in capsys.readouterr().out
    one, other = (cell_of(run, "data", step) for step in STEPS[1:])
    assert one["reward_mean"] == other["reward_mean"] and one["accuracy"] == other["accuracy"]


def test_cells_do_not_depend_on_which_others_are_played(run, tmp_path):
    folder = tmp_path / "alone"
    main([str(run), *SMALL, "last_only=true", "data=false", f"folder={folder}"])
    rows = read_matrix(folder)
    assert [(r["challenger"], r["solver"]) for r in rows] == [
        (c, s) for c in ("base", STEPS[2]) for s in ("base", STEPS[2])
    ]
    assert all(row in read_matrix(run / "crossplay") for row in rows)


def test_several_runs_bear_their_ids(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    update_run(run, id="one")
    update_run(other, id="two")
    main([str(run), str(other), *SMALL, "last_only=true"])
    rows = read_matrix(run / "crossplay")
    names = ["base", "one/step-000003", "two/step-000003", "data"]
    assert list(dict.fromkeys(row["challenger"] for row in rows)) == names
    assert capsys.readouterr().out.rstrip().endswith(str(run / "crossplay" / "crossplay.svg"))
    # Equal weights have equal cells.
    one, two = (cell_of(run, "data", f"{name}/step-000003") for name in ("one", "two"))
    assert one["reward_mean"] == two["reward_mean"]


def test_a_challenger_without_a_legal_query_has_empty_cells(tmp_path, loads, capsys):
    run = tmp_path / "run"
    start([*RUN, "num_steps=1", "rollout.max_query_tokens=1", f"run_dir={run}"])
    loads.clear()
    main([str(run), "queries=3", "samples=2"])
    row = cell_of(run, "step-000001", "base")
    assert (row["played"], row["illegal_frac"], row["reward_mean"]) == ("0", "1.0", "")
    assert (row["reward_se"], row["accuracy"], row["accuracy_se"]) == ("", "", "")
    assert read_matrix(run / "crossplay")[0]["reward_mean"] is None
    assert " 2 step-000001 1.000 - - " in " ".join(capsys.readouterr().out.split())
    # Without the data set nothing is left to answer, and nothing but grey to draw.
    (run / "crossplay" / "cells" / "base__base.json").unlink()
    loads.clear()
    main([str(run), "queries=3", "samples=2", "data=false"])
    assert not loads
    assert (run / "crossplay" / "crossplay.svg").read_text().count("<svg") == 1


def test_the_figure_shows_every_number_and_can_be_embedded(played):
    rows = read_matrix(played / "crossplay")
    (axis,) = draw_matrix(rows).axes
    shown = [text.get_text() for text in axis.texts]
    assert shown == [f"{row['reward_mean']:.2f}" for row in rows]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["base", *STEPS]
    assert axis.get_yticklabels()[-1].get_text() == "data (0% illegal)"
    assert axis.get_title() == "Cross-play: mean reward R"
    assert {text.get_color() for text in axis.texts} == {"white", "black"}


def test_adapters_are_played_merged(tmp_path):
    run = tmp_path / "run"
    start([*RUN, "num_steps=1", "model.lora.rank=4", "optim.lr=0.1", f"run_dir={run}"])
    main([str(run), "queries=4", "samples=1"])
    base, trained = (cell_of(run, "data", name)["accuracy"] for name in ("base", "step-000001"))
    assert base != trained


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "error: name the runs: lsp crossplay RUN"),
        (["nowhere"], "error: there is no run 'nowhere'"),
        (["{run}", "{run}"], "error: the run .* is named twice; name each run once"),
        (
            ["{run}", "queries=0", "seed=-1", "samples=1e9"],
            "error: 3 problems in the settings\n  queries=0: must be at least 1. .*\n"
            "  samples=1000000000.0: must be a whole number. .*\n  seed=-1: must be at least 0. ",
        ),
        (["{run}", "seed=4294967296"], "seed=4294967296: must be at most 4294967295"),
        (["{run}", "colour=red"], "colour=red: no such setting. Known here: data, folder, last_o"),
        (["{run}", "folder={run}/run.json"], "cannot be made: .*; name another folder"),
    ],
)
def test_what_cannot_be_played(played, words, says):
    with pytest.raises(SystemExit, match=says):
        main([word.format(run=played) for word in words])


def test_a_run_without_a_checkpoint_and_damaged_files(run):
    (run / "crossplay" / "cells" / "base__base.json").write_text('{"key"')
    with pytest.raises(SystemExit, match="base__base.json cannot be read: .*; remove it, and it"):
        main([str(run), *SMALL])
    (run / "crossplay" / "cells" / "base__base.json").unlink()
    weights = run / "checkpoints" / "step-000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(SystemExit, match="step-000002 is damaged: model.safetensors missing or ch"):
        main([str(run), *SMALL])
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(SystemExit, match=r"has no checkpoint, so none .* \(checkpoint.every"):
        main([str(run), *SMALL])
    with pytest.raises(
        RunError, match=r"holds no cross-play; make one with python -m eval.crosspl"
    ):
        read_matrix(run)


def test_runs_that_differ_stand_in_no_matrix(run, tmp_path):
    def refuse(says, change):
        other = shutil.copytree(run, tmp_path / "other")
        update_run(other, id="other")
        tree = yaml.safe_load((other / "config.yaml").read_text())
        change(other, tree)
        (other / "config.yaml").write_text(yaml.safe_dump(tree))
        with pytest.raises(SystemExit, match=says):
            main([str(run), str(other), *SMALL])
        shutil.rmtree(other)

    def other_base(folder, tree):
        base = shutil.copytree(run / "checkpoints" / "step-000003", tmp_path / "base")
        tree["model"]["name"] = str(base)
        update_run(folder, base=weights_identity(base))

    out = "; name runs of one base and world, each other group in a command of its own"
    refuse(
        rf"run and .*other cannot stand .*: base is 'sha256:.*' and 'sha256:.*'{out}", other_base
    )

    def other_world(_, tree):
        tree["world"] = {"_target_": "lsp.paper.world.PaperWorld"}
        tree["model"]["name"] = str(BASE_FOLDER)

    refuse(
        f"world._target_ is 'lsp.pocket.world.PocketWorld' and 'lsp.paper.world.PaperWorld'{out}",
        other_world,
    )
    refuse(
        r"prompts.challenger is 'ask' and 'say' \(they differ in prompts.challenger, rollout.temp",
        lambda _, tree: (
            tree["prompts"].update(challenger="say"),
            tree["rollout"].update(temperature=0.5),
        ),
    )
    refuse(
        "(?s)the settings of .*other cannot be used: .*restore its config.yaml",
        lambda _, tree: tree.pop("reward"),
    )
    refuse(
        "the base model of .*other .* has changed since",
        lambda folder, _: update_run(folder, base="sha256:0"),
    )


def test_a_reward_of_the_users_own_is_trusted_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_other_half.py").write_text(
        "def half(queries, answers): return [0.5] * len(answers)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, trust = tmp_path / "run", "reward.path=own_other_half.half"
    start([*RUN, "num_steps=1", f"run_dir={run}", "reward=callable", trust])
    with pytest.raises(SystemExit, match=r"lsp crossplay say 'trust="):
        main([str(run), "queries=2"])
    main([str(run), "queries=2", "samples=1", f"trust=[{trust}]"])
    assert cell_of(run, "base", "base")["reward_mean"] == "0.5"
