"""``lsp train`` and ``python run.py``: settings go in, a run, or each of a multirun, comes out.

Flags are Hydra's: ``-m`` for a multirun, ``--cfg job``.
"""

import math
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lsp.cli.main import INTERRUPTED
from lsp.errors import ConfigError, Interrupted, RunError
from lsp.loop.launch import objective_of
from lsp.loop.signals import StopRequests
from lsp.model.processes import Processes, end_process
from lsp.settings.compose import CONF, compose, number_of_jobs
from lsp.tools.heartbeat import Heartbeat, say
from lsp.tools.secrets import scrub
from lsp.tools.text import duration


@dataclass
class Jobs:
    """Of a multirun whose jobs are this process's; ``total`` is 0 where there is none. ``begun``
    since ``start``; ``seconds``: what each took that ended well."""

    total: int = 0
    start: float = 0.0
    begun: int = 0
    seconds: list[float] = field(default_factory=list)

    def line(self, now: float) -> str:
        """When another one has begun: which one, and how long all will take."""
        rest = self.total - self.begun + 1
        left = "time left unknown yet"
        if self.seconds:
            left = f"about {duration(rest * mean(self.seconds))} left"
        return f"job {self.begun}/{self.total}  {duration(now - self.start)} so far, {left}"


FAILED: list[str] = []
JOBS = Jobs()
STOP = StopRequests()
"""A request belongs to the process: no job of a multirun begins after it."""


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def hydra_main(cfg: DictConfig) -> float | None:
    """What Hydra calls, and a launcher sends to another process by value: all that it stands on is
    behind ``one_job``, which travels by name."""
    return one_job(list(HydraConfig.get().overrides.task))


def one_job(overrides: list[str]) -> float | None:
    """One job of a multirun, whose overrides are composed and checked as those of a single run. A
    job that cannot run is reported, and the others go on."""
    if STOP.reason:
        sys.exit(f"asked to stop ({STOP.reason}): no further job begins")
    began = time.monotonic()
    JOBS.begun += 1
    if JOBS.total:
        say(JOBS.line(began))
    try:
        objective, seconds = objective_of(overrides, STOP)
        JOBS.seconds.append(max(seconds, time.monotonic() - began))  # made now, or before
        return objective
    except (ConfigError, RunError, OSError) as error:
        job = scrub(" ".join(overrides))
        print(f"error: job {job}: {error}", file=sys.stderr, flush=True)
        FAILED.append(job)
        return math.nan
    except Interrupted as interruption:
        print(interruption, file=sys.stderr, flush=True)
        if signal.SIGUSR2 in interruption.signals and "resume=auto" in overrides:
            ask_for_another_turn()
        sys.exit(1)


def ask_for_another_turn() -> None:
    """Of the queue, through submitit, which listened for the signal before the run did. This turn
    ends there."""
    STOP.forget()  # this turn's request, which submitit would hand to the next one
    if callable(signal.getsignal(signal.SIGUSR2)):
        signal.raise_signal(signal.SIGUSR2)


def refuse_secrets(arguments: list[str]) -> None:
    """Before Hydra prints and stores what each job of a multirun is told."""
    hidden = [shown for argument in arguments if (shown := scrub(argument)) != argument]
    if hidden:
        reason = "holds what looks like a secret; keys come from environment variables"
        raise RunError(f"{', '.join(hidden)}: {reason}, never from settings")


def jobs_of(arguments: Sequence[str]) -> int:
    """How many jobs a command line with Hydra's flags begins in this process, one after the other;
    0 where that is not known: another sweeper draws them, or it begins none."""
    plug_in = any(word.startswith(("hydra/sweeper=", "hydra/launcher=")) for word in arguments)
    if plug_in or not {"-m", "--multirun"} & set(arguments):
        return 0
    return number_of_jobs([w for w in arguments if "=" in w and not w.startswith("-")])


def main(arguments: Sequence[str]) -> None:
    several = Processes.from_environment().size > 1
    (train_as_one_of_several if several else train)(list(arguments))


def train(arguments: list[str]) -> None:
    try:
        if not any(argument.startswith("-") for argument in arguments):
            objective_of(arguments, STOP)
            return
        processes = Processes.from_environment()
        if processes.size > 1:
            processes.wait_for_rank_0_error()
            raise RunError(
                "torchrun starts one run at a time: leave -m and Hydra's other flags out, and start"
                " each run by itself"
            )
        refuse_secrets(arguments)
        compose([t for t in arguments if "=" in t and not t.startswith("-")], multirun=True)
        sys.argv = [sys.argv[0], *arguments]  # which Hydra reads
        JOBS.total, JOBS.start = jobs_of(arguments), time.monotonic()
        with Heartbeat(f"multirun of {JOBS.total} jobs" if JOBS.total else "multirun"):
            hydra_main()
        if FAILED:
            raise RunError(f"{len(FAILED)} jobs failed: {'; '.join(FAILED)}")
    except (ConfigError, RunError, OSError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(INTERRUPTED if signal.SIGINT in interruption.signals else 1)
    except KeyboardInterrupt as interruption:
        kept = "what a run had saved is in its folder"
        raise KeyboardInterrupt(kept, *interruption.args) from None


def train_as_one_of_several(arguments: list[str]) -> None:
    """``train``, and the end of one of several processes."""
    code = 0
    try:
        train(arguments)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except KeyboardInterrupt as interruption:
        print("; ".join(("interrupted", *interruption.args)), file=sys.stderr)
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
        code = 1
    end_process(code)
