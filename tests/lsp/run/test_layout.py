"""Settings that an earlier version saved are read as today's; today's stay as they are."""

import shutil
from copy import deepcopy

import pytest
import yaml

from lsp.loop.launch import start
from lsp.run.folder import saved_tree
from lsp.run.layout import MOVED_TARGETS, in_todays_layout
from lsp.settings.compose import compose
from lsp.settings.reader import imported
from lsp.settings.rules import from_tree
from lsp.settings.schema import to_tree
from lsp.tracking.reader import read_trace


def as_saved_before(tree):
    """Today's tree as a version before the rooms saved it."""
    old = deepcopy(tree)
    old["world"] = old["world"]["_target_"].split(".")[1]  # lsp.pocket.world.… was ``pocket``
    del old["self_reward"]["_target_"], old["rollout"]["engine"]
    old["tracker"]["role_gradients_every"] = old["optim"].pop("role_gradients_every")
    before = {today: earlier for earlier, today in MOVED_TARGETS.items()}

    def move(node):
        for value in node.values():
            if isinstance(value, dict):
                move(value)
        if node.get("_target_") in before:
            node["_target_"] = before[node["_target_"]]

    move(old)
    return old


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=grpo", "tracker=none", "optim.role_gradients_every=3"],
        ["reward=weighted"],
        ["eval=none", "self_reward.mode=generate"],
        ["world=paper", "rollout.max_new_tokens=8"],
    ],
    ids=" ".join,
)
def test_an_earlier_layout_reads_as_todays_and_todays_is_unchanged(overrides):
    today = to_tree(compose(overrides))
    old = as_saved_before(today)
    before = deepcopy(old)
    assert in_todays_layout(old) == today
    assert old == before  # a copy: what was read is left alone
    assert in_todays_layout(today) == today
    assert from_tree(in_todays_layout(old)) == compose(overrides)


def test_each_move_by_hand():
    old = {
        "world": "pocket",
        "self_reward": {"mode": "expected"},
        "rollout": {"top_p": 1.0},
        "optim": {"lr": 0.1},
        "tracker": {"_target_": "lsp.tracking.base.LocalOnly", "role_gradients_every": 7},
        "eval": {"_target_": "eval.pocket.PocketEvaluation", "every": 2},
        "data": {"_target_": "lsp.queries.dataset.PocketQueries"},
        "reward": {
            "_target_": "lsp.rewards.weighted.WeightedReward",
            "parts": {"right": {"reward": {"_target_": "lsp.rewards.verifier.PocketVerifier"}}},
        },
    }
    assert in_todays_layout(old) == {
        "world": {"_target_": "lsp.pocket.world.PocketWorld"},
        "self_reward": {"_target_": "lsp.rewards.self_reward.RubricJudge", "mode": "expected"},
        "rollout": {"top_p": 1.0, "engine": {"_target_": "lsp.rollout.settings.InProcess"}},
        "optim": {"lr": 0.1, "role_gradients_every": 7},
        "tracker": {"_target_": "lsp.tracking.trackers.LocalOnly"},
        "eval": {"_target_": "lsp.pocket.evaluation.PocketEvaluation", "every": 2},
        "data": {"_target_": "lsp.pocket.queries.PocketQueries"},
        "reward": {
            "_target_": "lsp.rewards.weighted.WeightedReward",
            "parts": {"right": {"reward": {"_target_": "lsp.pocket.verifier.PocketVerifier"}}},
        },
    }
    paper = in_todays_layout({"world": "paper"})
    assert paper == {"world": {"_target_": "lsp.paper.world.PaperWorld"}}


def test_every_target_of_today_is_there():
    assert {imported(today).__name__ for today in MOVED_TARGETS.values()} == {
        earlier.rpartition(".")[2] for earlier in MOVED_TARGETS
    }


@pytest.mark.parametrize("tree", [{}, {"world": 5}, {"world": "moon"}, {"reward": None, "a": [1]}])
def test_what_is_no_earlier_layout_stays_for_the_reader_to_refuse(tree):
    assert in_todays_layout(tree) == tree


def test_a_saved_file_is_read_through_it_and_stays_as_it_was(tmp_path):
    (tmp_path / "config.yaml").write_text("world: pocket\nnum_steps: 3\n")
    assert saved_tree(tmp_path) == {
        "world": {"_target_": "lsp.pocket.world.PocketWorld"},
        "num_steps": 3,
    }
    assert (tmp_path / "config.yaml").read_text() == "world: pocket\nnum_steps: 3\n"


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_an_earlier_version_saved_goes_on_with_the_same_rows(interrupted_run, tmp_path):
    traces = []
    for layout in (to_tree, as_saved_before):
        folder = shutil.copytree(interrupted_run[0], tmp_path / layout.__name__)
        settings = layout(saved_tree(folder))
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        assert start([f"resume={folder}"])["steps"] == 5
        traces.append(read_trace(folder))
    assert traces[0] == traces[1] and [row["step"] for row in traces[0]][-1] == 5
    before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert before["world"] == "pocket"  # what the earlier version wrote is left as it is
