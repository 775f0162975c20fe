"""How a run ends: what left its loop goes in; status, reason and what the user is told come out."""

import traceback
from pathlib import Path

from lsp.errors import PartFailed, RunError
from lsp.loop.signals import StopRequests
from lsp.model.out_of_memory import OutOfMemory
from lsp.model.processes import is_collective_failure
from lsp.run.commands import go_on_command, start_again_command
from lsp.run.resume import may_change
from lsp.settings.config import Config
from lsp.tools.places import ROOT
from lsp.tools.secrets import scrub
from lsp.tools.text import visible

KEPT = "everything up to the last checkpoint is kept"
GONE = "another process of the run has ended, and reports why"


def outcome_of(error: BaseException, stop: StopRequests) -> tuple[str, str]:
    """(status, reason) for run.json: which signal, or which error and where."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", f"{stop.reason or 'SIGINT'}, which did not wait for the step's end"
    if isinstance(error, RuntimeError) and is_collective_failure(error):
        return "failed", GONE
    text = visible(scrub(" ".join(str(error).split())), 500)
    return "failed", f"{type(error).__name__}: {text}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where in this program an error came up."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT / "lsp")]
    if not ours:
        return ""
    return f" ({Path(ours[-1].filename).relative_to(ROOT)}, line {ours[-1].lineno})"


def told(error: BaseException, config: Config, folder: Path, began: bool) -> BaseException:
    """What is raised instead, for the user: a RunError with the way out, or the error itself where
    it is a mistake of this program. ``began``: whether there was a run that can be gone on with."""
    advice = error.advice(config) if isinstance(error, OutOfMemory) else str(error)
    if not began:
        expected = isinstance(error, (ValueError, RunError, OSError, OutOfMemory))
        return RunError(advice) if expected else error
    way_on = f"go on with: {go_on_command(folder)}"
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt(way_on)
    if isinstance(error, OutOfMemory):
        return RunError(
            f"{advice}\n{KEPT}; with {', '.join(may_change(config))} written behind it, go on"
            f" with: {go_on_command(folder, 'reward')}\nwith others changed, start again from its"
            f" weights: {start_again_command(folder)}"
        )
    if isinstance(error, PartFailed):
        return RunError(f"{error}\ngo on with: {go_on_command(folder, error.part)}")
    if isinstance(error, ValueError):
        return RunError(f"{error}\n{way_on}")
    if isinstance(error, OSError):
        return RunError(f"the run could not be written: {error}; {KEPT}; {way_on}")
    if isinstance(error, RuntimeError) and is_collective_failure(error):
        return RunError(f"{GONE}; {way_on}")
    if not isinstance(error, RunError):
        error.add_note(f"{KEPT}; {way_on}")
    return error
