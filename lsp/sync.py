"""Run folders go in, offline runs go to W&B, and what is missing there afterwards comes out.

    lsp sync outputs/<run id> [more runs]

``wandb sync`` exits with 0 also where it found none of an offline run's files (the folder was
moved, say). So afterwards the server is asked: every metric line, every trace shard by its MD5,
the last checkpoint and the summary. Exits with 1 where something is missing.

Each run is sent by a process of its own, since W&B's client asks a server that fails again for
hours and cannot be interrupted. It ends at its deadline, and whenever this process does.
"""

import base64
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lsp.cli.main import run as run_command
from lsp.contracts import RunIdentity
from lsp.errors import RunError
from lsp.files import files_below, read_bytes
from lsp.run.checkpoint import checkpoint_folders, checkpoint_step
from lsp.run.folder import find_run, read_run, saved_tracker, saved_tree
from lsp.settings.command import read_command
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat
from lsp.tools.http import safe
from lsp.tools.text import duration
from lsp.tracking.continuity import scan
from lsp.tracking.reader import SHARD_BYTES, read_metrics
from lsp.tracking.wandb import (
    TRIES_OF_CLIENT,
    has_key,
    keep_in_run_folder,
    model_artifact,
    silent_server,
    trace_artifact,
    use_lineage,
)

MOMENT = 600.0
"""Seconds that a run of no size may take: W&B's client alone waits 90 for a connection."""
SLOWEST = 2**20
"""Bytes a second that an upload reaches at least; what is slower is a server that hangs."""
FOR_THE_END = 10.0
"""Seconds that W&B's client has to close what it opened, once all is said."""


@settings
class SyncSettings:
    """Where the runs are."""

    runs_root: str = setting("where run ids are looked up", default="outputs")


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(SyncSettings, arguments)
    if not names:
        raise RunError("say which run: lsp sync outputs/<run id>")
    missing: list[str] = []
    try:
        for name in names:
            try:
                missing += sync(find_run(name, chosen.runs_root))
            except RunError as error:
                missing.append(safe(str(error), limit=2000))
    except KeyboardInterrupt:
        kept = "what arrived stays, and the same command goes on"
        raise KeyboardInterrupt(kept) from None
    if missing:
        raise RunError("\n".join(missing))


def sync(folder: Path) -> list[str]:
    """Send one run by a process of its own; what is missing on the server afterwards, as text.
    Raises RunError where it fails, and at the deadline, which grows with the run's bytes."""
    if "project" not in saved_tracker(folder):
        raise RunError(f"{folder} was run with tracker=none: there is nothing of W&B to send")
    # lstat: a folder that was moved has links of W&B's client that lead nowhere.
    seconds = MOMENT + sum(path.lstat().st_size for path in files_below(folder)) / SLOWEST
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=sync_alone, args=(folder, sender))
    process.start()
    sender.close()
    try:
        with Heartbeat(f"sending {folder.name} to W&B, {duration(seconds)} at most"):
            answered = receiver.poll(seconds)
        if not answered:
            raise RunError(
                f"{folder}: W&B did not take it in {duration(seconds)}; what arrived stays, and the"
                " same command goes on"
            )
        try:
            failed, texts = receiver.recv()
        except EOFError:
            raise RunError(f"{folder}: the process that sent it was ended") from None
        process.join(FOR_THE_END)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if failed:
        raise RunError(*texts)
    return list(texts)


def sync_alone(folder: Path, sender: Connection) -> None:
    """``(failed, texts)`` of ``send_and_check``, sent from the first process of a new group, which
    ends, ``wandb sync`` included, when the process that started it has."""
    os.setsid()
    starter = multiprocessing.parent_process()
    assert starter is not None

    def follow() -> None:
        starter.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    try:
        sender.send((False, send_and_check(folder)))
    except RunError as error:
        sender.send((True, [str(error)]))
    # W&B's client raises errors of many kinds when a server fails, and so does what it is built on.
    except Exception as error:
        sender.send((True, [f"{folder}: W&B failed: {type(error).__name__}: {error}"]))


