"""What surrounds the loop: evaluation on the way, trackers, alarms, checkpoints, signals."""

from __future__ import annotations

import difflib
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from lsp import closing
from lsp.checkpoint import (
    checkpoint_folders,
    load_training_state,
    save_checkpoint,
    training_tensors,
)
from lsp.collapse import CollapseDetector
from lsp.config import Config
from lsp.init import Init
from lsp.learner import Learner
from lsp.out_of_memory import memory_of
from lsp.players import device_name, load_base, load_players, peak_memory_mb
from lsp.progress import Progress
from lsp.runs import Interrupted, RunError, display_name, read_run, resume_hint, update_run
from lsp.sharding import whole
from lsp.tracking.base import Rows, RunIdentity, Trackers
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_metrics, trace_steps
from lsp.types import Play, Query
from lsp.world import ALONE, Word, World


class Session:
    """One run from its first (or resumed) step to its summary.

    ``resumed_from`` is the checkpoint folder that a resumed run goes on from, and
    ``resumed_step`` its step.
    """

    def __init__(
        self,
        config: Config,
        run_id: str,
        folder: Path,
        init: Init,
        lock: IO[str],
        progress: Progress,
        resumed_from: Path | None = None,
        resumed_step: int = 0,
        world: World = ALONE,
    ):
        self._lock = lock
        self.world = world
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.run_id = run_id
        self.folder = folder
        self.init = init
        self.first_step = resumed_step + 1
        self.stop_reason = ""
        self._signals: list[signal.Signals] = []
        self._old_handlers: dict[signal.Signals, Any] = {}
        self.progress = progress
        run = read_run(folder)
        identity = RunIdentity(run_id, folder, display_name(config), run["base"], init.run_id)
        other = config.tracker.build(config, identity)
        self.players = load_players(
            config, init, str(resumed_from) if resumed_from else None, world
        )
        left_out = self.players.left_out
        update_run(folder, device=device_name(self.players.device), queries_left_out=left_out)
        if left_out:
            self.progress.note(
                f"warning: {left_out:,} of {left_out + len(self.players.dataset):,} queries of the"
                " data set are too long for the model's context and are left out"
            )
        self.learner = Learner(self.players, config)
        self.detector = CollapseDetector(config.collapse)
        self.best: dict[str, Any] = {}
        self._skipped_in_a_row = 0
        self._saved: tuple[int, Path] | None = None
        if resumed_from:
            self._restore(resumed_from)
        self.evaluator = None
        if config.eval is not None:
            base = load_base(config, init, self.players.reference)
            self.evaluator = config.eval.build(self.players, base)
        patience = getattr(config.tracker, "finish_seconds", 0.0)
        self.trackers = Trackers(LocalTracker(folder), other, patience)
        self._last_metrics: dict[str, float] = {}
        if resumed_from:
            for line in read_metrics(folder):
                self._last_metrics |= {k: v for k, v in line.items() if k != "step"}
        self._started = time.perf_counter()
        self._seconds_before = run.get("seconds", 0.0)

    def _restore(self, checkpoint: Path) -> None:
        state = load_training_state(
            checkpoint, self.players.policy, self.learner.named, self.learner.optimizer
        )
        self.detector.restore(state["collapse"])
        self.best = state["best"]
        self._skipped_in_a_row = state["skipped_in_a_row"]

    def begin(self) -> None:
        """Listen for Ctrl-C, SIGTERM and SIGUSR2 (what Slurm and submitit send before a time
        limit); evaluate the start."""
        self._old_handlers = {
            number: signal.signal(number, self._request_stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
        }
        if self.evaluator and self.first_step == 1:
            self.progress.note("evaluating the start")
            self._last_metrics = self._evaluate()
            self.trackers.log(0, self._last_metrics, list)
        self.world.share(Word.GO)

    def _request_stop(self, number: int, frame: Any) -> None:
        """The first of any kind stops the run after its step; a second Ctrl-C does not wait for
        that. (Who stops a job may send several kinds, or one by several ways.)"""
        asked = signal.Signals(number)
        if asked == signal.SIGINT and asked in self._signals:
            raise KeyboardInterrupt
        self._signals.append(asked)
        if not self.stop_reason:
            self.stop_reason = asked.name
            self.progress.note(f"{asked.name}: finishing this step, then saving")

    def _evaluation_is_due(self, step: int) -> bool:
        if self.evaluator is None:
            return False
        every = self.config.eval.every
        return step == self.config.num_steps or bool(every and step % every == 0)

    def _evaluate(self) -> dict[str, float]:
        with self._policy_at_hand():
            metrics = self.evaluator.metrics(self.players.policy, "dev", self.config.seed)
        return {f"eval/pocket/{key}": value for key, value in metrics.items()}

    @contextmanager
    def _policy_at_hand(self) -> Iterator[None]:
        """For an evaluation, which the first process does alone."""
        if self.learner.sharded:
            self.world.share(Word.WEIGHTS)
        with memory_of("evaluation"), whole(self.players.policy):
            yield

    def record(
        self,
        step: int,
        queries: list[Query],
        play: Play,
        metrics: dict[str, float],
        make_rows: Callable[[], Rows],
    ) -> bool:
        """Everything of one step: alarms, evaluation and checkpoint when due, trackers. Whether the
        run stops here, as all of its processes are told."""
        config = self.config
        measures, alarms = self.detector.step(queries, play, metrics)
        if self._evaluation_is_due(step):
            measures |= self._evaluate()
        metrics = {
            **metrics,
            **measures,
            "optim/lr": self.learner.optimizer.param_groups[0]["lr"],
            "runtime/world_size": self.world.size,
            "runtime/elapsed": self.seconds,
            "runtime/peak_memory_mb": peak_memory_mb(self.players.policy.device),
        }
        self._last_metrics |= metrics
        if step == 1:
            self._check_start(metrics)
        if step == self.first_step and play.queries:
            self._check_objective()
        best = self._note_best(step, metrics)
        self.trackers.log(step, metrics, make_rows)
        self.progress.step(step, metrics)
        for text in alarms:
            self.progress.note(f"warning: step {step}: {text}")
            self.trackers.alert(step, text)
        self._count_skipped(step, metrics)
        if alarms and config.on_collapse == "stop":
            self.stop_reason = f"on_collapse=stop: {'; '.join(alarms)}"
        every = config.checkpoint.every
        if every and (best or step % every == 0):
            self.save(step)
        stops = bool(self.stop_reason)  # read once: a signal may come at any time
        self.world.share(Word.STOP if stops else Word.GO)
        return stops

    def _check_start(self, metrics: dict[str, float]) -> None:
        """Before the first update the policy is the reference, so KL is zero."""
        allowed = 1e-6 if self.config.model.dtype == "float32" else 1e-3
        found = max((abs(v) for k, v in metrics.items() if k.startswith("kl/")), default=0.0)
        if found > allowed:
            self.fail()
            raise RunError(
                f"the policy is not the reference at the start: their KL is {found:.2g} where at"
                f" most {allowed:g} is rounding; this model or device computes the same weights"
                " in two ways (model.lora.rank=0 and runtime.device=cpu rule causes out)"
            )

    def _check_objective(self) -> None:
        """An ``objective`` that is no metric of the start and of the first step ends the run. (A
        world's ``eval/…`` means nothing under eval=none; role gradients may come later.)"""
        objective, known = self.config.objective, self._last_metrics
        absent = ("optim/",) if self.evaluator else ("optim/", "eval/")
        if objective and not objective.startswith(absent) and objective not in known:
            self.fail()
            near = difflib.get_close_matches(objective, known, n=3, cutoff=0.0)
            raise RunError(
                f"objective={objective} is no metric of this run; docs/metrics.md has them all,"
                f" near it are {', '.join(near)}"
            )

    def _note_best(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether this step is the best so far by ``objective``."""
        objective = self.config.objective
        value = metrics.get(objective) if objective else None
        if value is None or not math.isfinite(value):
            return False
        sign = 1 if self.config.objective_goal == "max" else -1
        better = not self.best or sign * value > sign * self.best["value"]
        if better:
            self.best = {"objective": objective, "value": value, "step": step}
        return better

    def _count_skipped(self, step: int, metrics: dict[str, float]) -> None:
        """Too many steps without a finite gradient end the run."""
        skipped = bool(metrics["optim/skipped"])
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if skipped:
            self.progress.note(f"warning: step {step}: loss or gradient not finite, step skipped")
        if self._skipped_in_a_row >= self.config.optim.max_skipped_steps:
            self.fail()
            raise RunError(
                f"{self._skipped_in_a_row} steps in a row had no finite loss or gradient; start"
                f" again with a lower optim.lr{self._from_last_checkpoint()}"
            )

    def _from_last_checkpoint(self) -> str:
        folders = checkpoint_folders(self.folder)
        if not folders:
            return ""
        return f", from its last checkpoint by init=checkpoint init.run={folders[-1]}"

    def fail(self) -> None:
        """The run ends here; what it recorded still reaches every tracker."""
        self.trackers.finish({"status": "failed"})
        update_run(self.folder, status="failed")
        if trace_steps(self.folder):
            self.progress.note(f"report: {self._write_report()}")

    @property
    def seconds(self) -> float:
        """Seconds that this run has taken, interruptions left out."""
        return self._seconds_before + time.perf_counter() - self._started

    def save(self, step: int) -> Path:
        """A checkpoint; the rows and lines up to it are on disk before it counts. Of one step
        there is one, however many reasons there are to save it."""
        if self._saved is not None and self._saved[0] == step:
            return self._saved[1]
        self.trackers.flush()
        state = {
            "run_id": self.run_id,
            "seed": self.config.seed,
            "collapse": self.detector.state(),
            "best": self.best,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        if self.learner.sharded:
            self.world.share(Word.TENSORS)
        learner, policy = self.learner, self.players.policy
        folder = save_checkpoint(
            self.folder,
            step,
            policy,
            self.players.reference,
            self.players.chat.tokenizer,
            training_tensors(policy, learner.named, learner.optimizer),
            state,
            self.config.checkpoint.keep,
            self.best.get("step"),
        )
        self._saved = (step, folder)
        self.trackers.checkpoint(folder, step)
        update_run(self.folder, step=step, seconds=self.seconds)
        return folder

    def interrupt(self, step: int) -> dict[str, Any]:
        """Save and leave; raises Interrupted with the way to go on."""
        self.save(step)
        self.world.share(Word.GO)
        self.trackers.finish({"status": "interrupted", "step": step})
        update_run(self.folder, status="interrupted")
        raise Interrupted(
            f"stopped after step {step} ({self.stop_reason}); everything is in {self.folder}\n"
            f"report: {self._write_report()}\n"
            f"go on with: {self.world.launcher} run.py {resume_hint(self.folder)}",
            self._signals,
        )

    def end(self) -> dict[str, Any]:
        """Final evaluation, checkpoint, summary, table and picture."""
        config = self.config
        checkpoint = self.save(config.num_steps)
        summary: dict[str, Any] = {
            "run_id": self.run_id,
            "status": "finished",
            "method": config.method.label,
            "seed": config.seed,
            "init": self.init.text,
            "steps": config.num_steps,
        }
        if self.evaluator:
            self.progress.note("evaluating on the test split")
            with self._policy_at_hand():
                summary |= closing.final_evaluation(self.evaluator, self.players, config.seed)
        self.world.share(Word.GO)
        summary |= {f"last/{key}": value for key, value in sorted(self._last_metrics.items())}
        if self.best:
            summary[f"best/{self.best['objective']}"] = self.best["value"]
            summary["best/step"] = self.best["step"]
        summary["seconds"] = self.seconds
        self.trackers.finish(summary)
        update_run(self.folder, status="finished", seconds=self.seconds)
        closing.draw_curves(self.folder)
        report = self._write_report()
        closing.print_closing(config, self.folder, checkpoint, report, summary, self.evaluator)
        return summary

    def _write_report(self) -> str:
        """``report.html``; what draws it is loaded by then and not before. The run is over and
        whole by then: a report that fails says so and changes nothing of that."""
        self.progress.activity = "writing the report"
        try:
            from lsp.report.page import REPORT, write_report
            from lsp.report.record import read_record

            return str(write_report([read_record(self.folder)], self.folder / REPORT))
        except Exception as error:
            again = f"python -m lsp.report {shlex.quote(str(self.folder))}"
            return f"not written ({type(error).__name__}: {error}); try again: {again}"

    def close(self) -> None:
        """Let go of signals, heartbeat and folder, however the run ended."""
        self.progress.close()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._lock.close()
