"""Where a run starts: ``init=<base, a method, checkpoint>`` -> a model folder and its origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lsp.checkpoint import newest_checkpoint, verified
from lsp.config import Config
from lsp.runs import RUN_FILE, RunError, base_identity, find_run, read_run, runs


@dataclass(frozen=True)
class Init:
    """``source``: a folder, or ``model.name``. ``run_id``, ``method``: of the run that made it, if
    one did."""

    source: str
    run_id: str | None
    method: str | None
    text: str

    def record(self) -> dict[str, str | None]:
        return asdict(self)


class NoEarlierRun(RunError):
    """init=<method> and no run of it to start from; in the pocket world the caller makes one."""


def resolve_init(config: Config) -> Init:
    """Find what the run starts from. Raises RunError with the way out."""
    if config.init.source == "base":
        return Init(config.model.name, None, None, f"base model {config.model.name}")
    if config.init.run is not None:
        return _named(config)
    base, method = base_identity(config), config.init.source
    for folder, run in runs(config.runs_root):
        finished = run["status"] == "finished" and run["method"] == method
        if finished and run["base"] == base and run["init"]["run_id"] is None:
            return _from_run(folder, run)
    raise NoEarlierRun(
        f"init={method}: there is no finished run of method={method} from this base under"
        f" {config.runs_root}/; make one with `python run.py method={method}"
        f" world={config.world}`, or name one with init.run=…"
    )


def _named(config: Config) -> Init:
    name = config.init.run
    folder = Path(name)
    if (folder / "config.json").is_file() and not (folder / RUN_FILE).is_file():
        owner = folder.parent.parent
        if not (owner / RUN_FILE).is_file():
            return Init(name, None, None, f"model folder {name}")
        run = read_run(owner)
        _same_base(config, run, name)
        verified(folder)
        text = f"checkpoint {folder.name} of run {run['id']} ({run['method']})"
        return Init(name, run["id"], run["method"], text)
    found = find_run(name, config.runs_root)
    run = read_run(found)
    _same_base(config, run, name)
    if config.init.source not in ("checkpoint", run["method"]):
        raise RunError(
            f"init.run={name} is a run of {run['method']}, not of {config.init.source}; say"
            " init=checkpoint with it"
        )
    return _from_run(found, run)


def _from_run(folder: Path, run: dict) -> Init:
    checkpoint = newest_checkpoint(folder)
    text = f"run {run['id']} ({run['method']}), {checkpoint.name}"
    return Init(str(checkpoint), run["id"], run["method"], text)


def _same_base(config: Config, run: dict, name: str) -> None:
    if run["base"] != base_identity(config):
        raise RunError(
            f"init.run={name} was trained from another base (model.name={run['model']}) than this"
            f" run's model.name={config.model.name}; set model.name={run['model']}, or take a run"
            " of this base"
        )
