"""A real run that goes on as far as a test lets it."""

import os
import subprocess
import sys
import time

import pytest

from lsp.tools.places import ROOT

GATE = """
import pathlib, time
here, step = pathlib.Path(__file__).parent, 0
def reward(queries, answers):
    global step
    step += 1
    while step > int((here / "until").read_text() or 0):
        time.sleep(0.01)
    return [len(answer) / 100 for answer in answers]
"""


class GatedRun:
    """A run of ``steps`` steps in a process of its own, which plays step n once it ``may``."""

    def __init__(self, place, steps):
        self.folder, self.place = place / "run", place
        (place / "gate.py").write_text(GATE)
        self.may(0)
        shape = ["num_queries=4", "group_size=3", "eval=none", "tracker=none", "objective=null",
                 "reward=callable", "reward.path=gate.reward"]  # fmt: skip
        paths = os.pathsep.join([str(place), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lsp", "train", *shape, f"num_steps={steps}",
             f"run_dir={self.folder}"],
            cwd=place, env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL, stderr=(place / "said").open("w"),
        )  # fmt: skip
        self.wait_for("config.yaml")

    def may(self, step):
        written = self.place / "until.new"
        written.write_text(str(step))
        written.replace(self.place / "until")

    def wait_for(self, name):
        """Until a file of the run is there."""
        while not (self.folder / name).exists():
            assert self.process.poll() is None, (self.place / "said").read_text()
            time.sleep(0.02)

    def played(self, step):
        self.may(step)
        self.wait_for(f"trace/step-{step:06d}.parquet")


@pytest.fixture
def gated_run(tmp_path):
    """Makes one: ``gated_run(steps=5)``."""
    made = []

    def make(steps):
        made.append(GatedRun(tmp_path, steps))
        return made[-1]

    yield make
    for run in made:
        run.process.kill()
        run.process.wait()
