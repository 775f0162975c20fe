"""``python -m eval run=<run or model>``: answers, verdicts, win rates.

Results go to ``<run>/eval/<benchmark>/`` (of a model that is no run, below ``<runs_root>/eval/``):
answers, verdicts.jsonl (one row a call), pairs.jsonl (one row an instruction), results.json.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.answers import ready_answers, write_answers
from eval.benchmarks import AlpacaEval
from eval.cache import VerdictCache
from eval.judge import BudgetReached, ChatJudge, Pair, Verdict
from eval.judge_check import JudgeCheck, Published, agreement, check_table, longer_rate
from eval.plan import Plan, cost_text, make_plan, orders_of, plan_text
from eval.settings import (
    EVALUATE,
    EvaluateConfig,
    prices,
    shutdown_warning,
    today,
)
from eval.tracking import track_evaluation
from eval.win_rate import (
    TIE,
    OrderEffect,
    bootstrap_interval,
    both_orders,
    by_source,
    discrete_win_rate,
    mean_length,
    order_effect,
    weighted_win_rate,
)
from lsp.compose import compose_as
from lsp.progress import duration
from lsp.runs import RunError, lock_run, write_json
from lsp.schema import ConfigError, Problem

IDENTITY = ("judge", "template", "order", "answers", "baseline_answers")
"""What makes two evaluations in one folder the same."""


@dataclass(frozen=True)
class Judged:
    """Verdicts of all calls. ``usd_now``: dollars of this process; ``usd_ever`` and
    ``calls_ever``: of every call begun for these verdicts, in killed processes too, one whose
    answer was lost at its worst."""

    verdicts: list[Verdict]
    usd_now: float
    usd_ever: float
    calls_ever: int

    @cached_property
    def preferences(self) -> dict[tuple[int, bool], float | None]:
        """By (index of the pair, whether the model's answer was shown first)."""
        return {(v.index, v.model_first): v.preference for v in self.verdicts}

    def record(self) -> dict[str, Any]:
        """What results.json says of them."""
        return {
            "verdict_dates": sorted({v.date for v in self.verdicts if v.date}),
            "problems": Counter(v.problem for v in self.verdicts if v.problem),
            "calls_ever": self.calls_ever,
            "usd_ever": self.usd_ever,
            "usd_now": self.usd_now,
        }


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
        ours, theirs = (side_answers(plan, number) for number in (0, 1))
    except ValueError as error:
        raise RunError(str(error)) from error
    pairs = [
        Pair(i.index, i.source, i.text, mine, other)
        for i, mine, other in zip(plan.instructions, ours, theirs, strict=True)
    ]
    with evaluation_folder(plan.folder):
        judged = ask_judge(config, pairs, key, plan.folder)
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
        judged = ask_judge(config, published.pairs, key, folder)
        rows = pair_rows(config, published.pairs, judged)
        results = check_results(config, published, rows, judged)
        save(folder, results, rows, judged)
    return results


def check_results(
    config: EvaluateConfig, published: Published, rows: Sequence[dict[str, Any]], judged: Judged
) -> dict[str, Any]:
    joint = [row["preference"] for row in rows]
    compared = list(zip(joint, published.preferences, strict=True))
    return {
        "judge": config.judge.model,
        "template": config.judge.template,
        "date": today(),
        "data": config.eval.data,
        "answers": digest(
            [[p.instruction, p.model_output, p.base_output] for p in published.pairs]
        ),
        "order": config.judge.order,
        "agreement": by_source(
            [pair.source for pair in published.pairs],
            compared,
            lambda both: asdict(agreement(*zip(*both, strict=True))),
        ),
        "order_effect": asdict(_order_effect(published.pairs, judged)),
        "longer_rate": {
            "judge": longer_rate(published.pairs, joint),
            "published": longer_rate(published.pairs, published.preferences),
        },
        "n_identical": published.n_identical,
        "n_unpublished": published.n_missing,
        "n_missing": sum(preference is None for preference in joint),
        **judged.record(),
    }


@contextmanager
def evaluation_folder(folder: Path) -> Iterator[None]:
    """Hold a folder of results for this process. Raises RunError where another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        yield


def save(
    folder: Path, results: dict[str, Any], rows: Sequence[dict[str, Any]], judged: Judged
) -> None:
    """Write an evaluation; one of other answers, baseline or judge that is there already moves to
    ``earlier-K/``, so nothing is lost."""
    try:
        old = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = None
    if old is not None and any(old.get(key) != results.get(key) for key in IDENTITY):
        number = 1
        while (folder / f"earlier-{number}").exists():
            number += 1
        earlier = folder / f"earlier-{number}"
        earlier.mkdir()
        for name in ("results.json", "pairs.jsonl", "verdicts.jsonl"):
            if (folder / name).exists():
                (folder / name).rename(earlier / name)
        print(f"an earlier evaluation that differs is now in {earlier}", file=sys.stderr)
    write_lines(folder / "verdicts.jsonl", [asdict(verdict) for verdict in judged.verdicts])
    write_lines(folder / "pairs.jsonl", rows)
    write_json(folder / "results.json", results)


def digest(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def side_answers(plan: Plan, number: int) -> list[str]:
    """The model's (0) or the baseline's (1) answers, written first where they are not there."""
    side, path = (plan.model, plan.base)[number], plan.answer_files[number]
    if side.file is not None:
        return ready_answers(path, plan.instructions)
    print(f"answers of {side.name}: {path}", file=sys.stderr, flush=True)
    return write_answers(side, plan.instructions, plan.sampling[number], path)


def ask_judge(config: EvaluateConfig, pairs: Sequence[Pair], key: str, folder: Path) -> Judged:
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


def pair_rows(
    config: EvaluateConfig, pairs: Sequence[Pair], judged: Judged
) -> list[dict[str, Any]]:
    """One row an instruction: ``preference`` over the orders asked for, that of AlpacaEval's order,
    lengths. Identical answers are ties that nobody judged, and marked."""
    rows = []
    for pair in pairs:
        identical = pair.model_output == pair.base_output
        got = [
            judged.preferences.get((pair.index, first)) for first in orders_of(config.judge, pair)
        ]
        rows.append(
            {
                "index": pair.index,
                "dataset": pair.source,
                "instruction": pair.instruction,
                "identical": identical,
                "preference": TIE if identical else both_orders(*got) if got[1:] else got[0],
                "alpaca_eval_preference": TIE if identical else got[0],
                "model_length": len(pair.model_output),
                "baseline_length": len(pair.base_output),
            }
        )
    return rows


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines, in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


def judged_rows(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a verdict: the instruction, both answers, the order, the verdict, its cost."""
    by_index = {pair.index: pair for pair in pairs}
    return [{**asdict(by_index[v.index]), **asdict(v)} for v in verdicts]


def summarise(
    config: EvaluateConfig,
    plan: Plan,
    pairs: Sequence[Pair],
    rows: Sequence[dict[str, Any]],
    judged: Judged,
) -> dict[str, Any]:
    """Every rate with its n; identical answers are ties and counted apart."""
    joint = [row["preference"] for row in rows]
    sources = [pair.source for pair in pairs]

    def rates(values: Sequence[float | None]) -> dict[str, Any]:
        low, high = bootstrap_interval(values)
        discrete = discrete_win_rate(values, config.tie_rule)
        return {
            **asdict(weighted_win_rate(values)),
            "interval_95": [low, high],
            "discrete": asdict(discrete),
        }

    def lengths(own: Sequence[Pair]) -> dict[str, float]:
        return {
            "model": mean_length([pair.model_output for pair in own]),
            "baseline": mean_length([pair.base_output for pair in own]),
        }

    results = {
        "model": plan.model.name,
        "baseline": plan.base.name,
        "benchmark": config.eval.name,
        "checkpoint": plan.model.model,
        "answers": digest([pair.model_output for pair in pairs]),
        "baseline_answers": digest([pair.base_output for pair in pairs]),
        "temperature": config.eval.temperature,
        "max_new_tokens": config.eval.max_new_tokens,
        "judge": config.judge.model,
        "template": getattr(config.judge, "template", None),
        "date": today(),
        "order": config.judge.order,
        "n_identical": sum(row["identical"] for row in rows),
        "n_missing": sum(value is None for value in joint),
        "win_rate": by_source(sources, joint, rates),
        "alpaca_eval_order": by_source(
            sources, [row["alpaca_eval_preference"] for row in rows], rates
        ),
        "order_effect": asdict(_order_effect(pairs, judged)),
        "mean_length": by_source(sources, pairs, lengths),
        **judged.record(),
    }
    if isinstance(config.eval, AlpacaEval):
        results["length_controlled"] = config.eval.length_controlled(pairs, joint)
    return results


def _order_effect(pairs: Sequence[Pair], judged: Judged) -> OrderEffect:
    differing = [pair for pair in pairs if pair.model_output != pair.base_output]
    orders = [
        [judged.preferences.get((pair.index, first)) for pair in differing]
        for first in (True, False)
    ]
    return order_effect(*orders)


def results_table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['model']} against {results['baseline']}, {results['benchmark']}, judged by"
        f" {results['judge']} on {results['date']}, order {results['order']}",
        f"{'set':<16}{'win rate':>10}{'± se':>8}{'95 %':>18}{'discrete':>10}{'n':>6}"
        f"{'length':>8}{'baseline':>10}",
    ]
    for source, rate in results["win_rate"].items():
        low, high = rate["interval_95"]
        length = results["mean_length"][source]
        lines.append(
            f"{source:<16}{rate['win_rate']:>10.2f}{rate['standard_error']:>8.2f}"
            f"{f'{low:.1f} to {high:.1f}':>18}{rate['discrete']['win_rate']:>10.2f}{rate['n']:>6}"
            f"{length['model']:>8.0f}{length['baseline']:>10.0f}"
        )
    overall = results["win_rate"]["overall"]["discrete"]
    lines.append(
        f"ties count as {overall['tie_rule']}; {results['n_identical']} identical pairs are ties,"
        f" {results['n_missing']} pairs have no verdict and are left out"
    )
    if "length_controlled" in results:
        controlled = results["length_controlled"]
        lines.append(
            f"length-controlled: {controlled['win_rate']['overall']:.2f} ({controlled['variant']})"
            if controlled["win_rate"]
            else f"length-controlled: none ({controlled['reason']})"
        )
    effect = results["order_effect"]
    if effect["n"]:
        lines.append(
            f"the answer shown first won {effect['first_rate']:.1f} % of the verdicts; the orders"
            f" disagree on {100 * effect['disagree_frac']:.1f} % of {effect['n']} pairs"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
