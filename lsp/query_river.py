"""What the Challenger asks over the steps: shares of its queries by family and by length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsp.pocket.language import FAMILIES, MAX_LENGTH, parse
from lsp.tracking.reader import read_trace, trace_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ILLEGAL = "illegal"
GREY = "#9a9a9a"


def query_shares(run: Path, by: str) -> tuple[list[int], dict[str, list[float]]]:
    """Steps, and for each band its share of the step's queries; a query counts once.

    ``by`` is ``family`` or ``length``; queries that are not legal, or were not played, are the
    band ``illegal``. The shares of a step sum to 1.
    """
    bands = list(FAMILIES) if by == "family" else [str(n) for n in range(1, MAX_LENGTH + 1)]
    steps = trace_steps(run)
    columns = ["query_id", "query", "query_finish_reason"]
    shares: dict[str, list[float]] = {band: [] for band in [*bands, ILLEGAL]}
    for step in steps:
        queries = {row["query_id"]: row for row in read_trace(run, [step], columns)}
        counts: Counter[str] = Counter()
        for row in queries.values():
            task = parse(row["query"]) if row["query_finish_reason"] == "stop" else None
            if task is None:
                counts[ILLEGAL] += 1
            else:
                counts[task.family if by == "family" else str(len(task.argument))] += 1
        for band, series in shares.items():
            series.append(counts[band] / len(queries))
    return steps, shares


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))
    ]


def draw_river(axis: Axes, run: Path, by: str, window: int = 5) -> None:
    """Stacked areas of ``query_shares``, illegal ones grey on top."""
    from matplotlib import colormaps

    steps, shares = query_shares(run, by)
    count = len(shares) - 1
    if by == "family":
        palette = [c for i, c in enumerate(colormaps["tab10"].colors) if i != 7][:count]  # 7: grey
    else:
        palette = [colormaps["viridis_r"](i / (count - 1)) for i in range(count)]
    axis.stackplot(
        steps,
        [smoothed(series, window) for series in shares.values()],
        labels=list(shares),
        colors=[*palette, GREY],
    )
    axis.set_xlim(steps[0], steps[-1])
    axis.set_ylim(0, 1)
    axis.set_xlabel("step")
