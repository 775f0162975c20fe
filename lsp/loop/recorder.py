"""The first process's record: steps come in, folder, trackers and terminal are written."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lsp.algorithm import Recorder
from lsp.contracts import Rows, Tracker
from lsp.errors import Interrupted, RunError
from lsp.files import write_json, write_json_lines
from lsp.learner import Learner
from lsp.loop import finish
from lsp.loop.checks import not_the_reference, unknown_objective
from lsp.loop.collapse import CollapseDetector
from lsp.loop.evaluation import Evaluation
from lsp.loop.findings import step_findings
from lsp.loop.idle import IdleSteps, idle_words
from lsp.loop.progress import Progress
from lsp.loop.signals import StopRequests
from lsp.model.device import device_name, peak_memory_mb
from lsp.model.processes import Command
from lsp.players import Players
from lsp.run.checkpoint import checkpoint_folders, save_checkpoint
from lsp.run.commands import go_on_command, start_again_command
from lsp.run.conditions import conditions, differing
from lsp.run.folder import read_run, update_run
from lsp.run.spec import RunSpec
from lsp.tracking.local import LocalTracker, utf8
from lsp.tracking.reader import EXAMPLES, HELD_OUT, read_metrics, trace_steps
from lsp.tracking.trackers import Trackers
from lsp.types import Play, Query


class RunRecorder(Recorder):
    """One run from its first (or resumed) step to its summary. ``state``: what a checkpoint kept of
    this record, where the run goes on from one."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        progress: Progress,
        players: Players,
        learner: Learner,
        tracker: Tracker | None,
        state: dict[str, Any] | None,
        stop: StopRequests,
    ):
        config = spec.config
        self.spec, self.config, self.folder = spec, config, folder
        self.players, self.learner, self.processes = players, learner, players.processes
        self.progress, self.stop = progress, stop
        self.left, self._stopping_alarm = "", ""
        self.detector, self.idle = CollapseDetector(config.collapse, config.world), IdleSteps()
        self.evaluation = Evaluation(spec, players, learner)
        self.trackers = Trackers(LocalTracker(folder), tracker, config.tracker.finish_seconds)
        self.best: dict[str, Any] = {}
        self._skipped_in_a_row = 0
        self._challenger_baseline = spec.challenger_baseline
        fixed = config.method.fixed_weight
        self._weight_known = fixed is not None or spec.self_reward_weight is not None
        self._saved: dict[int, Path] = {}
        self._last_metrics: dict[str, float] = {}
        if state is not None:
            self.detector.restore(state["collapse"])
            self.best, self._skipped_in_a_row = state["best"], state["skipped_in_a_row"]
            for line in read_metrics(folder):
                self._last_metrics |= {k: v for k, v in line.items() if k != "step"}
        self._started = time.perf_counter()
        self._seconds_before = read_run(folder).get("seconds", 0.0)
        settings, left_out = config.eval, players.left_out
        evaluation = settings and {"name": settings.name, "labels": dict(settings.labels)}
        device = device_name(players.device)
        self._note_conditions(conditions(device, self.processes.size))
        update_run(
            folder,
            status="running",
            reason="",
            device=device,
            queries_left_out=left_out,
            evaluation=evaluation,
        )
        if left_out:
            all_queries = left_out + len(players.dataset)
            progress.note(
                f"warning: {left_out:,} of {all_queries:,} queries of the data set are too long for"
                " the model's context and are left out"
            )

    def _note_conditions(self, now: dict[str, Any]) -> None:
        """Under what this run computes; a difference to what it was before is said and kept."""
        run = read_run(self.folder)
        others = run.get("other_conditions", [])
        if changed := differing(run.get("conditions", {}), now):
            texts = (f"{name} {before} → {after}" for name, (before, after) in changed.items())
            self.progress.note(
                f"warning: this run goes on under other conditions ({'; '.join(texts)}); what"
                " follows may differ in its last bits from a run that was never stopped"
            )
            others = [*others, {"step": self.spec.step, "changed": changed}]
        update_run(self.folder, conditions=now, other_conditions=others)

    def begin(self) -> None:
        """From here on requests to stop wait for the end of a step; evaluate the start."""
        self.stop.defer(self.progress.note)
        if self.evaluation.evaluator and self.spec.step == 0:
            self.progress.note("evaluating the start")
            self.progress.phase("evaluating the start")
            self._last_metrics = self.evaluation.on_the_way(0)
            self.trackers.log(0, self._last_metrics, list)
        self.processes.broadcast(Command.CONTINUE)

    def enter(self, step: int, phase: str) -> None:
        self.progress.phase(phase, step)

    def record(
        self,
        step: int,
        queries: list[Query],
        play: Play,
        metrics: dict[str, float],
        make_rows: Callable[[], Rows],
    ) -> bool:
        """Alarms, trackers, evaluation and checkpoint when due; all processes hear of a stop."""
        config = self.config
        measures, alarms = self.detector.step(queries, play, metrics)
        if self.evaluation.is_due(step):
            self.progress.phase("evaluation", step)
            measures |= self.evaluation.on_the_way(step)
        metrics = {
            **metrics,
            **measures,
            "optim/lr": self.learner.optimizer.param_groups[0]["lr"],
            "runtime/world_size": self.processes.size,
            "runtime/elapsed": self.seconds,
            "runtime/peak_memory_mb": peak_memory_mb(self.players.policy.device),
        }
        self._last_metrics |= metrics
        if step == 1:
            vocabulary = self.players.policy.config.vocab_size
            self._require(not_the_reference(metrics, config.model.dtype, vocabulary))
            self._tell_findings(queries, play)
        self._note_weight(step, play)
        self._challenger_baseline = play.challenger_baseline
        if step == self.spec.step + 1 and play.queries:
            self._require(unknown_objective(config, self._last_metrics))
        best = self._note_best(step, metrics)
        self.trackers.log(step, metrics, make_rows)
        self.progress.idle = idle = idle_words(config, queries, play)
        self.progress.step(step, metrics)
        if warning := self.idle.step(config, queries, lambda: self._prompts(queries), play, idle):
            self.progress.note(f"warning: step {step}: {warning}")
            self.trackers.tell(step, warning)
        for text in alarms:
            self.progress.note(f"warning: step {step}: {text}")
            self.trackers.alert(step, text)
        self._count_skipped(step, metrics)
        if alarms and config.on_collapse == "stop":
            self._stopping_alarm = "; ".join(alarms)
        every = config.checkpoint.every
        if every and (best or step % every == 0):
            self.save(step)
        stops = bool(self.stop.reason or self._stopping_alarm)  # once: a signal may come any time
        self.processes.broadcast(Command.STOP if stops else Command.CONTINUE)
        return stops

    def _tell_findings(self, queries: list[Query], play: Play) -> None:
        """Whether the game is on, in the log, run.json, the report and every tracker."""
        findings = step_findings(self.config, queries, self._prompts(queries), play)
        update_run(self.folder, findings=[asdict(finding) for finding in findings])
        for finding in findings:
            self.progress.note(f"finding: {finding}")
            self.trackers.tell(1, f"finding: {finding}")

    def _prompts(self, queries: list[Query]) -> list[str]:
        """The text that each query was written after; empty for a data set's."""
        tokenizer = self.players.chat.tokenizer
        return [tokenizer.decode(list(query.prompt_ids)) for query in queries]

    def _note_weight(self, step: int, play: Play) -> None:
        """Keep the self-reward's weight that a play has told, for a resumed run."""
        weight = play.self_reward_weight
        if not self._weight_known and weight is not None:
            self._weight_known = True
            update_run(self.folder, self_reward_weight={"weight": weight, "step": step})
            self.progress.note(f"method.self_reward_weight=auto: {weight:.4g}, told by step {step}")

    def _require(self, reason: str) -> None:
        """End the run where there is a reason why it cannot go on."""
        if reason:
            raise RunError(reason)

    def _note_best(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether this step is the best so far by ``objective``."""
        objective = self.config.objective or ""
        value = metrics.get(objective, math.nan)
        if not math.isfinite(value):
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
            fix, lr = "start again with a lower optim.lr", f"optim.lr={self.config.optim.lr / 2:g}"
            if checkpoints := checkpoint_folders(self.folder):
                again = start_again_command(checkpoints[-1], lr)
                fix += f", from its last checkpoint: {again}"
            steps = self._skipped_in_a_row
            self._require(f"{steps} steps in a row had no finite loss or gradient; {fix}")

    def leave(self, status: str, reason: str, summary: dict[str, Any] | None = None) -> str:
        """Every way out of a run ends here: run.json says how it ended and why, trackers, curves
        and report follow, which a second kill may cut short; a run is ``finished`` after them.
        Returns where the report is, or why it is not."""
        self.left = status
        ended = {"status": status, "reason": reason, "seconds": self.seconds}
        if status != "finished":
            update_run(self.folder, **ended)
        self.progress.phase("finishing the record")
        try:
            self.trackers.finish(summary or {"status": status, "reason": reason})
        except OSError as error:
            if status == "finished":
                raise
            self.progress.note(f"warning: the record is not complete: {error}")
        report = self._write_report(ended) if trace_steps(self.folder) else "none"
        if status == "finished":
            update_run(self.folder, **ended)
        return report

    @property
    def seconds(self) -> float:
        """Seconds that this run has taken, interruptions left out."""
        return self._seconds_before + time.perf_counter() - self._started

    def save(self, step: int) -> Path:
        """A checkpoint, one of a step; the rows and lines up to it are on disk before it counts."""
        if step in self._saved:
            return self._saved[step]
        self.progress.phase("saving", step)
        self.trackers.secure()
        state = {
            "run_id": self.spec.run_id,
            "seed": self.config.seed,
            "collapse": self.detector.state(),
            "best": self.best,
            "skipped_in_a_row": self._skipped_in_a_row,
            "challenger_baseline": self._challenger_baseline,
        }
        if self.learner.sharded:
            self.processes.broadcast(Command.GATHER_CHECKPOINT)
        learner, policy = self.learner, self.players.policy
        folder = save_checkpoint(
            self.folder,
            step,
            policy,
            self.players.reference,
            self.players.chat.tokenizer,
            learner.training_tensors(),
            state,
            self.config.checkpoint.keep,
            self._kept_beside_the_newest(step),
        )
        self._saved = {step: folder}
        self.trackers.checkpoint(folder, step)
        update_run(self.folder, step=step, seconds=self.seconds)
        return folder

    def _kept_beside_the_newest(self, step: int) -> set[int]:
        """Of the best step, and those that may ask: one of an interruption displaces none."""
        steps = {self.best["step"]} if self.best else set()
        if self.config.method.earlier_challengers:
            steps |= set(range(0, step, self.config.checkpoint.every))
        return steps

    def interrupt(self, step: int) -> dict[str, Any]:
        """Save and leave; raises Interrupted with the way to go on."""
        self.save(step)
        self.processes.broadcast(Command.CONTINUE)
        status, reason = "interrupted", self.stop.reason
        if not reason:
            status, reason = "stopped", f"on_collapse=stop: {self._stopping_alarm}"
        report = self.leave(status, reason)
        raise Interrupted(
            f"stopped after step {step} ({reason}); everything is in {self.folder}\n"
            f"report: {report}\n"
            f"go on with: {go_on_command(self.folder)}",
            self.stop.signals,
        )

    def end(self) -> dict[str, Any]:
        """Final evaluation, checkpoint, summary, table and picture."""
        config = self.config
        checkpoint = self.save(config.num_steps)
        summary: dict[str, Any] = {
            "run_id": self.spec.run_id,
            "status": "finished",
            "reason": "",
            "method": config.method.label,
            "seed": config.seed,
            "init": self.spec.init.text,
            "steps": config.num_steps,
        }
        if self.evaluation.evaluator:
            self.progress.note("evaluating on the test split")
            summary |= self.evaluation.at_the_end(self.progress.phase)
            write_json(self.folder / EXAMPLES, _plain(self.evaluation.examples()))
            write_json_lines(self.folder / HELD_OUT, _plain(self.evaluation.held_out()))
        self.processes.broadcast(Command.CONTINUE)
        summary |= {f"last/{key}": value for key, value in sorted(self._last_metrics.items())}
        if best := self.best:
            summary |= {f"best/{best['objective']}": best["value"], "best/step": best["step"]}
        summary["seconds"] = self.seconds
        report = self.leave("finished", "", summary)
        finish.print_closing(config, self.folder, checkpoint, report, summary)
        return summary

    def _write_report(self, ended: dict[str, Any]) -> str:
        """``curves.png`` and ``report.html``; what draws them is loaded by then and not before. The
        record is whole by then: a report that fails says so and changes nothing of that."""
        self.progress.phase("writing the report")
        try:
            from lsp.report.curves import save_curves
            from lsp.report.page import REPORT, write_report
            from lsp.report.record import read_record

            record = read_record(self.folder, self.config.world, ended=ended)
            save_curves(record, self.folder / "curves.png")
            return str(write_report(record, self.folder / REPORT))
        except Exception as error:
            again = f"python -m lsp.report {shlex.quote(str(self.folder))}"
            return f"not written ({type(error).__name__}: {error}); try again: {again}"


def _plain(rows: Sequence[NamedTuple]) -> list[dict[str, Any]]:
    """As a file has them."""
    return [{name: utf8(value) for name, value in row._asdict().items()} for row in rows]
