"""Weights & Biases, a sink beside the local files: a run's steps go in, a W&B run comes out.

Facts about the client that this follows are in docs/tracking.md: never ``step=``, flat config
keys, everything under the run's folder, fresh tables, shards as artifacts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from lsp.contracts import BuildContext, Rows, RunIdentity, Tracker, TrackerSettings
from lsp.errors import RunError
from lsp.files import files_below
from lsp.settings.config import Config
from lsp.settings.schema import flat, setting, settings
from lsp.tools.reach import unreachable
from lsp.tracking.reader import read_metrics, read_run_file, shard, trace_steps

SAMPLE_ROWS = 64
STEP, TABLE = "train/step", "trace"
"""Names in W&B: what scalars lie over, and a step's rows."""
WANDB_MODES = ("online", "offline", "disabled")
TRIES_OF_CLIENT = {"WANDB_X_GRAPHQL_RETRY_MAX": "4", "WANDB_ERROR_REPORTING": "false"}
"""For the environment, before W&B's client is imported by a command: tries of a request, about a
minute in all, instead of hours; and its own telemetry, which complains of a server that fails."""
HISTOGRAMS = (
    "reward",
    "quality",
    "solver_reward",
    "solver_advantage",
    "challenger_reward",
    "challenger_advantage",
)


@settings
class WandbTracker(TrackerSettings):
    """Weights & Biases, a sink beside the run's folder."""

    project: str = setting("of W&B")
    entity: str | None = setting("W&B user or team; null: the account's own")
    mode: Literal["auto", "online", "offline"] = setting(
        "auto: online where a key is found, else offline; WANDB_MODE comes first"
    )
    tables: Literal["all", "sample", "off"] = setting(
        "trace rows as a table each step, some of them every artifact_every, or none"
    )
    artifact_every: int = setting("steps between artifacts of trace shards", ge=1, le=10_000_000)
    finish_seconds: int = setting("how long the end of a run waits for W&B", ge=1, le=86_400)

    def resolved_mode(self) -> tuple[str, str]:
        """(mode, its reason). ``disabled`` only where WANDB_MODE says so."""
        if self.mode != "auto":
            return self.mode, "tracker.mode"
        mode = os.environ.get("WANDB_MODE")
        if not mode:
            return ("online", "a key was found") if has_key() else ("offline", "no key was found")
        if mode not in WANDB_MODES:
            raise RunError(f"WANDB_MODE={mode} is no mode; use one of {', '.join(WANDB_MODES)}")
        return mode, "WANDB_MODE"

    def announcement(self) -> str:
        mode, reason = self.resolved_mode()
        return f"W&B: {mode} ({reason}), project {self.project}"

    def build(self, context: BuildContext) -> WandbLogger | None:
        mode, _ = self.resolved_mode()
        return None if mode == "disabled" else WandbLogger(self, context.config, context.run)


