"""What surrounds the loop: evaluation on the way, trackers, checkpoints, progress, signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lsp import closing
from lsp.checkpoint import load_training_state, save_checkpoint
from lsp.config import Config
from lsp.init import Init
from lsp.learner import Learner
from lsp.models import load_model
from lsp.players import choose_device, load_players
from lsp.progress import Progress
from lsp.runs import RUN_FILE, Interrupted, display_name, lock_run, read_run, write_json
from lsp.tracking.base import Trackers
from lsp.tracking.local import LocalTracker


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
        resumed_from: Path | None = None,
        resumed_step: int = 0,
    ):
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.run_id = run_id
        self.folder = folder
        self._lock = lock_run(folder)
        self.init = init
        self.first_step = resumed_step + 1
        self.stop_requested = False
        self.players = load_players(config, init, str(resumed_from) if resumed_from else None)
        self.learner = Learner(self.players, config)
        if resumed_from:
            load_training_state(resumed_from, self.players.policy, self.learner.optimizer)
        trackers = [LocalTracker(folder)]
        if config.tracker is not None:
            name = display_name(config)
            trackers.append(config.tracker.build(config, run_id, folder, name))
        self.trackers = Trackers(*trackers)
        self.evaluator = None
        if config.eval is not None:
            self.evaluator = config.eval.build(self.players, self._base_model())
        self.progress = Progress(config.num_steps, resumed_step)
        self._last_metrics: dict[str, float] = {}
        self._started = time.perf_counter()
        self._seconds_before = read_run(folder).get("seconds", 0.0)

    def _base_model(self):
        """The base to compare with: the reference itself unless the run starts elsewhere."""
        if self.init.source == self.config.model.name:
            return self.players.reference
        device = choose_device(self.config.runtime.device)
        return load_model(self.config.model.name, self.config.model, device)[0]

    def begin(self) -> None:
        """Listen for SIGTERM and Ctrl-C; evaluate the start."""
        self._old_handlers = {
            number: signal.signal(number, self._request_stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self.evaluator and self.first_step == 1:
            self.progress.note("evaluating the start")
            self.trackers.log(0, self._evaluate(), [])

    def _request_stop(self, number: int, frame: Any) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        self.progress.note(f"{signal.Signals(number).name}: finishing this step, then saving")

    def _evaluation_is_due(self, step: int) -> bool:
        if self.evaluator is None:
            return False
        every = self.config.eval.every
        return step == self.config.num_steps or bool(every and step % every == 0)

    def _evaluate(self) -> dict[str, float]:
        metrics = self.evaluator.metrics(self.players.policy, "dev", self.config.seed)
        return {f"eval/pocket/{key}": value for key, value in metrics.items()}

    def record(self, step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
        """Everything of one step: evaluation and checkpoint when due, trackers, progress."""
        config = self.config
        if self._evaluation_is_due(step):
            metrics = {**metrics, **self._evaluate()}
        metrics = {
            **metrics,
            "optim/lr": self.learner.optimizer.param_groups[0]["lr"],
            "runtime/world_size": 1,
            "runtime/elapsed": self.seconds,
        }
        self._last_metrics |= metrics
        self.trackers.log(step, metrics, rows)
        self.progress.step(step, metrics)
        if config.checkpoint.every and step % config.checkpoint.every == 0:
            self.save(step)

    @property
    def seconds(self) -> float:
        """Seconds that this run has taken, interruptions left out."""
        return self._seconds_before + time.perf_counter() - self._started

    def save(self, step: int) -> Path:
        """A checkpoint; the rows and lines up to it are on disk before it counts."""
        self.trackers.flush()
        folder = save_checkpoint(
            self.folder,
            step,
            self.players.policy,
            self.players.chat.tokenizer,
            self.learner.optimizer,
            {"run_id": self.run_id},
            self.config.checkpoint.keep,
        )
        self.trackers.checkpoint(folder, step)
        self._set_status("running", step)
        return folder

    def interrupt(self, step: int) -> dict[str, Any]:
        """Save and leave; raises Interrupted with the way to go on."""
        self.save(step)
        self._set_status("interrupted", step)
        self.trackers.finish({"status": "interrupted", "step": step})
        self._restore_handlers()
        raise Interrupted(
            f"stopped after step {step}; everything is in {self.folder}\n"
            f"go on with: python run.py resume={self.folder}"
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
            summary |= closing.final_evaluation(self.evaluator, self.players, config.seed)
        summary |= {f"last/{key}": value for key, value in sorted(self._last_metrics.items())}
        summary["seconds"] = self.seconds
        self.trackers.finish(summary)
        self._set_status("finished", config.num_steps)
        self._restore_handlers()
        closing.draw_curves(self.folder)
        closing.print_closing(config, self.folder, checkpoint, summary, self.evaluator)
        return summary

    def _set_status(self, status: str, step: int) -> None:
        run = read_run(self.folder)
        run |= {"status": status, "step": step, "seconds": self.seconds}
        write_json(self.folder / RUN_FILE, run)

    def _restore_handlers(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)


def thread_environment() -> None:
    """Idle threads of the OpenMP pool sleep instead of spinning; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
