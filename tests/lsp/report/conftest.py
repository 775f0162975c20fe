"""A finished run to be changed, and ways to change it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from lsp.files import write_json_lines
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import HELD_OUT, MANIFEST
from lsp.tracking.rows import SCHEMA


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the small run."""
    return Path(shutil.copytree(small_run[0], tmp_path / "run"))


@pytest.fixture
def edit_json():
    def edit(path, **values):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


@pytest.fixture
def edit_settings():
    def edit(run, **values):
        tree = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(tree | values))

    return edit


@pytest.fixture
def write_metrics():
    """Values of one metric from step 1 on, in the place of all metrics of a run."""

    def write(run, key, values):
        lines = [json.dumps({"step": i, key: value}) for i, value in enumerate(values, 1)]
        (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))

    return write


@pytest.fixture
def add_step():
    """A step's rows as a tracker would write them, whatever a manifest says; what is not given is
    plain."""

    def add(run, step, rows):
        plain = dict.fromkeys(SCHEMA.names) | dict(
            run_id="x", step=step, source="challenger", reward=0.5, quality=3.0,
            quality_status="read", solver_reward=0.5, solver_advantage=0.0, query_value=0.5,
            challenger_reward=-0.5, challenger_advantage=0.0, query_finish_reason="stop",
            answer_finish_reason="stop", query_tokens=3, answer_tokens=2,
        )  # fmt: skip
        (run / MANIFEST).unlink(missing_ok=True)
        LocalTracker(run).log(step, {}, [plain | row for row in rows])

    return add


@pytest.fixture
def scored_run(small_run, tmp_path, edit_json):
    """Copies of the small run that scored so on held-out prompts p0, p1, …, where the base scored
    0.25 on each: ``scored_run("a", [0.5, 0.7], method=dict(beta=0.3), seed=1)``."""

    def made(name, scores, weights=None, prompt="p", **settings):
        folder = Path(shutil.copytree(small_run[0], tmp_path / name))
        edit_json(folder / "run.json", id=name)
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        for key, value in settings.items():
            tree[key] = tree[key] | value if isinstance(value, dict) else value
        (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        shares = weights or [1 / len(scores)] * len(scores)
        rows = [
            dict(prompt=f"{prompt}{i}", right_answer="r", weight=share, base_score=0.25,
                 trained_score=score, base="b", trained=f"{name} says {i}")
            for i, (score, share) in enumerate(zip(scores, shares, strict=True))
        ]  # fmt: skip
        write_json_lines(folder / HELD_OUT, rows)
        return folder

    return made
