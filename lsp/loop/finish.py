"""How a run ends: summary and trace go in; the table, three plays and all places are printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsp.contracts import World
from lsp.settings.config import Config
from lsp.tools.text import text_table
from lsp.tracking.reader import trace_steps


def print_closing(
    config: Config, folder: Path, checkpoint: Path, report: str, summary: Mapping[str, Any]
) -> None:
    if config.eval is not None:
        print(f"{evaluation_table(summary, config.eval.labels)}\n")
    if plays := sample_plays(folder, config.world):
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
    rows = [("test split", "base", "trained", "change")]
    for key, label in (labels or {key: key for key in keys}).items():
        if f"base/{key}" in summary and key in keys:
            base, final = summary[f"base/{key}"], summary[f"final/{key}"]
            rows.append((label, f"{base:.3f}", f"{final:.3f}", f"{final - base:+.3f}"))
    table = text_table(rows)
    if "final/wins" in summary:
        wins, ties, losses = (summary[f"final/{key}"] for key in ("wins", "ties", "losses"))
        rate = f"win rate with half ties {summary['final/win_rate']:.1%}"
        counts = f"{wins:g} wins, {ties:g} ties, {losses:g} losses"
        table += f"\nagainst the base, greedy: {counts}; {rate}"
    return table


def sample_plays(folder: Path, world: World, count: int = 3) -> list[str]:
    """The first queries of the last step, each with its best and its worst answer."""
    from lsp.report.game import read_plays

    steps = trace_steps(folder)
    queries = read_plays(folder, steps[-1], world) if steps else []
    played = sorted((q for q in queries if q.answers), key=lambda query: query.query_id)
    lines = []
    for query in played[:count]:
        lines.append(f"  {query.query!r}  V = {query.query_value:.2f}")
        for word, answer in (("best ", query.answers[0]), ("worst", query.answers[-1])):
            quality = "" if answer.quality is None else f"  R_Q = {answer.quality:.1f}"
            lines.append(f"    {word} {answer.answer!r}  R = {answer.reward:.2f}{quality}")
    return lines
