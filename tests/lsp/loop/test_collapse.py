"""Collapse: measures by hand, planted collapses that fire, healthy play that stays silent."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lsp.instructions.world import InstructionsWorld
from lsp.loop.collapse import (
    CollapseDetector,
    Trend,
    distinct_ngram_frac,
    signature,
    unasked_code_frac,
)
from lsp.metrics import empty_play
from lsp.paper.world import PaperWorld
from lsp.pocket.world import PocketWorld
from lsp.settings.compose import compose
from lsp.types import Completion, Query

SETTINGS = replace(compose([]).collapse, window=5)
HEALTHY = {
    "rollout/distinct_query_frac": 0.9,
    "rollout/played_query_frac": 1.0,
    "quality/mean": 6.5,
    "quality/unparsed_frac": 0.0,
    "reward/external/mean": 0.5,
    "entropy/challenger": 1.0,
}


def queries_of(texts):
    return [
        Query(f"q{i}", text, "stop", (1,), Completion(tuple(map(ord, text)), (), text, "stop"))
        for i, text in enumerate(texts)
    ]


def run(detector, steps, texts_of=lambda step: ["alpha", "beta"], **changes):
    """Alarms over steps; ``changes`` maps a metric's last word to a function of the step."""
    found = []
    for step in range(steps):
        metrics = {
            key: changes[key.split("/")[-2 if key.endswith("mean") else -1]](step)
            if key.split("/")[-2 if key.endswith("mean") else -1] in changes
            else value
            for key, value in HEALTHY.items()
        }
        found += detector.step(queries_of(texts_of(step)), empty_play(), metrics)[1]
    return found


def fresh_texts(step):
    source = random.Random(step)
    return ["".join(source.choices("abcdefghijklmnopqrstuvwxyz ", k=40)) for _ in range(4)]


def test_signatures_estimate_similarity():
    text = "write a short poem about the northern sea in winter"
    near = text.replace("short", "brief")
    other = "how many apples does a merchant have after selling three"
    same = (signature(text) == signature(text.upper())).mean()
    assert same == 1.0
    assert 0.5 < (signature(text) == signature(near)).mean() < 1.0
    assert (signature(text) == signature(other)).mean() < 0.2
    assert signature("").shape == (32,)


def test_distinct_ngrams_by_hand():
    # Bigrams: ab, bc | ab: two different of three.
    assert distinct_ngram_frac([[1, 2, 3], [1, 2]]) == pytest.approx(2 / 3)
    assert distinct_ngram_frac([[1]]) == 1.0


def test_code_where_none_was_asked_for():
    queries = ["Name a colour.", "Write a Python function.", "Who are you?"]
    answers = [["def f():\n    return 1", "blue"], ["def f(): pass"], ["I am import; ant"]]
    assert unasked_code_frac(queries, answers) == pytest.approx(1 / 3)
    assert unasked_code_frac(queries[1:2], answers[1:2]) == 0.0


def test_a_trend_is_a_moving_mean_against_the_beginning():
    trend = Trend(window=2)
    for value in (1.0, 3.0, 4.0):
        trend.add(value)
    assert (trend.first, trend.recent, trend.change) == (2.0, 3.0, 1.0)


def test_healthy_play_raises_nothing():
    assert run(CollapseDetector(SETTINGS, PocketWorld()), 60, fresh_texts) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distinct_query_frac": lambda s: 0.9 - 0.03 * s}, "rollout/distinct_query_frac fell"),
        ({"played_query_frac": lambda s: 0.2}, "rollout/played_query_frac fell to 0.2"),
        ({"challenger": lambda s: 0.001}, "entropy/challenger fell"),
        ({"unparsed_frac": lambda s: 0.02 * s}, "quality/unparsed_frac rose"),
    ],
)
def test_planted_collapses_fire_once(changes, says):
    found = run(CollapseDetector(SETTINGS, PocketWorld()), 40, fresh_texts, **changes)
    assert len(found) == 1 and says in found[0]


@pytest.mark.parametrize(("slope", "role"), [(0.02, "Solver"), (-0.02, "Challenger")])
def test_reward_up_while_quality_goes_down_names_the_role(slope, role):
    found = run(
        CollapseDetector(SETTINGS, PocketWorld()),
        40,
        fresh_texts,
        quality=lambda s: 6.5 - 0.1 * s,
        external=lambda s: 0.5 + slope * s,
    )
    assert len(found) == 1
    assert f"the {role}'s external reward rose" in found[0] and "reward hacking" in found[0]


