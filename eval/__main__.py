"""``python -m eval run=<run or model>``: answers, verdicts, win rates.

Results go to ``<run>/eval/<benchmark>/`` (of a model that is no run, below ``<runs_root>/eval/``):
answers, verdicts.jsonl (one row a call) and results.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.answers import (
    Instruction,
    Sampling,
    Side,
    answers_file,
    base_side,
    read_instructions,
    ready_answers,
    resolve_side,
    write_answers,
)
from eval.cache import VerdictCache
from eval.judge import BudgetReached, Judge, Pair, Verdict, messages
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
    bootstrap_interval,
    both_orders,
    by_source,
    discrete_win_rate,
    order_effect,
    seeded_switch,
    weighted_win_rate,
)
from lsp.compose import compose_as
from lsp.progress import duration
from lsp.runs import RunError, write_json
from lsp.schema import ConfigError, Problem


@dataclass(frozen=True)
class Plan:
    """What an evaluation will do, before anything loads or is paid for."""

    instructions: list[Instruction]
    model: Side
    base: Side
    folder: Path


def main(arguments: Sequence[str]) -> None:
    try:
        config = compose_as(EvaluateConfig, EVALUATE, arguments)
        results = evaluate(config)
    except (ConfigError, RunError) as error:
        sys.exit(f"error: {error}")
    if results is not None:
        print(results_table(results))


def evaluate(config: EvaluateConfig) -> dict[str, Any] | None:
    """The results that are also in results.json; None for a dry run."""
    warning = shutdown_warning(config.judge.model)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    key = os.environ.get(config.judge.api_key_env)
    if key is None and not config.dry_run:
        reason = f"the judge's key is not in the environment ({config.judge.api_key_env})"
        fix = f"set {config.judge.api_key_env}, or name another judge: judge=compatible"
        raise ConfigError([Problem("judge.api_key_env", None, reason, fix)])
    plan = make_plan(config)
    if config.dry_run:
        print(plan_text(config, plan))
        return None
    try:
        ours = side_answers(plan.model, plan, config, plan.folder)
        theirs = side_answers(plan.base, plan, config, Path(config.runs_root) / "answers")
    except ValueError as error:
        raise RunError(str(error)) from error
    pairs = [
        Pair(i.index, i.source, i.text, mine, other)
        for i, mine, other in zip(plan.instructions, ours, theirs, strict=True)
    ]
    verdicts, spent = ask_judge(config, pairs, key or "", plan.folder)
    results = summarise(config, plan, pairs, verdicts, spent)
    write_json(plan.folder / "results.json", results)
    if plan.model.run is not None:
        track_evaluation(plan.model.run, config, results, judged_rows(pairs, verdicts))
    return results


def judged_rows(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a verdict: the instruction, both answers, the order, the verdict, its cost."""
    by_index = {pair.index: pair for pair in pairs}
    return [{**asdict(by_index[v.index]), **asdict(v)} for v in verdicts]


def make_plan(config: EvaluateConfig) -> Plan:
    model = resolve_side(config.run, config.runs_root)
    base = resolve_side(config.baseline, config.runs_root) if config.baseline else base_side(model)
    instructions = read_instructions(config.eval.data, config.eval.split)
    for side in (model, base):
        if side.file is not None:
            ready_answers(side.file, instructions)
    place = model.run or Path(config.runs_root) / "eval" / model.name.replace("/", "--")
    folder = place / "eval" / config.eval.name
    return Plan(instructions, model, base, folder)


def plan_text(config: EvaluateConfig, plan: Plan) -> str:
    """Calls, tokens and dollars. Answers are not written yet, so their length is a guess at the
    limit's half; tokens are four characters."""
    orders = 2 if config.judge.order == "both" else 1
    calls = orders * len(plan.instructions)
    guess = "x" * (2 * config.eval.max_new_tokens)
    characters = 0
    for i in plan.instructions:
        pair = Pair(i.index, i.source, i.text, guess, guess)
        characters += sum(len(message["content"]) for message in messages(pair, True))
    tokens = orders * characters // 4
    price = prices(config.judge.model)
    dollars = (
        f"{price.usd(tokens, calls * config.judge.max_tokens):.2f} dollars (table of judges)"
        if price.input is not None
        else "dollars unknown: the judge is not in conf/evaluate/judges.json"
    )
    return (
        f"{plan.model.name} against {plan.base.name}, judged by {config.judge.model}\n"
        f"  {len(plan.instructions)} instructions, {calls} calls, about {tokens:,} tokens"
        f" (estimated: answers of half the limit, four characters a token), {dollars}\n"
        f"  results in {plan.folder}"
    )


def side_answers(side: Side, plan: Plan, config: EvaluateConfig, folder: Path) -> list[str]:
    if side.file is not None:
        return ready_answers(side.file, plan.instructions)
    sampling = Sampling(
        config.eval.temperature,
        config.eval.max_new_tokens,
        config.max_rows,
        config.dtype,
        config.device,
        config.date_string,
    )
    path = answers_file(side, plan.instructions, sampling, folder)
    print(f"answers of {side.name}: {path}", file=sys.stderr, flush=True)
    return write_answers(side, plan.instructions, sampling, path)


