"""``lsp eval run=<run or model>``: a command line goes in, win rates or shares come out.

Results go to ``<run>/eval/<benchmark>/`` (of a model that is no run, below ``<runs_root>/eval/``):
answers, verdicts.jsonl (one row a call of a judge), pairs.jsonl (one row an instruction or prompt),
results.json.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from eval.answers import local_side, match_answers, write_answers
from eval.checked import (
    Checked,
    checked_plan_text,
    checked_table,
    make_checked_plan,
    save_checked,
    summarise_checked,
)
from eval.contracts import EvaluationContext, Judge
from eval.judge_check import check_table
from eval.plan import Answers, cost_text, make_plan, orders_of, plan_text
from eval.results import Judged, check_results, results_table, save, summarise, verdict_lines
from eval.settings import EvaluateConfig, read_settings
from eval.tracking import track_evaluation
from eval.types import Instruction, Pair, Verdict
from lsp.cli.main import run
from lsp.errors import ConfigError, Problem, RunError
from lsp.judging.cache import VerdictCache
from lsp.judging.spending import dollars, prices, shutdown_warning
from lsp.model.out_of_memory import OutOfMemory, memory_guard
from lsp.run.folder import lock_run
from lsp.tools.heartbeat import Heartbeat, enter, say
from lsp.tools.text import duration, visible


def main(arguments: Sequence[str]) -> None:
    try:
        config = read_settings(arguments)
        with Heartbeat("looking at what is evaluated"):
            results = evaluate(config)
    except (ConfigError, RunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        kept = "answers and verdicts so far are kept, and the same command goes on"
        raise KeyboardInterrupt(kept) from None
    if results is not None and config.benchmark.measures == "answers":
        print(checked_table(results))
    elif results is not None:
        of_judge = config.benchmark.measures == "judge"
        print(check_table(results) if of_judge else results_table(results))
        print("\n".join(verdict_lines(results)))
        for problem, count in results["problems"].most_common(5):
            print(f"no verdict, {count} times: {visible(' '.join(problem.split()))}")
        if not any(r["n"] for r in results["agreement" if of_judge else "win_rate"].values()):
            sys.exit("error: there is no verdict at all")


def evaluate(config: EvaluateConfig) -> dict[str, Any] | None:
    """The results that are also in results.json; None for a dry run."""
    for name in filter(None, (config.run, config.baseline)):
        local_side(name, config.runs_root)  # what is not there is said before a key that is not
    if warning := shutdown_warning(config.judge.model):
        print(f"warning: {warning}", file=sys.stderr)
    key = api_key(config)
    if config.benchmark.measures == "judge":
        return check_judge(config, key)
    if config.benchmark.measures == "answers":
        return check_answers(config)
    plan = make_plan(config)
    if config.dry_run:
        print(plan_text(config, plan))
        return None
    pairs = plan.pairs(*all_outputs(config, (plan.model, plan.base), plan.instructions))
    with evaluation_folder(plan.folder):
        judged = ask_judge(config, pairs, key)
        enter("rates and their intervals")
        results = summarise(config, plan, judged)
        save(plan.folder, results, judged)
    if plan.model.side.run is not None:
        enter("sending the results to W&B")
        track_evaluation(plan.model.side.run, config, results, judged.call_rows())
    return results


def api_key(config: EvaluateConfig) -> str:
    """The judge's key from the environment. Raises ConfigError where it is needed and not there."""
    name = config.judge.key_variable
    if config.dry_run or name is None:
        return ""
    key = os.environ.get(name)
    if key and key.isascii() and key.isprintable() and " " not in key:
        return key
    if key is None:
        reason = f"the judge's key is not in the environment ({name})"
        fix = f"set {name}, or name another judge: judge=compatible (benchmark=pocket needs none)"
    else:
        reason = f"what {name} holds is no key: it is empty, or has blanks or other characters"
        fix = f"set {name} to the key"
    raise ConfigError([Problem("judge", None, reason, fix)])


