"""``python -m eval run=<run or model>``: answers, verdicts, win rates.

Results go to ``<run>/eval/<benchmark>/`` (of a model that is no run, below ``<runs_root>/eval/``):
answers, verdicts.jsonl (one row a call), pairs.jsonl (one row an instruction), results.json.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.answers import ready_answers, write_answers
from eval.cache import VerdictCache
from eval.judge import BudgetReached, ChatJudge, Pair, Verdict
from eval.judge_check import JudgeCheck, check_table
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
from eval.settings import EVALUATE, EvaluateConfig, prices, shutdown_warning
from eval.tracking import track_evaluation
from lsp.errors import ConfigError, Problem, RunError
from lsp.model.out_of_memory import OutOfMemory, memory_guard
from lsp.run.folder import lock_run
from lsp.settings.compose import compose_as
from lsp.tools.text import duration


def main(arguments: Sequence[str]) -> None:
    try:
        config = compose_as(EvaluateConfig, EVALUATE, arguments)
        results = evaluate(config)
    except (ConfigError, RunError) as error:
        sys.exit(f"error: {error}")
    if results is not None:
        is_check = isinstance(config.eval, JudgeCheck)
        print(check_table(results) if is_check else results_table(results))
        for problem, count in results["problems"].most_common(5):
            print(f"no verdict, {count} times: {printable(problem)}")
        if not any(
            found["n"] for found in results["agreement" if is_check else "win_rate"].values()
        ):
            sys.exit("error: there is no verdict at all")


def printable(text: str) -> str:
    """Text of a server, without control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def evaluate(config: EvaluateConfig) -> dict[str, Any] | None:
    """The results that are also in results.json; None for a dry run."""
    warning = shutdown_warning(config.judge.model)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    key = api_key(config)
    if isinstance(config.eval, JudgeCheck):
        return check_judge(config, key)
    plan = make_plan(config)
    if config.dry_run:
        print(plan_text(config, plan))
        return None
    try:
        with memory_guard("answers"):
            ours, theirs = (side_answers(plan, number) for number in (0, 1))
    except ValueError as error:
        raise RunError(str(error)) from error
    except OutOfMemory as error:
        raise RunError(
            f"{error}; lower max_rows={config.max_rows}, or take dtype=bfloat16; the answers so far"
            " are kept"
        ) from error
    pairs = [
        Pair(i.index, i.source, i.text, mine, other)
        for i, mine, other in zip(plan.instructions, ours, theirs, strict=True)
    ]
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
    if config.dry_run or not isinstance(config.judge, ChatJudge):
        return ""
    name = config.judge.api_key_env
    if name not in os.environ:
        reason = f"the judge's key is not in the environment ({name})"
        fix = f"set {name}, or name another judge: judge=compatible (eval=pocket needs none)"
        raise ConfigError([Problem("judge.api_key_env", None, reason, fix)])
    key = os.environ[name]
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        reason = f"what {name} holds is no key: it is empty, or has blanks or other characters"
        raise ConfigError([Problem("judge.api_key_env", None, reason, f"set {name} to the key")])
    return key


def check_judge(config: EvaluateConfig, key: str) -> dict[str, Any] | None:
    """``eval=judge_check``: the judge's verdicts on pairs whose verdicts are published."""
    published = config.eval.build()
    if config.dry_run:
        print(f"{config.judge.model} on {len(published.pairs)} pairs")
        print(cost_text(config.judge, published.pairs))
        return None
    folder = (
        Path(config.runs_root) / "eval" / config.eval.name / config.judge.model.replace("/", "--")
    )
    with evaluation_folder(folder):
        judged = ask_judge(config, published.pairs, key)
        rows = pair_rows(config, published.pairs, judged)
        results = check_results(config, published, rows, judged)
        save(folder, results, rows, judged)
    return results


@contextmanager
def evaluation_folder(folder: Path) -> Iterator[None]:
    """Hold a folder of results for this process. Raises RunError where another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        yield


def side_answers(plan: Plan, number: int) -> list[str]:
    """The model's (0) or the baseline's (1) answers, written first where they are not there."""
    side, path = (plan.model, plan.base)[number], plan.answer_files[number]
    if side.file is not None:
        return ready_answers(path, plan.instructions)
    print(f"answers of {side.name}: {path}", file=sys.stderr, flush=True)
    return write_answers(side, plan.instructions, plan.sampling[number], path)


def ask_judge(config: EvaluateConfig, pairs: Sequence[Pair], key: str) -> Judged:
    """Verdicts of every pair whose answers differ, in the orders asked for."""
    cache = VerdictCache(Path(config.runs_root) / "verdicts.sqlite")
    asked = [
        (pair, first)
        for pair in pairs
        if pair.model_output != pair.base_output
        for first in orders_of(config.judge, pair)
    ]
    started, done, said = time.monotonic(), 0, 0.0
    try:
        judge = config.judge.build(key, cache, prices(config.judge.model))

        def on_verdict(verdict: Verdict) -> None:
            nonlocal done, said
            done += 1
            now = time.monotonic()
            if now - said >= 2 or done == len(asked):
                said = now
                rate = done / max(now - started, 1e-9)
                left = duration((len(asked) - done) / rate)
                text = f"{done}/{len(asked)} verdicts  {rate:.1f}/s  {left} left"
                print(f"{text}  {judge.usd:.2f} dollars", file=sys.stderr, flush=True)

        verdicts = asyncio.run(judge.judge_all(asked, on_verdict))
        calls, usd = judge.totals(asked)
        return Judged(verdicts, judge.usd, usd, calls)
    except BudgetReached:
        raise RunError(
            f"judge.max_usd={config.judge.max_usd} is reached after {done} of {len(asked)}"
            " verdicts; they are kept, so the same command with a higher limit goes on"
        ) from None
    except config.judge.errors as error:
        raise RunError(config.judge.explain(error)) from error
    finally:
        cache.close()


if __name__ == "__main__":
    main(sys.argv[1:])
