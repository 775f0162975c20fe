"""Classes of settings: strict, bounded, described, and the same tree both ways."""

import dataclasses
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from lsp.pocket.verifier import PocketVerifier
from lsp.settings.compose import compose
from lsp.settings.config import Config
from lsp.settings.schema import (
    PLUGGABLE,
    Code,
    Hint,
    flat,
    flat_tree,
    hints_of,
    settings,
    to_tree,
    with_value,
)


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


def classes(kind, found=None):
    """A class of settings and all those inside it."""
    found = set() if found is None else found
    if kind not in found:
        found.add(kind)
        for hint in hints_of(kind).values():
            if dataclasses.is_dataclass(hint.kind):
                classes(hint.kind, found)
    return found


def parts_of(*overrides):
    config = compose(overrides)
    parts = (config.data, config.reward, config.self_reward, config.eval, config.tracker)
    return {type(part) for part in (*parts, config.rollout.engine) if part is not None}


def test_every_field_has_a_line_of_documentation_and_every_number_a_maximum():
    kinds = classes(Config) | parts_of() | parts_of("world=paper")
    kinds |= parts_of("reward=weighted") | parts_of("reward=http", "reward.url=http://h/r")
    assert len(kinds) > 15
    for kind in kinds:
        for name, field in getattr(kind, "__pydantic_fields__", {}).items():
            place = f"{kind.__name__}.{name}"
            assert field.description, f"{place} has no description"
            assert "\n" not in field.description, place
            hint = hints_of(kind)[name].kind
            bounds = {type(limit).__name__ for limit in field.metadata}
            if hint in (int, float):
                assert bounds & {"Le", "Lt"} and bounds & {"Ge", "Gt"}, f"{place} has no bounds"
