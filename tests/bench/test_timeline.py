"""A step's timeline, from metrics worked by hand."""

import pytest

from tests.bench.timeline import drawn, timeline


def step(elapsed, **phases):
    return {"runtime/elapsed": elapsed} | {f"time/{name}": s for name, s in phases.items()}


STEPS = [
    step(10.0, queries=5.0, answers=4.0, update=1.0),  # warms up: left out
    step(20.0, queries=1.0, answers=4.0, reward=1.0, update=3.0),
    step(30.0, queries=1.0, answers=4.0, reward=1.0, update=3.0),
    step(90.0, queries=1.0, answers=4.0, reward=1.0, update=3.0),  # evaluates after it
]


def test_what_lies_between_two_steps_beside_their_phases_is_the_recorders():
    found = timeline(STEPS)
    assert found.step == 10
    assert found.phases == {"queries": 1, "answers": 4, "reward": 1, "update": 3, "between": 1}


def test_each_waits_for_all_others_and_the_bound_is_the_longer_of_the_engine_and_the_rest():
    found = timeline(STEPS)
    assert found.workers == {"engine": 5, "reward": 1, "learner": 3, "recorder": 1}
    assert found.overlapped == 5
    text = drawn(found)
    assert "the learner works 3.000 s and waits for: engine 5.000, reward 1.000, recorder 1" in text
    assert text.endswith("it would take 5.000 at least")
    # Bars stand one behind the other, in the order of a step: queries take a tenth of 60 columns.
    queries, answers = (line[line.index("%") + 2 :] for line in text.splitlines()[:2])
    assert (queries, answers) == ("#" * 6, " " * 6 + "#" * 24)


def test_one_step_has_no_time_between():
    with pytest.raises(ValueError, match="1 steps: a timeline needs two"):
        timeline(STEPS[:1])
