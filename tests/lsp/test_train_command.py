"""A multirun: how many jobs it has, which one begins, and how long all will take."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lsp.train_command import Jobs, jobs_of


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["-m", "method=lsp,grpo", "seed=0,1,2", "num_steps=5"], 6),
        (["seed=range(1,4)", "method=choice(lsp,grpo)", "--multirun"], 6),
        (["-m", "method=lsp", "rollout.stop='a,b'"], 1),  # a text with a comma in it
        (["-m", "seed=0,1", "seed=2,3,4"], 3),  # the last one holds
    ],
)
def test_jobs_are_counted_as_hydra_lists_them(words, count):
    overrides = [word for word in words if not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    assert jobs_of(words) == count == len(batch)


def test_files_of_a_group_are_counted():
    assert jobs_of(["-m", "method=glob(lsp*)", "seed=0,1"]) == 4


def test_what_is_not_this_processs_is_not_counted():
    assert jobs_of(["--cfg", "job", "seed=0"]) == 0
    assert jobs_of(["-m", "seed=0,1", "hydra/launcher=submitit_local"]) == 0
    assert jobs_of(["-m", "seed=0,1", "hydra/sweeper=optuna"]) == 0


def test_the_time_left_is_told_by_those_that_ended():
    jobs = Jobs(total=6, start=100.0, begun=1)
    assert jobs.line(105.0) == "job 1/6  5 s so far, time left unknown yet"
    # The first took 20 s, the second failed, the third took 40 s: three are left, of 30 s each.
    jobs.begun, jobs.seconds = 4, [20.0, 40.0]
    assert jobs.line(175.0) == "job 4/6  1 min 15 s so far, about 1 min 30 s left"
