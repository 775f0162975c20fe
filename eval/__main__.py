"""``python -m eval run=<run or model>``: a command line goes in, win rates come out.

Results go to ``<run>/eval/<benchmark>/`` (of a model that is no run, below ``<runs_root>/eval/``):
answers, verdicts.jsonl (one row a call), pairs.jsonl (one row an instruction), results.json.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eval.answers import ready_answers, write_answers
from eval.cache import VerdictCache
from eval.contracts import EvaluationContext, Judge
from eval.judge_check import check_table
from eval.plan import Plan, cost_text, make_plan, orders_of, plan_text
from eval.results import (
    Judged,
    check_results,
    judged_rows,
    pair_rows,
    results_table,
    save,
    summarise,
)
from eval.settings import EvaluateConfig, read_settings
from eval.spending import prices, shutdown_warning
from eval.tracking import track_evaluation
from eval.types import Pair, Verdict
from lsp.errors import ConfigError, Problem, RunError
from lsp.model.out_of_memory import OutOfMemory, memory_guard
from lsp.run.folder import lock_run
from lsp.tools.text import duration, visible


def main(arguments: Sequence[str]) -> None:
    try:
        config = read_settings(arguments)
        results = evaluate(config)
    except (ConfigError, RunError) as error:
        sys.exit(f"error: {error}")
    if results is not None:
        of_judge = config.benchmark.measures == "judge"
        print(check_table(results) if of_judge else results_table(results))
        for problem, count in results["problems"].most_common(5):
            print(f"no verdict, {count} times: {visible(' '.join(problem.split()))}")
        if not any(r["n"] for r in results["agreement" if of_judge else "win_rate"].values()):
            sys.exit("error: there is no verdict at all")


def evaluate(config: EvaluateConfig) -> dict[str, Any] | None:
    """The results that are also in results.json; None for a dry run."""
    if warning := shutdown_warning(config.judge.model):
        print(f"warning: {warning}", file=sys.stderr)
    key = api_key(config)
    if config.benchmark.measures == "judge":
        return check_judge(config, key)
    plan = make_plan(config)
    if config.dry_run:
        print(plan_text(config, plan))
        return None
    try:
        with memory_guard("answers"):
            pairs = plan.pairs(*(side_answers(plan, number) for number in (0, 1)))
    except ValueError as error:
        raise RunError(str(error)) from error
    except OutOfMemory as error:
        raise RunError(
            f"{error}; lower max_rows={config.max_rows}, or take dtype=bfloat16; the answers so far"
            " are kept"
        ) from error
    with evaluation_folder(plan.folder):
        judged = ask_judge(config, pairs, key)
        rows = pair_rows(config, pairs, judged)
        results = summarise(config, plan, pairs, rows, judged)
        save(plan.folder, results, rows, judged)
    if plan.model.run is not None:
        track_evaluation(plan.model.run, config, results, judged_rows(pairs, judged.verdicts))
    return results


def api_key(config: EvaluateConfig) -> str:
    """The judge's key from the environment. Raises ConfigError where it is needed and not there."""
    name = config.judge.key_variable
    if config.dry_run or name is None:
        return ""
    key = os.environ.get(name)
    if key is None:
        reason = f"the judge's key is not in the environment ({name})"
        fix = f"set {name}, or name another judge: judge=compatible (benchmark=pocket needs none)"
    elif not key or not key.isascii() or not key.isprintable() or " " in key:
        reason = f"what {name} holds is no key: it is empty, or has blanks or other characters"
        fix = f"set {name} to the key"
    else:
        return key
    raise ConfigError([Problem("judge", None, reason, fix)])


def check_judge(config: EvaluateConfig, key: str) -> dict[str, Any] | None:
    """``benchmark=judge_check``: the judge's verdicts on pairs whose verdicts are published."""
    judge, published = config.judge, config.benchmark.build(EvaluationContext(config))
    if config.dry_run:
        print(f"{judge.model} on {len(published.pairs)} pairs")
        print(cost_text(judge, published.pairs))
        return None
    place = Path(config.runs_root) / "eval" / config.benchmark.name
    with evaluation_folder(place / judge.model.replace("/", "--")) as folder:
        judged = ask_judge(config, published.pairs, key)
        rows = pair_rows(config, published.pairs, judged)
        results = check_results(config, published, rows, judged)
        save(folder, results, rows, judged)
    return results


@contextmanager
def evaluation_folder(folder: Path) -> Iterator[Path]:
    """Hold a folder of results for this process. Raises RunError where another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        yield folder


def side_answers(plan: Plan, number: int) -> list[str]:
    """The model's (0) or the baseline's (1) answers, written first where they are not there."""
    side, path = (plan.model, plan.base)[number], plan.answer_files[number]
    if side.file is not None:
        return ready_answers(path, plan.instructions)
    print(f"answers of {side.name}: {path}", file=sys.stderr, flush=True)
    return write_answers(side, plan.instructions, plan.sampling[number], path)


def ask_judge(config: EvaluateConfig, pairs: Sequence[Pair], key: str) -> Judged:
    """Verdicts of every pair whose answers differ, in the orders asked for."""
    questions = [
        (pair, first)
        for pair in pairs
        if not pair.identical
        for first in orders_of(config.judge, pair)
    ]
    with closing(VerdictCache(Path(config.runs_root) / "verdicts.sqlite")) as cache:
        context = EvaluationContext(config, key, cache, prices(config.judge.model))
        judge = config.judge.build(context)
        verdicts = asyncio.run(judge.judge_all(questions, Progress(judge, len(questions))))
        calls, usd = judge.totals(questions)
        return Judged(verdicts, judge.usd, usd, calls)


class Progress:
    """Says on stderr, every two seconds, how many of the verdicts came and what they cost."""

    def __init__(self, judge: Judge, total: int):
        self.judge, self.total, self.done = judge, total, 0
        self.started, self.said = time.monotonic(), 0.0

    def __call__(self, verdict: Verdict) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.said >= 2 or self.done == self.total:
            self.said = now
            rate = self.done / max(now - self.started, 1e-9)
            left = duration((self.total - self.done) / rate)
            text = f"{self.done}/{self.total} verdicts  {rate:.1f}/s  {left} left"
            print(f"{text}  {self.judge.usd:.2f} dollars", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
