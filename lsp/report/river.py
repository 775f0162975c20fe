"""What the Challenger asks over the steps: its queries go in, shares of each kind come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from lsp.contracts import QueryKinds
from lsp.tools.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Asked = Mapping[int, Sequence[tuple[str, bool]]]
"""Step -> (text, whether it was played and is legal) of each query."""

ILLEGAL = "illegal"
GREY = "#9a9a9a"


def query_shares(queries: Asked, kinds: QueryKinds) -> dict[str, list[float]]:
    """For each kind its share of every step's queries; the shares of a step sum to 1. Queries that
    were not played, or are not legal, are the kind ``illegal``, the last one."""
    shares: dict[str, list[float]] = {name: [] for name in [*kinds.names, ILLEGAL]}
    for asked in queries.values():
        counts = Counter(kinds.kind_of(text) if legal else ILLEGAL for text, legal in asked)
        for name, series in shares.items():
            series.append(counts[name] / len(asked))
    return shares


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))
    ]


def draw_river(axis: Axes, queries: Asked, kinds: QueryKinds, window: int = 5) -> None:
    """Stacked areas of ``query_shares``, illegal ones grey on top."""
    from matplotlib import colormaps

    steps, shares = list(queries), query_shares(queries, kinds)
    count = len(shares) - 1
    if kinds.ordered:
        palette = [colormaps["viridis_r"](i / max(1, count - 1)) for i in range(count)]
    else:
        coloured = [c for i, c in enumerate(colormaps["tab10"].colors) if i != 7]  # 7 is grey
        palette = list(islice(cycle(coloured), count))
    axis.stackplot(
        steps,
        [smoothed(series, window) for series in shares.values()],
        labels=[visible(name) for name in shares],
        colors=[*palette, GREY],
    )
    axis.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axis.set_ylim(0, 1)
    axis.set_xlabel("step")
