"""What a config comes to, before anything loads: ``dry_run=true``."""

from __future__ import annotations

import json
from pathlib import Path

from lsp.config import Config, local_model_folder
from lsp.init import NoEarlierRun, resolve_init
from lsp.runs import RunError, display_name, dump_config


def plan(config: Config) -> str:
    """The resolved settings and the sizes that follow from them, as text."""
    method = config.method
    n, g = config.num_queries, config.group_size
    asked = n if method.queries == "challenger" else 0
    rows = n * g + (n if method.trains_challenger else 0)
    tokens = n * g * config.rollout.max_new_tokens + asked * config.rollout.max_query_tokens
    judged = n * g if method.scores_quality else 0
    lines = [
        dump_config(config).rstrip(),
        "",
        f"plan: {display_name(config)}",
        f"  method    {method.label}",
        f"  init      {_init_text(config)}",
        f"  model     {_model_text(config)}",
        f"  a step    {n} queries × {g} answers; {rows} rows in the loss, {judged} judged",
        f"            at most {tokens:,} sampled tokens",
        f"  in all    {config.num_steps} steps, {n * g * config.num_steps:,} answers,"
        f" at most {tokens * config.num_steps:,} sampled tokens",
        f"  run in    {config.run_dir or Path(config.runs_root) / '<run id>'}",
    ]
    return "\n".join(lines)


def _init_text(config: Config) -> str:
    try:
        return resolve_init(config).text
    except NoEarlierRun as error:
        if config.world == "pocket":
            return f"a run of method={config.init.source}, made first: there is none yet"
        return f"missing: {error}"
    except RunError as error:
        return f"missing: {error}"


def _model_text(config: Config) -> str:
    folder = local_model_folder(config.model.name)
    if folder is None:
        return f"{config.model.name} from the Hub (not looked up in a dry run)"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return f"{config.model.name} ({kind}, {size / 1e6:.1f} MB of weights)"