def check_judge(config: EvaluateConfig, key: str) -> dict[str, Any] | None:
    """``benchmark=judge_check``: the judge's verdicts on pairs whose verdicts are published."""
    judge, published = config.judge, config.benchmark.build(EvaluationContext(config))
    if config.dry_run:
        print(f"{judge.model} on {len(published.pairs)} pairs\n{cost_text(judge, published.pairs)}")
        return None
    place = Path(config.runs_root) / "eval" / config.benchmark.name
    folder = place / judge.model.replace("/", "--")
    with evaluation_folder(folder):
        judged = ask_judge(config, published.pairs, key)
        results = check_results(config, published, judged)
        save(folder, results, judged)
    return results


def check_answers(config: EvaluateConfig) -> dict[str, Any] | None:
    """``benchmark=ifeval`` and its like: each answer is checked by itself."""
    benchmark, plan = config.benchmark, make_checked_plan(config)
    if config.dry_run:
        print(checked_plan_text(plan))
        return None
    texts = all_outputs(config, plan.sides, plan.tasks)
    with evaluation_folder(plan.folder):
        enter("checking the answers")
        found = [benchmark.check(plan.tasks, answers) for answers in texts]
        checked = Checked(plan.tasks, found[0], found[1] if plan.base else None)
        results = summarise_checked(config, plan, checked, texts)
        rows = checked.rows(*texts) if plan.base else checked.rows(*texts, None)
        save_checked(plan.folder, results, rows)
    if plan.model.side.run is not None:
        enter("sending the results to W&B")
        track_evaluation(plan.model.side.run, config, results, rows)
    return results


def evaluation_folder(folder: Path) -> IO[str]:
    """Hold a folder of results until the handle closes. Raises RunError where it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    return lock_run(folder)


def all_outputs(
    config: EvaluateConfig, sides: Sequence[Answers], instructions: Sequence[Instruction]
) -> list[list[str]]:
    """Each side's answers. Raises RunError where a model cannot be loaded or needs more memory."""
    try:
        with memory_guard("answers"):
            return [outputs(config, answers, instructions) for answers in sides]
    except ValueError as error:
        raise RunError(str(error)) from error
    except OutOfMemory as error:
        advice = f"lower max_rows={config.max_rows}, or take dtype=bfloat16"
        raise RunError(f"{error}; {advice}; the answers so far are kept") from error


def outputs(
    config: EvaluateConfig, answers: Answers, instructions: Sequence[Instruction]
) -> list[str]:
    """Answers that are there, or else are written now."""
    if answers.side.file is not None:
        checks = config.benchmark.measures == "answers"
        ready = match_answers(
            answers.file, instructions, config.benchmark.nearest if checks else None
        )
        for asked, taken in ready.nearest.items():
            print(f"no answer to {asked!r:.90}; taken: that to {taken!r:.90}", file=sys.stderr)
        return ready.outputs
    say(f"answers of {answers.side.name}: {answers.file}")
    enter(f"answers of {answers.side.name}")
    return write_answers(answers.side, instructions, answers.sampling, answers.file)


def ask_judge(config: EvaluateConfig, pairs: Sequence[Pair], key: str) -> Judged:
    """Verdicts of every pair whose answers differ, in the orders asked for."""
    orders = [(pair, orders_of(config.judge, pair)) for pair in pairs]
    enter("asking the judge")
    questions = [(pair, o) for pair, both in orders if not pair.identical for o in both]
    with closing(VerdictCache(Path(config.runs_root) / "verdicts.sqlite")) as cache:
        context = EvaluationContext(config, key, cache, prices(config.judge.model))
        judge = config.judge.build(context)
        verdicts = asyncio.run(judge.judge_all(questions, progress(judge, len(questions))))
        calls, usd = judge.totals(questions)
        return Judged(config.judge, pairs, verdicts, judge.usd, usd, calls, judge.at_most)


def progress(judge: Judge, total: int) -> Callable[[Verdict], None]:
    """Called with each verdict, says on stderr, every two seconds, how many came and their cost."""
    started, last_line, done = time.monotonic(), 0.0, 0

    def count(verdict: Verdict) -> None:
        nonlocal last_line, done
        now, done = time.monotonic(), done + 1
        if now - last_line >= 2 or done == total:
            last_line, rate = now, done / max(now - started, 1e-9)
            text = f"{done}/{total} verdicts  {rate:.1f}/s  {duration((total - done) / rate)} left"
            say(f"{text}  {dollars(judge.usd, judge.at_most)}")

    return count


if __name__ == "__main__":
    sys.exit(run("eval", sys.argv[1:]))
