"""``init=<base, a method, checkpoint>`` goes in, a model folder and its origin come out."""

import json
from dataclasses import dataclass
from pathlib import Path

from lsp.errors import RunError
from lsp.run.checkpoint import newest_checkpoint, verified
from lsp.run.folder import RUN_FILE, base_identity, find_run, read_run, runs
from lsp.settings.config import Config, local_model_folder

ADAPTER_CONFIG = "adapter_config.json"
"""What makes a folder without a config.json an adapter."""


@dataclass(frozen=True)
class Init:
    """``source``: ``model.name``, a model's folder, or a peft adapter's. ``run_id``, ``method``: of
    the run that made it, if one did."""

    source: str
    run_id: str | None
    method: str | None
    text: str

    @property
    def is_adapter(self) -> bool:
        """Whether ``source`` is an adapter, to be merged into ``model.name``."""
        folder = Path(self.source)
        return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


class NoEarlierRun(RunError):
    """init=<method> and no run of it to start from; in the pocket world the caller makes one."""


def base_init(config: Config) -> Init:
    return Init(config.model.name, None, None, f"base model {config.model.name}")


def resolve_init(config: Config) -> Init:
    """Find what the run starts from. Raises RunError with the way out."""
    if config.init.source == "base":
        return base_init(config)
    if config.init.run is not None:
        return _named(config)
    base, method = base_identity(config), config.init.source
    for folder, run in runs(config.runs_root):
        finished = run["status"] == "finished" and run["method"] == method
        alike = run["base"] == base and run.get("world", config.world.name) == config.world.name
        if finished and alike and run["init"]["run_id"] is None:
            return _from_run(folder, run)
    raise NoEarlierRun(
        f"init={method}: there is no finished run of method={method} from this base in"
        f" world={config.world.name} under {config.runs_root}/"
    )


def _named(config: Config) -> Init:
    name, folder = config.init.run, Path(config.init.run)
    adapter = Init(name, None, None, f"adapter {name} merged into {config.model.name}")
    if adapter.is_adapter:
        _check_adapter_base(config, folder)
        return adapter
    if (folder / "config.json").is_file() and not (folder / RUN_FILE).is_file():
        owner = folder.parent.parent
        if not (owner / RUN_FILE).is_file():
            return Init(name, None, None, f"model folder {name}")
        run = read_run(owner)
        _same_base(config, run, name)
        verified(folder)
        text = f"checkpoint {folder.name} of run {run['id']} ({run['method']})"
        return Init(name, run["id"], run["method"], text)
    run_folder = find_run(name, config.runs_root)
    run = read_run(run_folder)
    _same_base(config, run, name)
    if config.init.source not in ("checkpoint", run["method"]):
        reason = f"is a run of {run['method']}, not of {config.init.source}"
        raise RunError(f"init.run={name} {reason}; say init=checkpoint with it")
    return _from_run(run_folder, run)


def _check_adapter_base(config: Config, folder: Path) -> None:
    """Raises RunError where the adapter says that it was trained on another base."""
    try:
        adapter = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    except (OSError, ValueError, AttributeError) as error:
        reason = f"its {ADAPTER_CONFIG} cannot be read: {error}"
        raise RunError(f"init.run={folder}: {reason}") from error
    model = config.model
    ours, theirs = local_model_folder(model.name), local_model_folder(base) if base else None
    same_folder = ours is not None and theirs is not None and ours.resolve() == theirs.resolve()
    if base and base != model.name and not same_folder:
        raise RunError(
            f"init.run={folder} is an adapter of {base}, and this run's base is"
            f" model.name={model.name}; set model.name={base}, or, where that is another name of"
            f" the same model, correct base_model_name_or_path in its {ADAPTER_CONFIG}"
        )
    if ours is None and revision is not None and revision != (model.revision or "main"):
        reason = f"is an adapter of revision {revision} of {model.name}"
        raise RunError(f"init.run={folder} {reason}; set model.revision={revision}")


def _from_run(folder: Path, run: dict) -> Init:
    checkpoint = newest_checkpoint(folder)
    text = f"run {run['id']} ({run['method']}), {checkpoint.name}"
    return Init(str(checkpoint), run["id"], run["method"], text)


def _same_base(config: Config, run: dict, name: str) -> None:
    if run["base"] != base_identity(config):
        reason = f"was trained from another base (model.name={run['model']}) than this run's"
        fix = f"set model.name={run['model']}, or take a run of this base"
        raise RunError(f"init.run={name} {reason} model.name={config.model.name}; {fix}")
