"""Classes of settings: strict, bounded, described, and the same tree both ways."""

import dataclasses
import importlib
import pkgutil
import typing
from typing import Annotated

import pytest
from pydantic import Field, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

import eval as eval_room
import lsp
import sweeps
from lsp.errors import RunError
from lsp.pocket.pretrain import PretrainSettings
from lsp.pocket.verifier import PocketVerifier
from lsp.settings.command import read_settings
from lsp.settings.compose import compose
from lsp.settings.schema import (
    PLUGGABLE,
    Code,
    Hint,
    Plain,
    flat,
    flat_tree,
    hints_of,
    key_of_part,
    settings,
    to_tree,
    with_value,
)
from sweeps.phase import PhaseSettings


@settings
class Inner:
    rate: float = Field(ge=0, le=1, description="a share")


@settings
class Outer:
    count: int = Field(ge=1, le=9, description="so many")
    words: tuple[str, ...] = Field(description="any")
    inner: Inner | None = Field(description="a group, or none")


def test_settings_are_strict_bounded_and_frozen():
    made = Outer(count=3, words=("a",), inner=Inner(rate=1))
    assert (made.inner.rate, type(made.inner.rate)) == (1.0, float)
    for wrong in ({"count": 3.0}, {"count": True}, {"count": 10}, {"words": "a"}, {"more": 1}):
        with pytest.raises(ValidationError):
            Outer(**{"count": 3, "words": (), "inner": None, **wrong})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.count = 4


def test_a_tree_by_hand_and_its_dotted_keys():
    tree = to_tree(Outer(count=3, words=("a", "b"), inner=Inner(rate=0.5)))
    assert tree == {"count": 3, "words": ["a", "b"], "inner": {"rate": 0.5}}
    assert flat_tree(tree) == {"count": 3, "words": ["a", "b"], "inner.rate": 0.5}
    assert to_tree(Outer(count=1, words=(), inner=None))["inner"] is None


def test_parts_carry_their_targets():
    tree = to_tree(compose([]))
    assert tree["reward"] == {
        "_target_": "lsp.pocket.verifier.PocketVerifier",
        "credit": "partial",
    }
    assert tree["world"] == {"_target_": "lsp.pocket.world.PocketWorld"}
    assert tree["rollout"]["engine"] == {"_target_": "lsp.rollout.settings.InProcess"}
    assert tree["self_reward"]["_target_"] == "lsp.rewards.self_reward.RubricJudge"
    assert "_target_" not in tree["optim"]
    assert flat(compose([]))["reward._target_"] == "lsp.pocket.verifier.PocketVerifier"


def test_one_value_is_changed_in_a_copy():
    config = compose([])
    changed = with_value(config, "optim.lr", 0.25)
    assert (changed.optim.lr, config.optim.lr) == (0.25, 5e-4)
    assert with_value(changed, "optim.lr", config.optim.lr) == config
    with pytest.raises(ValidationError):
        with_value(config, "optim.lr", -1.0)


def test_a_part_is_found_by_its_key_and_changed_in_a_group_of_the_users_names():
    config = compose(["reward=weighted", "+reward@reward.parts.mine.reward=concise",
                      "+reward.parts.mine.weight=1", "tracker=none"])  # fmt: skip
    mine = config.reward.parts["mine"].reward
    assert key_of_part(config, mine) == "reward.parts.mine.reward"
    assert key_of_part(config, config.reward) == "reward"
    assert key_of_part(config, object()) is None
    changed = with_value(config, "reward.parts.mine.reward.words", 7)
    assert (changed.reward.parts["mine"].reward.words, mine.words) == (7, 30)
    assert changed.reward.parts["verifier"] is config.reward.parts["verifier"]


def test_hints_are_taken_apart():
    @settings
    class Marked:
        reward: Annotated[PocketVerifier | None, PLUGGABLE]
        path: Code
        parts: dict[str, Inner]

    hints = hints_of(Marked)
    assert hints["reward"] == Hint(PocketVerifier, True, (PLUGGABLE,))
    assert hints["path"].kind is str and not hints["path"].is_node
    assert hints["parts"].is_node and not hints["parts"].optional


def all_classes():
    """Every class of settings of the project, whichever command reads it."""
    for package in (lsp, eval_room, sweeps):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for kind in vars(importlib.import_module(module.name)).values():
                ours = is_pydantic_dataclass(kind) and kind.__module__ == module.name
                if isinstance(kind, type) and ours:
                    yield kind


def fields():
    """(class and name, annotation, pydantic's description of the field) of every setting."""
    for kind in all_classes():
        hints = typing.get_type_hints(kind, include_extras=True)
        for name, field in kind.__pydantic_fields__.items():
            yield f"{kind.__name__}.{name}", hints[name], field


def numbers(hint, bounds=()):
    """(int or float, its own limits) of each number that an annotation has a place for."""
    if hint in (int, float):
        yield hint, bounds
    elif typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        limits = (limit for mark in marks for limit in getattr(mark, "metadata", ()))
        yield from numbers(inner, (*bounds, *limits))
    elif hint != Plain and typing.get_origin(hint) is not typing.Literal:
        for inner in typing.get_args(hint):
            yield from numbers(inner)


def test_every_setting_has_a_line_of_documentation():
    found = list(fields())
    assert len(found) > 250
    for place, _, field in found:
        assert field.description, f"{place} has no description"
        assert "\n" not in field.description, place


def test_every_number_has_a_least_and_a_largest_value():
    """None is exempt but those of ``template_kwargs``, whose names are the user's."""
    found = [(place, *number, field) for place, h, field in fields() for number in numbers(h)]
    assert len(found) > 120
    for place, _, own, field in found:
        bounds = {type(limit).__name__ for limit in (*own, *field.metadata)}
        assert bounds & {"Le", "Lt"} and bounds & {"Ge", "Gt"}, f"{place} has no bounds"


def test_a_number_in_a_list_has_bounds_of_its_own():
    found = {place: [n for n, _ in numbers(hint)] for place, hint, _ in fields()}
    assert found["PhaseSettings.betas"] == [float] and found["CallableReward.range"] == [float] * 2
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        PhaseSettings(betas=(0.1, 1e7))
    with pytest.raises(RunError, match="its value 2, 2.0, must be at most 1. Write careless="):
        read_settings(PretrainSettings, ["careless=[0.1,2.0]"])