def test_queries_of_one_kind_raise_an_alarm_where_the_world_has_kinds():
    """Four of five legal queries ask for one family; what is not legal does not count."""

    def texts(step):
        letters = ["".join(random.Random(f"{step} {i}").choices("abc", k=8)) for i in range(4)]
        return [*(f"reverse {text}" for text in letters), "copy abca", "gibberish"]

    detector = CollapseDetector(SETTINGS, PocketWorld())
    values, _ = detector.step(queries_of(texts(0)), empty_play(), HEALTHY)
    assert values["collapse/largest_kind_frac"] == 0.8
    found = run(CollapseDetector(SETTINGS, PocketWorld()), 20, texts)
    assert len(found) == 1 and found[0].startswith("collapse/largest_kind_frac rose to 0.8")
    of_language = CollapseDetector(SETTINGS, PaperWorld())
    values, _ = of_language.step(queries_of(texts(0)), empty_play(), HEALTHY)
    assert "collapse/largest_kind_frac" not in values


def test_repeats_of_earlier_steps_are_seen_even_where_a_step_is_varied():
    texts = fresh_texts(0)
    found = run(CollapseDetector(SETTINGS, PocketWorld()), 20, lambda step: texts)
    assert len(found) == 1 and found[0].startswith("collapse/near_duplicate_frac rose to 0.98")
    detector = CollapseDetector(SETTINGS, PocketWorld())
    first = detector.step(queries_of(texts), empty_play(), HEALTHY)[0]
    again = detector.step(queries_of(texts), empty_play(), HEALTHY)[0]
    assert first["collapse/near_duplicate_frac"] == 0.0
    assert again["collapse/near_duplicate_frac"] == 1.0


def test_memory_is_bounded():
    detector = CollapseDetector(replace(SETTINGS, memory=6), PocketWorld())
    run(detector, 10, fresh_texts)
    assert detector.signatures.shape == (6, 32)
    assert detector.signatures.nbytes == 6 * 128


def test_data_queries_are_no_challengers():
    detector = CollapseDetector(SETTINGS, PocketWorld())
    queries = [Query("q", "same", "dataset")] * 4
    for _ in range(20):
        low = {**HEALTHY, "rollout/distinct_query_frac": 0.0}
        values, alarms = detector.step(queries, empty_play(), low)
        assert alarms == [] and set(values) == {"collapse/unasked_code_frac"}


def test_a_restored_detector_goes_on_as_if_never_stopped():
    whole, first = (
        CollapseDetector(SETTINGS, PocketWorld()),
        CollapseDetector(SETTINGS, PocketWorld()),
    )
    run(whole, 12, fresh_texts, unparsed_frac=lambda s: 0.05 * s)
    run(first, 12, fresh_texts, unparsed_frac=lambda s: 0.05 * s)
    second = CollapseDetector(SETTINGS, PocketWorld())
    second.restore(first.state())
    assert np.array_equal(second.signatures, whole.signatures)
    assert (second.trends, second.raised) == (whole.trends, whole.raised)
    assert second.raised == {"quality/unparsed_frac"}
    assert run(second, 12, fresh_texts) == run(whole, 12, fresh_texts)


def test_on_an_empty_step_nothing_breaks():
    values, alarms = CollapseDetector(SETTINGS, PocketWorld()).step([], empty_play(), {})
    assert alarms == [] and values["collapse/unasked_code_frac"] == 0.0
    assert torch.is_tensor(empty_play().reward_QG)


def test_answers_that_follow_rules_and_say_nothing_raise_both_alarms():
    """The instructions world's hack: a list of placeholders has R = 1, and no quality."""
    detector, found = CollapseDetector(SETTINGS, InstructionsWorld()), []
    query = "Write a recipe. Use at least 25 words."
    honest = "Mix flour with eggs and milk and let the batter rest before you bake it."
    for step in range(16):
        text = honest if step < 6 else "[name] Lime Punch: " + "[name] " * 30
        answer = Completion(tuple(text.encode()), (), text, "stop")
        play = replace(empty_play(), queries=queries_of([query]), answers=[[answer] * 2])
        hacked = {"reward/external/mean": 1.0, "quality/mean": 2.0}
        metrics = HEALTHY | (hacked if step >= 6 else {})
        values, alarms = detector.step(queries_of([f"{query} {step}"]), play, metrics)
        assert values["collapse/answer_repetition"] == pytest.approx(0.0 if step < 6 else 27 / 31)
        found += alarms
    assert any("collapse/answer_repetition rose to" in alarm for alarm in found)
    assert any("Solver's external reward rose" in a and "reward hacking" in a for a in found)
