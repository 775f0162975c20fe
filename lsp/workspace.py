"""``lsp workspace RUN``: a run goes in; a saved view of its W&B project comes out.

One view a project, under a name of ours. The first call makes it; a later one puts our sections as
they are here again and leaves all else of it as it is: filters, colours, sections of others. The
run says which project it is, and what its evaluation measures; all runs of the project are shown.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.run.folder import find_run, read_run, saved_tracker
from lsp.settings.command import read_command
from lsp.settings.schema import setting, settings
from lsp.tools.http import safe
from lsp.tracking.reader import read_metrics
from lsp.tracking.wandb import STEP, TABLE, TRIES_OF_CLIENT, has_key, silent_server

NAME = "Language self-play"
ADDRESS = "lspselfplay"
"""Of the view, behind ``?nw=``: as long as those that W&B draws."""
PANELS: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "Learning": (
        ("external reward R", ["reward/external/mean"]),
        ("quality R_Q (0 to 7)", ["quality/mean"]),
        ("reward by role", ["reward/solver/mean", "reward/challenger/mean"]),
        ("KL by role (k2)", ["kl/solver/k2", "kl/challenger/k2"]),
    ),
    "Signs of collapse": (
        ("queries played", ["rollout/played_query_frac"]),
        ("distinct queries", ["rollout/distinct_query_frac"]),
        ("entropy by role", ["entropy/solver", "entropy/challenger"]),
        ("near duplicates", ["collapse/near_duplicate_frac"]),
    ),
}
"""Section -> title and metrics of each panel, over the steps."""


@settings
class WorkspaceSettings:
    """Where the run is."""

    runs_root: str = setting("where run ids are looked up", default="outputs")


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(WorkspaceSettings, arguments)
    if len(names) != 1:
        raise RunError(f"workspace takes one run, and these are {len(names)}: lsp workspace RUN")
    folder = find_run(names[0], chosen.runs_root)
    tracker = saved_tracker(folder)
    if "project" not in tracker:
        raise RunError(f"{folder} was run with tracker=none: it has no project of W&B")
    os.environ |= TRIES_OF_CLIENT | os.environ
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        problem = f"a saved view needs the extra ({error.name} is not installed)"
        raise RunError(f"{problem}: pip install '.[workspace]'") from error
    if not has_key():
        raise RunError("no W&B key: set WANDB_API_KEY, or run `wandb login`")
    if reason := silent_server():
        raise RunError(f"W&B cannot be reached ({reason}); nothing was saved")
    # Its client raises errors of many kinds when a server fails or refuses.
    try:
        print(save_view(tracker["entity"], tracker["project"], measured(folder)))
    except RunError:
        raise
    except Exception as error:
        reason = f"W&B did not take the view: {type(error).__name__}: {error}"
        raise RunError(safe(reason, limit=1000)) from error


def measured(folder: Path) -> dict[str, str]:
    """Metric -> its words, of what the run's evaluation has measured so far."""
    evaluation = read_run(folder).get("evaluation") or {"name": "", "labels": {}}
    keys = {key for line in read_metrics(folder) for key in line}
    metrics = {
        f"eval/{evaluation['name']}/{key}": text for key, text in evaluation["labels"].items()
    }
    return {key: text.strip() for key, text in metrics.items() if key in keys}


def save_view(entity: str | None, project: str, evaluated: Mapping[str, str]) -> str:
    """Make or renew the view; its address. ``evaluated``: as of ``measured``. Raises RunError where
    there is no such project."""
    import wandb
    from wandb_workspaces.workspaces import Workspace, WorkspaceSettings

    entity = entity or wandb.Api().default_entity
    ours = sections(evaluated)
    try:
        view = Workspace.from_url(f"https://wandb.ai/{entity}/{project}?nw={ADDRESS}")
    except ValueError as error:
        if "not found in project" not in str(error):
            reason = f"W&B has no project {entity}/{project} that this key may see ({error})"
            raise RunError(f"{safe(reason)}; `lsp sync RUN` sends an offline run") from error
        view = Workspace(entity, project, NAME, settings=WorkspaceSettings(x_axis=STEP))
        view._internal_name = f"nw-{ADDRESS}-v"  # else a new one each time
    names = {section.name for section in ours}
    view.sections = [*ours, *(other for other in view.sections if other.name not in names)]
    view.save()
    return view.url


def sections(evaluated: Mapping[str, str]) -> list[Any]:
    """Ours. The curves of an evaluation begin at step 0, with the model that a run starts from."""
    from wandb_workspaces.reports.v2 import BarPlot, LinePlot, WeavePanelSummaryTable
    from wandb_workspaces.workspaces import Section

    made, plots = [], dict(PANELS)
    if evaluated:
        metric, words = next(iter(evaluated.items()))
        key = metric.split("/", 2)[2]
        ends = BarPlot(title=f"{words}, test split", metrics=[f"base/{key}", f"final/{key}"])
        made = [Section(name="Outcome", panels=[ends], is_open=True)]
        plots = {"Evaluation": [(text, [key]) for key, text in evaluated.items()]} | plots
    for name, panels in plots.items():
        lines = [LinePlot(title=title, x=STEP, y=list(keys)) for title, keys in panels]
        made.append(Section(name=name, panels=lines, is_open=True))
    table = WeavePanelSummaryTable(table_name=TABLE)
    return [*made, Section(name="Queries and answers", panels=[table], is_open=True)]


if __name__ == "__main__":
    sys.exit(run_command("workspace", sys.argv[1:]))