def send_and_check(folder: Path) -> list[str]:
    """Send one run; what is missing on the server afterwards, as text."""
    run, tracker = read_run(folder), saved_tracker(folder)
    os.environ |= TRIES_OF_CLIENT | os.environ
    import wandb

    if not has_key():
        raise RunError("no W&B key: set WANDB_API_KEY, or run `wandb login`")
    keep_in_run_folder(folder)
    if reason := silent_server():
        raise RunError(f"W&B cannot be reached ({reason}); nothing was sent")
    os.environ["WANDB_MODE"] = "online"
    parts = (folder / "wandb").glob("offline-run-*")
    output = send([*sorted(parts), *(folder / "wandb").glob("run-*")])
    quiet = wandb.Settings(silent=True, console="off", x_disable_meta=True, disable_git=True)
    try:
        with wandb.init(
            project=tracker["project"],
            entity=tracker["entity"],
            id=run["id"],
            resume="must",
            mode="online",
            dir=str(folder),
            settings=quiet,
        ) as wandb_run:  # an offline run cannot say what it started from
            identity = RunIdentity(run["id"], folder, "", run["base"], run["init"]["run_id"])
            use_lineage(wandb_run, identity)
    except wandb.errors.Error as error:
        raise RunError(f"W&B does not have {run['id']} ({error}); wandb sync: {output}") from error
    path = "/".join(filter(None, (tracker["entity"], tracker["project"], run["id"])))
    return check(wandb.Api(timeout=60).run(path), folder, run["id"])


def send(parts: Sequence[Path]) -> str:
    """What ``wandb sync`` printed. A resumed run has several parts of one id: given together, they
    become one history."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", *map(str, parts)]
    result = subprocess.run(command, capture_output=True, text=True)
    output = (result.stdout + result.stderr).strip()[-1000:]
    if result.returncode:
        raise RunError(f"wandb sync failed: {output}")
    return output


def check(remote: Any, folder: Path, run_id: str) -> list[str]:
    """Compare the server's run with the folder; each difference as text. Prints what is there."""
    steps = {line["step"] for line in read_metrics(folder)}
    planned = saved_tree(folder).get("num_steps", 0)
    gaps = scan(folder, min(max(steps, default=0), planned)).gaps
    missing = (
        [f"the folder's own record is damaged: {'; '.join(map(str, gaps[:5]))}"] if gaps else []
    )
    arrived = {int(row["train/step"]) for row in remote.scan_history(keys=["train/step"])}
    if lost := steps - arrived:
        missing.append(f"{len(lost)} of {len(steps)} steps are not on the server")
    shards = {path.name: md5(path) for path in (folder / "trace").glob("step-*.parquet")}
    sent: dict[str, str] = {}
    models = set()
    for artifact in remote.logged_artifacts():
        name = artifact.name.partition(":")[0]
        if name == trace_artifact(run_id):
            sent |= {entry: item.digest for entry, item in artifact.manifest.entries.items()}
        elif name == model_artifact(run_id):
            models.add(artifact.metadata.get("step"))
    if lost := sorted(name for name, digest in shards.items() if sent.get(name) != digest):
        count = f"{len(lost)} of {len(shards)} trace shards"
        missing.append(f"{count} are not on the server, for instance {lost[0]}")
    checkpoints = checkpoint_folders(folder)
    last = checkpoint_step(checkpoints[-1]) if checkpoints else None
    if last is not None and last not in models:
        missing.append(f"the model of step {last} is not on the server")
    if (folder / "summary.json").is_file() and "status" not in remote.summary:
        missing.append("the summary is not on the server")
    if not missing:
        arrivals = f"{len(steps)} steps, {len(shards)} shards, model of step {last}"
        print(f"{run_id}: {arrivals}: all there")
    return [f"{run_id}: {text}" for text in missing]


def md5(path: Path) -> str:
    """As W&B's manifests write it; empty where the file cannot be read, which is a gap too."""
    try:
        return base64.b64encode(hashlib.md5(read_bytes(path, SHARD_BYTES)).digest()).decode()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(run_command("sync", sys.argv[1:]))
