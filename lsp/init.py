"""Where a run starts: ``init=base|grpo|checkpoint`` -> a model folder and where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lsp.checkpoint import newest_checkpoint, verified
from lsp.config import Config
from lsp.runs import RUN_FILE, RunError, base_identity, find_run, read_run, runs


@dataclass(frozen=True)
class Init:
    """``source``: a folder, or ``model.name``. ``run_id``: the run that made it, if one did."""

    source: str
    run_id: str | None
    text: str

    def record(self) -> dict[str, str | None]:
        return asdict(self)


class NoGrpoRun(RunError):
    """init=grpo and nothing to start from; in the pocket world the caller makes one."""


def resolve_init(config: Config) -> Init:
    """Find what the run starts from. Raises RunError with the way out."""
    if config.init.source == "base":
        return Init(config.model.name, None, f"base model {config.model.name}")
    if config.init.run is not None:
        return _named(config)
    base = base_identity(config)
    for folder, run in runs(config.runs_root):
        finished = run["status"] == "finished" and run["method"] == "grpo"
        if finished and run["base"] == base and run["init"]["run_id"] is None:
            return _from_run(folder, run)
    raise NoGrpoRun(
        f"init=grpo: there is no finished GRPO run of this base under {config.runs_root}/; make one"
        f" with `python run.py method=grpo world={config.world}`, or name one with init.run=…"
    )


def _named(config: Config) -> Init:
    name = config.init.run
    folder = Path(name)
    if (folder / "config.json").is_file() and not (folder / RUN_FILE).is_file():
        owner = folder.parent.parent
        if not (owner / RUN_FILE).is_file():
            return Init(name, None, f"model folder {name}")
        run = read_run(owner)
        _same_base(config, run, name)
        verified(folder)
        return Init(name, run["id"], f"checkpoint {folder.name} of run {run['id']}")
    found = find_run(name, config.runs_root)
    run = read_run(found)
    _same_base(config, run, name)
    if config.init.source == "grpo" and run["method"] != "grpo":
        raise RunError(
            f"init.run={name} is a run of {run['method']}, not of GRPO; say init=checkpoint with it"
        )
    return _from_run(found, run)


def _from_run(folder: Path, run: dict) -> Init:
    checkpoint = newest_checkpoint(folder)
    return Init(str(checkpoint), run["id"], f"run {run['id']} ({run['method']}), {checkpoint.name}")


def _same_base(config: Config, run: dict, name: str) -> None:
    if run["base"] != base_identity(config):
        raise RunError(
            f"init.run={name} was trained from another base (model.name={run['model']}) than this"
            f" run's model.name={config.model.name}; set model.name={run['model']}, or take a run"
            " of this base"
        )
