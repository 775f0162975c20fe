"""What the Challenger asks over the steps: shares of its queries by one of their properties."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lsp.pocket.language import FAMILIES, MAX_LENGTH, parse
from lsp.tools.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Asked = Mapping[int, Sequence[tuple[str, str]]]
"""Step -> (text, finish reason) of each query."""

ILLEGAL = "illegal"
GREY = "#9a9a9a"
OPENINGS = 8
WORDS = (5, 10, 20, 40, 80)


def query_shares(queries: Asked, by: str) -> dict[str, list[float]]:
    """For each band its share of every step's queries; the shares of a step sum to 1.

    ``by``: ``family`` or ``length`` of a pocket task; of free text its number of ``words``, or its
    ``opening``, the first two words, the most frequent ones apart. Queries that were not played, or
    are no legal task, are the band ``illegal``, the last one.
    """
    bands, band_of = _bands(queries, by)
    shares: dict[str, list[float]] = {band: [] for band in [*bands, ILLEGAL]}
    for asked in queries.values():
        counts = Counter(
            (band_of(text) if finish == "stop" else None) or ILLEGAL for text, finish in asked
        )
        for band, series in shares.items():
            series.append(counts[band] / len(asked))
    return shares


def _bands(queries: Asked, by: str) -> tuple[list[str], Callable[[str], str | None]]:
    """Names of the bands, and what gives a text its band (None: illegal)."""
    if by in ("family", "length"):
        names = list(FAMILIES) if by == "family" else [str(n) for n in range(1, MAX_LENGTH + 1)]

        def of_task(text: str) -> str | None:
            task = parse(text)
            if task is None:
                return None
            return task.family if by == "family" else str(len(task.argument))

        return names, of_task
    if by == "words":
        starts = [1, *(limit + 1 for limit in WORDS)]
        names = [f"{a} to {b} words" for a, b in zip(starts, WORDS, strict=False)]
        names.append(f"over {WORDS[-1]} words")
        return names, lambda text: names[bisect_left(WORDS, len(text.split()))]
    played = [_opening(text) for step in queries.values() for text, end in step if end == "stop"]
    frequent = [opening for opening, _ in Counter(played).most_common(OPENINGS)]
    other = "other openings"
    return [*frequent, other], lambda text: o if (o := _opening(text)) in frequent else other


def _opening(text: str) -> str:
    """Never with an underscore first, which a legend would take for a private name."""
    first = " ".join(text.split(None, 2)[:2])[:24].lower()
    return visible(first).lstrip("_") or "no words"


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))
    ]


def draw_river(axis: Axes, queries: Asked, by: str, window: int = 5) -> None:
    """Stacked areas of ``query_shares``, illegal ones grey on top."""
    from matplotlib import colormaps

    steps, shares = list(queries), query_shares(queries, by)
    count = len(shares) - 1
    if by in ("family", "opening"):
        palette = [c for i, c in enumerate(colormaps["tab10"].colors) if i != 7][:count]  # 7: grey
    else:
        palette = [colormaps["viridis_r"](i / max(1, count - 1)) for i in range(count)]
    axis.stackplot(
        steps,
        [smoothed(series, window) for series in shares.values()],
        labels=list(shares),
        colors=[*palette, GREY],
    )
    axis.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axis.set_ylim(0, 1)
    axis.set_xlabel("step")
