"""A saved view of a W&B project, by the real client against a server on loopback."""

import json
import os
import subprocess
import sys

import pytest

from lsp.errors import RunError
from lsp.tools.places import ROOT
from lsp.workspace import main


def save(environment, folder, command="workspace"):
    """In a process of its own, which knows nothing of this one's W&B service: that keeps runs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "lsp", command, str(folder)],
        cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.advice("lsp/workspace.py:save_view")
def test_a_view_is_made_once_and_its_own_sections_put_in_order_again(small_run, wandb_stub):
    folder = small_run[0]
    result = save(wandb_stub.environment(), folder)
    assert result.returncode == 1
    assert "W&B has no project tester/language-self-play that this key may see" in result.stderr
    assert "Traceback" not in result.stderr and not wandb_stub.views
    sent = save(wandb_stub.environment(), folder, "sync")
    assert sent.returncode == 0, sent.stderr

    result = save(wandb_stub.environment(), folder)
    assert result.returncode == 0, result.stderr
    address = f"{wandb_stub.url}/tester/language-self-play?nw=lspselfplay"
    assert result.stdout == f"{address}\n"
    (view,) = wandb_stub.views.values()
    assert (view["name"], view["displayName"]) == ("nw-lspselfplay-v", "Language self-play")
    spec = json.loads(view["spec"])
    made = {s["name"]: s["panels"] for s in sections_of(spec)}
    assert list(made) == ["Outcome", "Evaluation", "Learning", "Signs of collapse",
                          "Queries and answers"]  # fmt: skip
    assert made["Outcome"][0]["config"]["metrics"] == ["base/accuracy", "final/accuracy"]
    accuracy = made["Evaluation"][0]["config"]
    assert (accuracy["xAxis"], accuracy["metrics"]) == ("train/step", ["eval/pocket/accuracy"])
    plotted = [panel["config"]["metrics"] for panel in made["Learning"]]
    assert ["reward/solver/mean", "reward/challenger/mean"] in plotted
    assert ["kl/solver/k2", "kl/challenger/k2"] in plotted
    # What is drawn is what the run sent.
    sent = {key for run in wandb_stub.runs.values() for row in run.history for key in row}
    summary = {key for run in wandb_stub.runs.values() for key in run.summary}
    drawn = {key for name in made if name != "Queries and answers" for panel in made[name]
             for key in panel["config"]["metrics"]}  # fmt: skip
    assert drawn <= sent | summary
    assert '"trace"' in json.dumps(made["Queries and answers"])

    # A reader's own section and filter stay; ours is as it was.
    section = spec["section"]
    section["panelBankConfig"]["sections"][:] = [
        {**sections_of(spec)[0], "name": "mine"},
        {**sections_of(spec)[2], "panels": []},
    ]
    section["runSets"][0]["search"]["query"] = "lsp"
    view["spec"] = json.dumps(spec)
    assert save(wandb_stub.environment(), folder).returncode == 0
    (view,) = wandb_stub.views.values()
    spec = json.loads(view["spec"])
    assert [s["name"] for s in sections_of(spec)] == [*made, "mine"]
    assert len(sections_of(spec)[2]["panels"]) == len(made["Learning"])
    assert spec["section"]["runSets"][0]["search"]["query"] == "lsp"


def sections_of(spec):
    return spec["section"]["panelBankConfig"]["sections"]


def test_what_there_is_nothing_to_save_of(small_run, interrupted_run, tmp_path, monkeypatch):
    for arguments, says in (
        ([], "workspace takes one run, and these are 0"),
        (["nowhere"], "there is no run 'nowhere'"),
        ([str(interrupted_run[0])], "was run with tracker=none: it has no project of W&B"),
        ([str(small_run[0])], "no W&B key: set WANDB_API_KEY, or run `wandb login`"),
    ):
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        with pytest.raises(RunError, match=says):
            main(arguments)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(RunError, match=r"needs the extra .*: pip install '\.\[workspace\]'"):
        main([str(small_run[0])])


def test_a_run_without_an_evaluation_has_no_panels_of_one():
    from lsp.workspace import sections

    assert [s.name for s in sections({})] == [
        "Learning", "Signs of collapse", "Queries and answers",
    ]  # fmt: skip
