"""What can be plugged in: contracts that are broken are named before and after a part is built."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from pydantic import Field

from lsp.contracts import (
    BuildContext,
    EvaluatorSettings,
    QueriesSettings,
    Reward,
    RewardSettings,
    TrackerSettings,
    World,
    build_part,
)
from lsp.pocket.verifier import PocketVerifier
from lsp.settings.compose import compose
from lsp.settings.reader import broken_contract
from lsp.settings.schema import settings

NOTHING = BuildContext(None)


class Scorer(Reward):
    def __call__(self, queries, answers):
        return [0.0] * len(queries)


class Silent(Reward):
    """It does not say how it is called."""


class Stranger:
    def __call__(self, queries, answers):
        return [0.0] * len(queries)


@settings
class Whole(RewardSettings):
    value: int = Field(default=1, ge=1, le=9, description="any")

    def build(self, context: BuildContext) -> Scorer:
        return Scorer()


@settings
class Unannotated(RewardSettings):
    def build(self, context):
        return Stranger()


@settings
class WithoutBuild(RewardSettings):
    pass


@settings
class BuildsAStranger(RewardSettings):
    def build(self, context: BuildContext) -> Stranger:
        return Stranger()


@settings
class BuildsASilentOne(RewardSettings):
    def build(self, context: BuildContext) -> Silent:
        return Silent()


@dataclass(frozen=True)
class NoSettings:
    value: int = 1


@pytest.mark.parametrize(
    ("kind", "contract", "reason"),
    [
        (Whole, RewardSettings, ""),
        (Unannotated, RewardSettings, ""),  # seen once it is built
        (PocketVerifier, RewardSettings, ""),
        (NoSettings, RewardSettings, "is no class of settings (lsp.settings.schema.settings)"),
        (Whole, TrackerSettings, "does not inherit lsp.contracts.TrackerSettings"),
        (Scorer, RewardSettings, "is no class of settings (lsp.settings.schema.settings)"),
        (print, RewardSettings, "is no class of settings (lsp.settings.schema.settings)"),
        (WithoutBuild, RewardSettings, "lacks build"),
        (
            BuildsAStranger,
            RewardSettings,
            "builds a Stranger, which does not inherit lsp.contracts.Reward",
        ),
        (BuildsASilentOne, RewardSettings, "builds a Silent, which lacks __call__"),
    ],
)
def test_a_broken_contract_is_named_before_anything_is_built(kind, contract, reason):
    assert broken_contract(kind, contract) == reason


def test_a_world_is_not_built_and_must_say_how_queries_are_sorted():
    @settings
    class Flat(World):
        name = "flat"

    assert broken_contract(Flat, World) == "lacks kinds"
    assert broken_contract(type(compose([]).world), World) == ""


def test_the_parts_of_every_world_hold_their_contracts():
    for overrides in ([], ["world=paper"]):
        config = compose(overrides)
        parts = {
            QueriesSettings: config.data,
            RewardSettings: config.reward,
            TrackerSettings: config.tracker,
            World: config.world,
        }
        if config.eval is not None:
            parts[EvaluatorSettings] = config.eval
        for contract, part in parts.items():
            assert broken_contract(type(part), contract) == ""


def test_what_is_built_is_held_to_its_contract_at_once():
    assert isinstance(build_part(Whole(), NOTHING), Scorer)
    with pytest.raises(ValueError) as raised:
        build_part(Unannotated(), NOTHING)
    assert str(raised.value) == (
        "Unannotated.build returned a Stranger, and it must return a Reward (lsp/contracts.py);"
        " inherit that class"
    )


def test_queries_are_any_sequence_and_a_tracker_may_be_none():
    @settings
    class Two(QueriesSettings):
        def build(self, context: BuildContext) -> Sequence[str]:
            return ["a", "b"]

    assert build_part(Two(), NOTHING) == ["a", "b"]
    assert build_part(compose(["tracker=none"]).tracker, NOTHING) is None

    @settings
    class Lost(QueriesSettings):
        def build(self, context: BuildContext) -> Sequence[str]:
            return None

    with pytest.raises(ValueError, match=r"Lost.build returned a NoneType, and it must return a S"):
        build_part(Lost(), NOTHING)


def test_what_a_reward_declares_unless_it_says_otherwise():
    assert (Whole().range, Whole().own_models(), Whole().uncounted()) == (None, (), ())
    assert list(Whole().calls(None)) == list(Whole().may_change()) == []
    assert Scorer().details() == {} and Scorer().offload() is None
    assert list(Whole().problems(None)) == []
