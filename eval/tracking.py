"""Results and judged pairs go in, a W&B run of their own comes out, linked to the judged model."""

import json
import sys
from pathlib import Path
from typing import Any

from eval.settings import EvaluateConfig
from lsp.run.checkpoint import checkpoint_step
from lsp.run.folder import read_run, saved_tracker
from lsp.settings.schema import flat, flat_tree
from lsp.tools.http import safe
from lsp.tracking.wandb import WandbTracker, keep_in_run_folder, model_artifact, quiet_settings


def track_evaluation(
    run: Path, config: EvaluateConfig, results: dict[str, Any], rows: list[dict]
) -> None:
    """Log results and every judged pair, or checked prompt, with the run's tracker, where that is
    W&B. Online, ``use_artifact`` links the evaluation to the checkpoint that it judged (a control
    judges the base alone). An error of W&B is said and ends nothing: the results are on disk."""
    import wandb

    settings = saved_tracker(run)
    if settings.pop("_target_") != f"{WandbTracker.__module__}.{WandbTracker.__qualname__}":
        return
    tracker = WandbTracker(**settings)
    mode, _ = tracker.resolved_mode()
    if mode == "disabled":
        return
    keep_in_run_folder(run)
    run_id = read_run(run)["id"]
    name = results["benchmark"] + ("-control" if config.control else "")
    # koala/discrete/wins, overall/win_rate, …, beside what is of all sets.
    apart = ("win_rate", "problems", "further_rates", "measured")
    numbers = {key: results[key] for key in results if key not in apart}
    numbers |= results.get("win_rate", {})
    where = {"project": tracker.project, "entity": tracker.entity, "mode": mode, "dir": str(run)}
    about = {"name": f"{name} of {run_id}", "job_type": "evaluation", "group": run_id}
    options = {**where, **about, "config": flat(config), "settings": quiet_settings(tracker)}
    try:
        with wandb.init(**options) as evaluation:
            if mode == "online" and not config.control:
                step = checkpoint_step(Path(results["checkpoint"]))
                evaluation.use_artifact(f"{model_artifact(run_id)}:step-{step}", type="model")
            for key, value in flat_tree(numbers).items():
                evaluation.summary[f"eval/{name}/{key.replace('.', '/')}"] = value
            columns, data = list(rows[0]) if rows else ["index"], [_cells(row) for row in rows]
            evaluation.log({f"eval/{name}/pairs": wandb.Table(columns=columns, data=data)})
    except (wandb.errors.Error, OSError) as error:
        why = safe(str(error))
        text = f"warning: W&B did not take the evaluation ({why}); its results are on disk"
        print(text, file=sys.stderr)


def _cells(row: dict[str, Any]) -> list[Any]:
    """A row's values; a list, such as the verdicts on one answer, as JSON."""
    return [json.dumps(x) if isinstance(x, (list, dict)) else x for x in row.values()]
