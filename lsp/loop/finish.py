"""How a run ends: the final evaluation, the table, three sample plays, a picture of the curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsp.settings.config import Config

CHALLENGER_COLOUR, SOLVER_COLOUR = "#e07b00", "#1f6fb4"


def print_closing(
    config: Config, folder: Path, checkpoint: Path, report: str, summary: dict[str, Any]
) -> None:
    """The table of the final evaluation, three plays, and where everything lies."""
    if config.eval is not None:
        print(f"{evaluation_table(summary, config.eval.labels)}\n")
    plays = sample_plays(folder)
    if plays:
        print("three plays of the last step\n" + "\n".join(plays) + "\n")
    print(f"{config.method.label}, {config.num_steps} steps, {summary['seconds']:.0f} s")
    for what, place in (
        ("model", checkpoint),
        ("rows", folder / "trace"),
        ("metrics", folder / "metrics.jsonl"),
        ("curves", folder / "curves.png"),
        ("summary", folder / "summary.json"),
        ("report", report),
    ):
        print(f"  {what:<9}{place}", flush=True)


def evaluation_table(summary: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Base and trained model on the test split, as text; ``labels`` as an evaluator declares them.
    Wins over the base, where it counts them, are a line of their own."""
    keys = [key.removeprefix("final/") for key in summary if key.startswith("final/")]
    shown = labels or {key: key for key in keys}
    lines = [f"{'test split':<24}{'base':>8}{'trained':>9}{'change':>9}"]
    for key, label in shown.items():
        if f"base/{key}" in summary:
            base, final = summary[f"base/{key}"], summary[f"final/{key}"]
            lines.append(f"{label:<24}{base:>8.3f}{final:>9.3f}{final - base:>+9.3f}")
    if "final/wins" in summary:
        wins, ties, losses = (summary[f"final/{key}"] for key in ("wins", "ties", "losses"))
        lines.append(
            f"against the base, greedy: {wins:g} wins, {ties:g} ties, {losses:g} losses; win rate"
            f" with half ties {summary['final/win_rate']:.1%}"
        )
    return "\n".join(lines)


def sample_plays(folder: Path, count: int = 3) -> list[str]:
    """Some queries of the last step, each with its best and its worst answer."""
    from lsp.tracking.reader import read_trace, trace_steps

    steps = trace_steps(folder)
    if not steps:
        return []
    by_query: dict[str, list[dict]] = {}
    for row in read_trace(folder, steps[-1:]):
        if row["answer"] is not None:
            by_query.setdefault(row["query_id"], []).append(row)
    lines = []
    for rows in list(by_query.values())[:count]:
        best, worst = max(rows, key=_solver_reward), min(rows, key=_solver_reward)
        lines.append(f"  {rows[0]['query']!r}  V = {rows[0]['query_value']:.2f}")
        for word, row in (("best ", best), ("worst", worst)):
            quality = "" if row["quality"] is None else f"  R_Q = {row['quality']:.1f}"
            lines.append(f"    {word} {row['answer']!r}  R = {row['reward']:.2f}{quality}")
    return lines


def _solver_reward(row: dict) -> float:
    return row["solver_reward"]


def draw_curves(folder: Path) -> None:
    """``curves.png``: rewards, KL, entropy and queries over steps, from metrics.jsonl alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    panels = {
        "reward": [
            ("reward/external/mean", "R, external", SOLVER_COLOUR, "-"),
            ("reward/challenger/mean", "Challenger", CHALLENGER_COLOUR, "-"),
        ],
        "quality R_Q": [("quality/mean", "R_Q, 0 to 7", SOLVER_COLOUR, "-")],
        "KL to the reference (k2)": [
            ("kl/solver/k2", "Solver", SOLVER_COLOUR, "-"),
            ("kl/challenger/k2", "Challenger", CHALLENGER_COLOUR, "-"),
        ],
        "entropy a token": [
            ("entropy/solver", "Solver", SOLVER_COLOUR, "-"),
            ("entropy/challenger", "Challenger", CHALLENGER_COLOUR, "-"),
        ],
        "queries": [
            ("rollout/distinct_query_frac", "distinct in the step", CHALLENGER_COLOUR, "-"),
            ("rollout/played_query_frac", "played", "#777777", "-"),
            ("eval/pocket/valid_query_frac", "valid (dev)", "#777777", "o"),
        ],
        "dev split": [
            ("eval/pocket/accuracy", "exact accuracy", SOLVER_COLOUR, "o-"),
            ("eval/pocket/win_rate", "win rate", "#777777", "o-"),
        ],
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        for key, label, colour, style in curves:
            seen = [(p["step"], p[key]) for p in points if p.get(key) is not None]
            if seen:
                axis.plot(*zip(*seen, strict=True), style, color=colour, label=label, markersize=4)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    figure.savefig(folder / "curves.png", dpi=110)
    pyplot.close(figure)
