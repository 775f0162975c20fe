"""What a run's folder says, and what stands in where it cannot be had."""

import pytest

from lsp.paper.world import PaperWorld
from lsp.pocket.evaluation import PocketEvaluation
from lsp.pocket.world import PocketWorld
from lsp.report.page import render, write_report
from lsp.report.record import read_record
from lsp.run.folder import lock_run, update_run

OTHER_WORLD = """
from lsp.pocket.world import PocketWorld
from lsp.settings.schema import settings


@settings
class Mine(PocketWorld):
    name = "mine"
"""


def test_states(run, edit_settings):
    record = read_record(run)
    assert record.state.startswith("Finished: 3 steps")
    update_run(run, status="running")
    edit_settings(run, num_steps=9)
    killed = read_record(run).state
    assert "Killed after step 3 of 9 (its process is gone)" in killed and "resume=" in killed
    with lock_run(run):
        assert read_record(run).state.startswith("Still going: 3 of 9 steps so far")
        for status, word in (("interrupted", "Interrupted after"), ("failed", "Failed after")):
            update_run(run, status=status)  # its own process writes this report, and holds it
            assert read_record(run).state.startswith(word)
    for status, reason, sentence in (
        ("interrupted", "SIGTERM", "Interrupted after step 3 of 9 (SIGTERM); go on with: "),
        ("stopped", "on_collapse=stop: x", "Stopped after step 3 of 9 (on_collapse=stop: x); go"),
        ("failed", "ValueError: no", "Failed after step 3 of 9 (ValueError: no); what it"),
    ):
        update_run(run, status=status, reason=reason)
        assert read_record(run).state.startswith(sentence)


def test_a_step_that_a_kill_left_without_its_line_is_shown(run):
    """The shard is written before the line of metrics."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + '\n{"step": 3, "los')
    assert read_record(run).steps == [1, 2, 3]
    write_report(read_record(run), run / "again.html")


@pytest.mark.parametrize("node", ["pocket", {"_target_": "lsp.pocket.world.PocketWorld"}])
def test_the_world_is_made_from_the_saved_settings(run, edit_settings, node):
    """Of an older run, whose world was a name, too."""
    edit_settings(run, world=node)
    record = read_record(run)
    assert record.world == PocketWorld() and record.warnings == ()


def test_a_world_that_is_not_trusted_is_not_imported_and_the_page_says_so(
    run, edit_settings, tmp_path, monkeypatch
):
    (tmp_path / "own_world.py").write_text(OTHER_WORLD)
    monkeypatch.syspath_prepend(tmp_path)
    edit_settings(run, world={"_target_": "own_world.Mine"})
    record = read_record(run)
    assert record.world == PaperWorld()
    assert record.warnings == (
        "The run's world own_world.Mine: code outside lsp and eval is not run from a config file;"
        " its queries are sorted as free text, and all that were played are taken as legal;"
        " trust=[world._target_=own_world.Mine] imports it",
    )
    page = render(record)
    assert "The run&#39;s world own_world.Mine: code outside" in page and "by family" not in page
    trusted = read_record(run, trusted={"world._target_": "own_world.Mine"})
    assert trusted.world.name == "mine" and trusted.warnings == ()
    assert "by family" in render(trusted)
    assert (
        read_record(run, trusted={"world._target_": "own_world.Other"}).warnings == record.warnings
    )
    assert read_record(run, PocketWorld()).world == PocketWorld()


def test_the_evaluation_is_what_run_json_says(run):
    pocket = ("pocket", dict(PocketEvaluation.labels))
    record = read_record(run)
    assert (record.evaluation, dict(record.labels)) == pocket
    update_run(run, evaluation=None)
    assert read_record(run).labels == {}
    update_run(run, evaluation={"name": "mine", "labels": {}})
    line = '{"step": 3, "eval/mine/score": 0.75, "eval/mine/size": 2.0, "eval/other/x": 1}\n'
    (run / "metrics.jsonl").write_text(line)
    assert read_record(run).labels == {"score": "score", "size": "size"}
    text = (run / "run.json").read_text().replace('"evaluation"', '"another"')
    (run / "run.json").write_text(text)
    record = read_record(run)
    assert (record.evaluation, dict(record.labels)) == pocket