def ask_judge(
    config: EvaluateConfig, pairs: Sequence[Pair], key: str, folder: Path
) -> tuple[list[Verdict], float]:
    """Verdicts of every pair whose answers differ, in the orders asked for; dollars spent now."""
    cache = VerdictCache(Path(config.runs_root) / "verdicts.sqlite")
    judge = Judge(config.judge, key, cache, prices(config.judge.model))
    asked = [
        (pair, first)
        for pair in pairs
        if pair.model_output != pair.base_output
        for first in orders_of(config, pair)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    started, done, said = time.monotonic(), 0, 0.0
    with (folder / "verdicts.jsonl").open("w", encoding="utf-8") as stream:

        def on_verdict(verdict: Verdict) -> None:
            nonlocal done, said
            done += 1
            stream.write(json.dumps(asdict(verdict)) + "\n")
            stream.flush()
            now = time.monotonic()
            if now - said >= 2 or done == len(asked):
                said = now
                rate = done / max(now - started, 1e-9)
                left = duration((len(asked) - done) / rate)
                text = f"{done}/{len(asked)} verdicts  {rate:.1f}/s  {left} left"
                spent = judge.spending.spent
                print(f"{text}  {spent:.2f} dollars", file=sys.stderr, flush=True)

        try:
            verdicts = asyncio.run(judge.judge_all(asked, on_verdict))
        except BudgetReached:
            raise RunError(
                f"judge.max_usd={config.judge.max_usd} is reached after {done} of {len(asked)}"
                " verdicts; they are kept, so the same command with a higher limit goes on"
            ) from None
        except judge.client_error as error:
            raise RunError(
                f"the judge refuses: {error}; check judge.model, judge.base_url and the key in"
                f" {config.judge.api_key_env}. Verdicts that came are kept"
            ) from error
        finally:
            cache.close()
    return verdicts, judge.spending.spent


def orders_of(config: EvaluateConfig, pair: Pair) -> list[bool]:
    """Whether the model's answer is shown first, for each call. The seeded order of AlpacaEval
    shows the baseline first unless it switches."""
    switched = seeded_switch(pair.instruction, config.judge.order_seed)
    return [switched, not switched] if config.judge.order == "both" else [switched]


def summarise(
    config: EvaluateConfig,
    plan: Plan,
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    spent: float,
) -> dict[str, Any]:
    """Every rate with its n; identical answers are ties and counted apart."""
    found = {(verdict.index, verdict.model_first): verdict.preference for verdict in verdicts}
    identical = {pair.index for pair in pairs if pair.model_output == pair.base_output}
    seeded, joint = [], []
    for pair in pairs:
        if pair.index in identical:
            seeded.append(TIE)
            joint.append(TIE)
            continue
        got = [found.get((pair.index, first)) for first in orders_of(config, pair)]
        seeded.append(got[0])
        joint.append(both_orders(*got) if len(got) == 2 else got[0])
    sources = [pair.source for pair in pairs]

    def rates(values: Sequence[float | None]) -> dict[str, Any]:
        low, high = bootstrap_interval(values)
        discrete = discrete_win_rate(values, config.tie_rule)
        return {
            **asdict(weighted_win_rate(values)),
            "interval_95": [low, high],
            "discrete": asdict(discrete),
        }

    differing = [pair.index for pair in pairs if pair.index not in identical]
    return {
        "model": plan.model.name,
        "baseline": plan.base.name,
        "benchmark": config.eval.name,
        "judge": config.judge.model,
        "date": today(),
        "order": config.judge.order,
        "n_identical": len(identical),
        "n_missing": sum(value is None for value in joint),
        "win_rate": by_source(sources, joint, rates),
        "alpaca_eval_order": by_source(sources, seeded, rates),
        "order_effect": asdict(
            order_effect(
                [found.get((i, True)) for i in differing],
                [found.get((i, False)) for i in differing],
            )
        ),
        "mean_length": {
            "model": sum(len(pair.model_output) for pair in pairs) / len(pairs),
            "baseline": sum(len(pair.base_output) for pair in pairs) / len(pairs),
        },
        "usd_now": spent,
    }


def results_table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['model']} against {results['baseline']}, {results['benchmark']}, judged by"
        f" {results['judge']} on {results['date']}, order {results['order']}",
        f"{'set':<16}{'win rate':>10}{'± se':>8}{'95 %':>18}{'discrete':>10}{'n':>6}",
    ]
    for source, rate in results["win_rate"].items():
        low, high = rate["interval_95"]
        lines.append(
            f"{source:<16}{rate['win_rate']:>10.2f}{rate['standard_error']:>8.2f}"
            f"{f'{low:.1f} to {high:.1f}':>18}{rate['discrete']['win_rate']:>10.2f}{rate['n']:>6}"
        )
    overall = results["win_rate"]["overall"]["discrete"]
    lines.append(
        f"ties count as {overall['tie_rule']}; {results['n_identical']} identical pairs are ties,"
        f" {results['n_missing']} pairs have no verdict and are left out"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
