"""What the Challenger asks over the steps: its queries go in, shares of each kind come out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from statistics import fmean
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from lsp.contracts import QueryKinds
from lsp.tools.text import visible

Queries = Mapping[int, Sequence[tuple[str, bool]]]
"""Step -> (text, whether it was played and is legal) of each query."""

ILLEGAL = "illegal"
GREY = "#9a9a9a"


def query_shares(queries: Queries, kinds: QueryKinds) -> dict[str, list[float]]:
    """For each kind its share of every step's queries; the shares of a step sum to 1. Queries that
    were not played, or are not legal, are the kind ``illegal``, the last one."""
    steps = [
        Counter(kinds.kind_of(text) if legal else ILLEGAL for text, legal in step)
        for step in queries.values()
    ]
    return {name: [c[name] / c.total() for c in steps] for name in [*kinds.names, ILLEGAL]}


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values."""
    return [fmean(values[max(0, i - window) : i]) for i in range(1, len(values) + 1)]


class Area(NamedTuple):
    """One kind of a river as it is drawn, from the lowest up."""

    name: str
    colour: str
    shares: list[float]


def draw_river(axis: Axes, queries: Queries, kinds: QueryKinds, window: int = 5) -> list[Area]:
    """Stacked areas of ``query_shares``, each a mean over the last ``window`` steps, illegal ones
    grey on top."""
    steps, shares = list(queries), query_shares(queries, kinds)
    count = len(shares) - 1
    if kinds.ordered:
        palette = [colormaps["viridis_r"](i / max(1, count - 1)) for i in range(count)]
    else:
        name, greys = ("tab10", (7,)) if count < 10 else ("tab20", (14, 15))
        coloured = [c for i, c in enumerate(colormaps[name].colors) if i not in greys]
        palette = list(islice(cycle(coloured), count))
    areas = [
        Area(visible(name), to_hex(colour), smoothed(series, window))
        for (name, series), colour in zip(shares.items(), [*palette, GREY], strict=True)
    ]
    names, colours, drawn = zip(*areas, strict=True)
    axis.stackplot(steps, drawn, labels=names, colors=colours)
    axis.set(xlim=(steps[0], max(steps[-1], steps[0] + 1)), ylim=(0, 1), xlabel="step")
    return areas
