"""Pairs and verdicts go in, what an evaluation comes to is out: rows, rates, tables, files."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from eval import win_rate
from eval.contracts import JudgeSettings
from eval.judge_check import Published, agreement, longer_rate
from eval.plan import Plan, digest, orders_of
from eval.settings import EvaluateConfig
from eval.types import Pair, Verdict
from lsp.files import next_free, write_json, write_json_lines
from lsp.judging.spending import day, dollars
from lsp.tools.text import text_table
from lsp.tracking.reader import DamagedFile, read_json

IDENTITY = ("judge", "template", "order", "answers", "baseline_answers")
"""What makes two evaluations in one folder the same."""


@dataclass(frozen=True)
class Judged:
    """Verdicts of all calls. ``usd_now``: dollars of this process, ``at_most`` where that is an
    upper bound; ``usd_ever``, ``calls_ever``: of every call begun for them, in killed processes
    too, one whose answer was lost at its worst, so dollars at most."""

    judge: JudgeSettings
    pairs: Sequence[Pair]
    verdicts: list[Verdict]
    usd_now: float
    usd_ever: float
    calls_ever: int
    at_most: bool = False

    @cached_property
    def preferences(self) -> dict[tuple[int, bool], float | None]:
        """By (index of the pair, whether the model's answer was shown first)."""
        return {(v.index, v.model_first): v.preference for v in self.verdicts}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row an instruction: ``preference`` over the orders asked for, that of AlpacaEval's
        order, lengths. Identical answers are ties that nobody judged, and marked."""
        rows = []
        for pair in self.pairs:
            orders = [self.preferences.get((pair.index, o)) for o in orders_of(self.judge, pair)]
            joint = win_rate.both_orders(*orders) if len(orders) == 2 else orders[0]
            rows.append(
                {
                    "index": pair.index,
                    "dataset": pair.source,
                    "instruction": pair.instruction,
                    "identical": pair.identical,
                    "preference": win_rate.TIE if pair.identical else joint,
                    "alpaca_eval_preference": win_rate.TIE if pair.identical else orders[0],
                    "model_length": len(pair.model_output),
                    "baseline_length": len(pair.base_output),
                }
            )
        return rows

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def call_rows(self) -> list[dict[str, Any]]:
        """One row a verdict: the instruction, both answers, the order, the verdict, its cost."""
        by_index = {pair.index: asdict(pair) for pair in self.pairs}
        return [{**by_index[v.index], **asdict(v)} for v in self.verdicts]

    def record(self) -> dict[str, Any]:
        """What every results.json says of them."""
        differing = [pair.index for pair in self.pairs if not pair.identical]
        orders = ([self.preferences.get((i, o)) for i in differing] for o in (True, False))
        return {
            "n_missing": self.column("preference").count(None),
            "judge": self.judge.model,
            "template": self.judge.template,
            "date": day(),
            "order": self.judge.order,
            "order_effect": asdict(win_rate.order_effect(*orders)),
            "verdict_dates": sorted({v.date for v in self.verdicts if v.date}),
            "problems": Counter(v.problem for v in self.verdicts if v.problem),
            "reasons": Counter(v.reason for v in self.verdicts if v.reason),
            "read_from": Counter(v.read_from for v in self.verdicts if v.read_from),
            "calls_ever": self.calls_ever,
            "usd_ever": self.usd_ever,
            "usd_now": self.usd_now,
            "usd_now_is_at_most": self.at_most,
        }


def summarise(config: EvaluateConfig, plan: Plan, judged: Judged) -> dict[str, Any]:
    """Every rate with its n; identical answers are ties and counted apart."""
    benchmark, pairs, sources = config.benchmark, judged.pairs, judged.column("dataset")

    def rates(values: Sequence[float | None]) -> dict[str, Any]:
        interval = list(win_rate.bootstrap_interval(values))
        discrete = asdict(win_rate.discrete_win_rate(values, config.tie_rule))
        rate = asdict(win_rate.weighted_win_rate(values))
        return {**rate, "interval_95": interval, "discrete": discrete}

    def lengths(pairs_of_set: Sequence[Pair]) -> dict[str, float]:
        model = win_rate.mean_length([pair.model_output for pair in pairs_of_set])
        baseline = win_rate.mean_length([pair.base_output for pair in pairs_of_set])
        return {"model": model, "baseline": baseline}

    preferences, seeded_order = judged.column("preference"), judged.column("alpaca_eval_preference")
    further = benchmark.further_rates(pairs, preferences)
    return {
        "model": plan.model.side.name,
        "baseline": plan.base.side.name,
        "benchmark": benchmark.name,
        "checkpoint": plan.model.side.model,
        "answers": digest([pair.model_output for pair in pairs]),
        "baseline_answers": digest([pair.base_output for pair in pairs]),
        "temperature": benchmark.temperature,
        "max_new_tokens": benchmark.max_new_tokens,
        "n_identical": sum(judged.column("identical")),
        "win_rate": win_rate.by_source(sources, preferences, rates),
        "alpaca_eval_order": win_rate.by_source(sources, seeded_order, rates),
        "mean_length": win_rate.by_source(sources, pairs, lengths),
        **judged.record(),
        "further_rates": list(further),
        **further,
    }


def results_table(results: dict[str, Any]) -> str:
    rows = [["set", "win rate", "± se", "95 %", "discrete", "n", "length", "baseline"]]
    for source, rate in results["win_rate"].items():
        interval = "{:.1f} to {:.1f}".format(*rate["interval_95"])
        values = (rate["win_rate"], rate["standard_error"], rate["discrete"]["win_rate"])
        percent, error, discrete = map("{:.2f}".format, values)
        lengths = map("{:.0f}".format, results["mean_length"][source].values())
        rows.append([source, percent, error, interval, discrete, str(rate["n"]), *lengths])
    lines = [
        f"{results['model']} against {results['baseline']}, {results['benchmark']}, judged by"
        f" {results['judge']} on {results['date']}, order {results['order']}",
        text_table(rows),
        f"ties count as {results['win_rate'][win_rate.OVERALL]['discrete']['tie_rule']};"
        f" {results['n_identical']} identical pairs are ties,"
        f" {results['n_missing']} pairs have no verdict and are left out",
    ]
    for name in results["further_rates"]:
        rate = results[name]
        value = f"{rate['win_rate'][win_rate.OVERALL]:.2f}" if rate["win_rate"] else "none"
        why = rate["variant"] if rate["win_rate"] else rate["reason"]
        lines.append(f"{name.replace('_', '-')}: {value} ({why})")
    effect = results["order_effect"]
    if effect["n"]:
        lines.append(
            f"the answer shown first won {effect['first_rate']:.1f} % of the verdicts; the orders"
            f" disagree on {100 * effect['disagree_frac']:.1f} % of {effect['n']} pairs"
        )
    return "\n".join(lines)


def verdict_lines(results: dict[str, Any]) -> list[str]:
    """Where a chat judge's verdicts are read from, why others are missing, and their cost."""
    lines = []
    if counts := results["read_from"]:
        text = f"{counts['text']} from its text, each a whole win or loss"
        lines.append(f"verdicts: {counts['logprobs']} from the labels' log-probs, {text}")
    if reasons := results["reasons"]:
        each = (f"{count} {name.replace('_', ' ')}" for name, count in reasons.most_common())
        lines.append(f"no verdict: {', '.join(each)}")
    if results["calls_ever"]:
        now = dollars(results["usd_now"], results["usd_now_is_at_most"])
        ever = dollars(results["usd_ever"], at_most=True)
        lines.append(f"cost: {now} now, {ever} in {results['calls_ever']} calls ever")
    return lines


def check_results(config: EvaluateConfig, published: Published, judged: Judged) -> dict[str, Any]:
    """How far the judge agrees with what was published."""
    pairs, preferences = published.pairs, judged.column("preference")
    both = list(zip(preferences, published.preferences, strict=True))
    agreements = win_rate.by_source(
        judged.column("dataset"), both, lambda group: asdict(agreement(*zip(*group, strict=True)))
    )
    judges = {"judge": preferences, "published": published.preferences}
    return {
        "data": config.benchmark.data,
        "answers": digest([[p.instruction, p.model_output, p.base_output] for p in pairs]),
        "agreement": agreements,
        "longer_rate": {name: longer_rate(pairs, values) for name, values in judges.items()},
        "n_identical": published.n_identical,
        "n_unpublished": published.n_missing,
        **judged.record(),
    }


def save(folder: Path, results: dict[str, Any], judged: Judged) -> None:
    """Write an evaluation; one of other answers, baseline or judge is kept."""
    keep_earlier(folder, results, IDENTITY)
    write_json_lines(folder / "verdicts.jsonl", [asdict(verdict) for verdict in judged.verdicts])
    write_json_lines(folder / "pairs.jsonl", judged.rows)
    write_json(folder / "results.json", results)


def keep_earlier(folder: Path, results: dict[str, Any], identity: Sequence[str]) -> None:
    """Move an evaluation that is there already and differs in ``identity`` to ``earlier-K/``, so
    that nothing is lost."""
    differs = False
    if (folder / "results.json").exists():
        try:
            old = read_json(folder / "results.json", TypeAdapter(dict[str, Any]))
            differs = any(old.get(key) != results.get(key) for key in identity)
        except DamagedFile:  # what cannot be read is not thrown away
            differs = True
    if differs:
        earlier = next_free(folder, "earlier")
        earlier.mkdir()
        for name in ("results.json", "pairs.jsonl", "verdicts.jsonl"):
            if (folder / name).exists():
                (folder / name).rename(earlier / name)
        print(f"an earlier evaluation that differs is now in {earlier}", file=sys.stderr)