def has_key() -> bool:
    """Whether W&B's key is in the environment or was stored by ``wandb login``; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    return wandb.login(prompt=False, verify=False)


def silent_server() -> str:
    """Why no connection to W&B can be opened, tried once; empty where one was, and where its client
    has a proxy of its own. Its client would try for a minute and more."""
    import wandb

    client = wandb.setup().settings
    if client.http_proxy or client.https_proxy:
        return ""
    return unreachable(client.base_url)


def keep_in_run_folder(folder: Path) -> None:
    """W&B stages artifacts outside the run folder by default, and an offline run that
    is moved then syncs without them."""
    os.environ["WANDB_DIR"] = str(folder.resolve())
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[variable] = str(folder.resolve() / "wandb")


class WandbLogger(Tracker):
    """One W&B run with the id of ours."""

    def __init__(self, settings: WandbTracker, config: Config, run: RunIdentity):
        keep_in_run_folder(run.folder)
        import wandb

        self.mode, _ = settings.resolved_mode()
        if self.mode == "online" and (reason := silent_server()):
            raise RunError(_not_there(reason))
        self.wandb = wandb
        self.settings, self.identity = settings, run
        self.advice = (
            f"Send what is missing with `python -m lsp.sync {shlex.quote(str(run.folder))}`."
        )
        method = config.method
        try:
            self.run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                id=run.run_id,
                name=run.name,
                group=f"{config.world.name} {method.label} from {config.init.source}",
                job_type="train",
                tags=[config.world.name, method.label, f"init-{config.init.source}"],
                mode=self.mode,
                dir=str(run.folder),
                resume="allow",
                config=flat(config),
                settings=quiet_settings(settings),
            )
        except wandb.errors.Error as error:
            raise RunError(_not_there(str(error))) from error
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)
        self._sent_step = 0
        record = read_run_file(run.folder)
        diff = () if record.get("secrets_in_diff") else ("code.diff",)
        self._upload_files("config.yaml", "run.json", *diff)
        if self.mode == "online":
            use_lineage(self.run, run)
        if self.run.resumed:
            self._send_again()

    def _upload_files(self, *names: str) -> None:
        """As ``lsp/<name>``, since W&B has a config.yaml of its own; copies, since ``save`` links
        what lies outside its folder, and a link does not survive a move."""
        target = Path(self.run.dir) / "lsp"
        target.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(self.identity.folder / name, target / name)
            self.run.save(str(target / name), base_path=self.run.dir, policy="now")

    def _send_again(self) -> None:
        """Scalars of steps that a kill kept from the server; the local file has them. History
        and summary travel apart, so what arrived is the lesser of what the two say."""
        last = self.run.summary.get(STEP, -1)
        arrived = self.run.starting_step  # read once: every log moves ``step`` on
        for position, line in enumerate(read_metrics(self.identity.folder)):
            if line["step"] > last or position >= arrived:
                values = {key: value for key, value in line.items() if value is not None}
                self.run.log({STEP: values.pop("step"), **values})

    def log(self, step: int, metrics: dict[str, float], rows: Rows) -> None:
        values: dict[str, Any] = {STEP: step, **metrics}
        for column in HISTOGRAMS:
            if numbers := [row[column] for row in rows if row.get(column) is not None]:
                values[f"histogram/{column}"] = self.wandb.Histogram(numbers)
        tables = self.settings.tables
        artifact_is_due = step > 0 and step % self.settings.artifact_every == 0
        if rows and (tables == "all" or (tables == "sample" and artifact_is_due)):
            values[TABLE] = trace_table(rows, None if tables == "all" else SAMPLE_ROWS)
        self.run.log(values)
        if artifact_is_due:
            self._send_shards(step)

    def _send_shards(self, last: int) -> None:
        """The shards since the last artifact up to step ``last``, as a new version of the trace."""
        folder, name = self.identity.folder, trace_artifact(self.identity.run_id)
        steps = [step for step in trace_steps(folder) if self._sent_step < step <= last]
        if not steps:
            return
        metadata = {"first_step": steps[0], "last_step": steps[-1]}
        artifact = self.wandb.Artifact(name, type="trace", metadata=metadata)
        for step in steps:
            artifact.add_file(str(shard(folder, step)))
        self.run.log_artifact(artifact)
        self._sent_step = last

    def checkpoint(self, folder: Path, step: int) -> None:
        """The model of a checkpoint (not the optimizer), under the run's name."""
        name = model_artifact(self.identity.run_id)
        artifact = self.wandb.Artifact(name, type="model", metadata={"step": step})
        try:
            for path in files_below(folder):
                if path.name != "trainer.safetensors":
                    artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
        except FileNotFoundError:  # checkpoint.keep let go of it before its turn came
            print(f"note: W&B has no model of step {step}: it was not kept", file=sys.stderr)
            return
        self.run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def alert(self, step: int, text: str) -> None:
        self.run.alert(title=f"step {step}", text=text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Send what is left; raises TimeoutError where W&B does not take it in time."""
        self._send_shards(sys.maxsize)
        self.run.summary.update(summary)
        self.run.finish(0 if summary.get("status") == "finished" else 1)


def _not_there(reason: str) -> str:
    return (
        f"W&B cannot be reached or refuses this run ({reason}); say tracker.mode=offline and"
        " send the run later with `python -m lsp.sync <run>`, or tracker=none"
    )


def quiet_settings(tracker: WandbTracker) -> Any:
    """The client's settings: it prints nothing, and takes nothing of machine or code by itself
    (provenance is ours, with secrets taken out)."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=30,
        save_code=False,
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_stats=True,
        finish_timeout=tracker.finish_seconds,
        finish_timeout_raises=True,
    )


def trace_artifact(run_id: str) -> str:
    return f"trace-{run_id}"


def model_artifact(run_id: str) -> str:
    return f"model-{run_id}"


def use_lineage(wandb_run: Any, run: RunIdentity) -> None:
    """Say what the run started from: the run before it, or the base model. Needs a server."""
    import wandb

    if init := run.init_run_id:
        try:
            wandb_run.use_artifact(f"{model_artifact(init)}:latest", type="model")
            return
        except wandb.errors.Error as error:
            reason = f"W&B has no model of the run {init} that this one starts from ({error})"
            fix = "`python -m lsp.sync` of that run sends it"
            print(f"warning: {reason}; {fix}", file=sys.stderr)
    base = wandb.Artifact("base", type="model", metadata={"identity": run.base})
    with base.new_file("base.json") as stream:
        stream.write(run.base)
    wandb_run.use_artifact(base)


def trace_table(rows: Rows, limit: int | None) -> Any:
    """A fresh table of the rows; of at most ``limit``, evenly spread."""
    import wandb

    stride = 1 if limit is None else max(1, -(-len(rows) // limit))
    columns = sorted({key for row in rows for key in row})
    data = [[row.get(column) for column in columns] for row in rows[::stride]]
    return wandb.Table(columns=columns, data=data)
