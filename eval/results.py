"""Pairs and verdicts go in, what an evaluation comes to is out: rows, rates, tables, files."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.cache import digest
from eval.judge_check import Published, agreement, longer_rate
from eval.plan import Plan, orders_of
from eval.settings import EvaluateConfig
from eval.spending import day
from eval.types import Pair, Verdict
from eval.win_rate import (
    OVERALL,
    TIE,
    bootstrap_interval,
    both_orders,
    by_source,
    discrete_win_rate,
    mean_length,
    order_effect,
    weighted_win_rate,
)
from lsp.files import next_free, write_json, write_json_lines

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

    def record(self, config: EvaluateConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
        """What every results.json says of them."""
        differing = [pair for pair in pairs if not pair.identical]
        orders = (
            [self.preferences.get((pair.index, first)) for pair in differing]
            for first in (True, False)
        )
        return {
            "judge": config.judge.model,
            "template": config.judge.template,
            "date": day(),
            "order": config.judge.order,
            "order_effect": asdict(order_effect(*orders)),
            "verdict_dates": sorted({v.date for v in self.verdicts if v.date}),
            "problems": Counter(v.problem for v in self.verdicts if v.problem),
            "calls_ever": self.calls_ever,
            "usd_ever": self.usd_ever,
            "usd_now": self.usd_now,
        }


def pair_rows(
    config: EvaluateConfig, pairs: Sequence[Pair], judged: Judged
) -> list[dict[str, Any]]:
    """One row an instruction: ``preference`` over the orders asked for, that of AlpacaEval's order,
    lengths. Identical answers are ties that nobody judged, and marked."""
    rows = []
    for pair in pairs:
        orders = [judged.preferences.get((pair.index, o)) for o in orders_of(config.judge, pair)]
        joint = both_orders(*orders) if len(orders) == 2 else orders[0]
        rows.append(
            {
                "index": pair.index,
                "dataset": pair.source,
                "instruction": pair.instruction,
                "identical": pair.identical,
                "preference": TIE if pair.identical else joint,
                "alpaca_eval_preference": TIE if pair.identical else orders[0],
                "model_length": len(pair.model_output),
                "baseline_length": len(pair.base_output),
            }
        )
    return rows


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
        return {
            **asdict(weighted_win_rate(values)),
            "interval_95": list(bootstrap_interval(values)),
            "discrete": asdict(discrete_win_rate(values, config.tie_rule)),
        }

    def lengths(pairs_of_set: Sequence[Pair]) -> dict[str, float]:
        return {
            "model": mean_length([pair.model_output for pair in pairs_of_set]),
            "baseline": mean_length([pair.base_output for pair in pairs_of_set]),
        }

    further = config.benchmark.further_rates(pairs, joint)
    return {
        "model": plan.model.name,
        "baseline": plan.base.name,
        "benchmark": config.benchmark.name,
        "checkpoint": plan.model.model,
        "answers": digest([pair.model_output for pair in pairs]),
        "baseline_answers": digest([pair.base_output for pair in pairs]),
        "temperature": config.benchmark.temperature,
        "max_new_tokens": config.benchmark.max_new_tokens,
        "n_identical": sum(row["identical"] for row in rows),
        "n_missing": joint.count(None),
        "win_rate": by_source(sources, joint, rates),
        "alpaca_eval_order": by_source(
            sources, [row["alpaca_eval_preference"] for row in rows], rates
        ),
        "mean_length": by_source(sources, pairs, lengths),
        **judged.record(config, pairs),
        "further_rates": list(further),
        **further,
    }


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
    overall = results["win_rate"][OVERALL]["discrete"]
    lines.append(
        f"ties count as {overall['tie_rule']}; {results['n_identical']} identical pairs are ties,"
        f" {results['n_missing']} pairs have no verdict and are left out"
    )
    for name in results["further_rates"]:
        rate = results[name]
        value = f"{rate['win_rate'][OVERALL]:.2f}" if rate["win_rate"] else "none"
        why = rate["variant"] if rate["win_rate"] else rate["reason"]
        lines.append(f"{name.replace('_', '-')}: {value} ({why})")
    effect = results["order_effect"]
    if effect["n"]:
        lines.append(
            f"the answer shown first won {effect['first_rate']:.1f} % of the verdicts; the orders"
            f" disagree on {100 * effect['disagree_frac']:.1f} % of {effect['n']} pairs"
        )
    return "\n".join(lines)


def check_results(
    config: EvaluateConfig, published: Published, rows: Sequence[dict[str, Any]], judged: Judged
) -> dict[str, Any]:
    pairs, joint = published.pairs, [row["preference"] for row in rows]
    return {
        "data": config.benchmark.data,
        "answers": digest([[p.instruction, p.model_output, p.base_output] for p in pairs]),
        "agreement": by_source(
            [pair.source for pair in pairs],
            list(zip(joint, published.preferences, strict=True)),
            lambda both: asdict(agreement(*zip(*both, strict=True))),
        ),
        "longer_rate": {
            "judge": longer_rate(pairs, joint),
            "published": longer_rate(pairs, published.preferences),
        },
        "n_identical": published.n_identical,
        "n_unpublished": published.n_missing,
        "n_missing": joint.count(None),
        **judged.record(config, pairs),
    }


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
        earlier = next_free(folder, "earlier")
        earlier.mkdir()
        for name in ("results.json", "pairs.jsonl", "verdicts.jsonl"):
            if (folder / name).exists():
                (folder / name).rename(earlier / name)
        print(f"an earlier evaluation that differs is now in {earlier}", file=sys.stderr)
    write_json_lines(folder / "verdicts.jsonl", [asdict(verdict) for verdict in judged.verdicts])
    write_json_lines(folder / "pairs.jsonl", rows)
    write_json(folder / "results.json", results)
