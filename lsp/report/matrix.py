"""The matrix of a cross-play: a folder's crossplay.csv goes in, a text and a heat map come out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsp.errors import RunError
from lsp.files import read_csv
from lsp.tools.text import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """One line of the matrix. ``played`` of ``queries`` were legal, and so answered;
    ``illegal_frac`` is the share of the others. Means and their standard errors are over the
    played queries, and None where there are too few; ``accuracy``, in [0, 1], is None outside the
    pocket world."""

    challenger: str
    solver: str
    queries: int
    played: int
    illegal_frac: float
    reward_mean: float | None
    reward_se: float | None
    accuracy: float | None
    accuracy_se: float | None


def read_matrix(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's crossplay.csv, as ``Cell`` has them: by Challenger, then Solver.
    Raises RunError where there is none."""
    path = folder / "crossplay.csv"
    if not path.is_file():
        raise RunError(f"{folder} holds no cross-play; make one with python -m eval.crossplay RUN")
    kinds = {"challenger": str, "solver": str, "queries": int, "played": int}
    return [
        {key: kinds.get(key, float)(value) if value else None for key, value in row.items()}
        for row in read_csv(path)
    ]


def matrix_of(
    rows: Sequence[dict[str, Any]], key: str
) -> tuple[list[str], list[str], list[list[float | None]]]:
    """(Challengers, Solvers, values by Challenger and Solver) of one column."""
    challengers = list(dict.fromkeys(row["challenger"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    values = {(row["challenger"], row["solver"]): row[key] for row in rows}
    return challengers, solvers, [[values[c, s] for s in solvers] for c in challengers]


def matrix_text(rows: Sequence[dict[str, Any]]) -> str:
    """Mean reward and, where it is known, exact accuracy; columns bear the numbers of the rows."""
    illegal = {row["challenger"]: row["illegal_frac"] for row in rows}
    lines = []
    for key, title in (("reward_mean", "mean reward R"), ("accuracy", "exact accuracy")):
        challengers, solvers, values = matrix_of(rows, key)
        if key == "accuracy" and all(v is None for line in values for v in line):
            continue
        table = [["", "illegal", *map(str, range(1, len(solvers) + 1))]]
        for number, (name, line) in enumerate(zip(challengers, values, strict=True), 1):
            shown = ["-" if v is None else f"{v:.3f}" for v in line]
            table.append([f"{number:>2} {name}", f"{illegal[name]:.3f}", *shown])
        lines += [f"{title}: rows ask, columns answer", text_table(table)]
    return "\n".join(lines)


def draw_matrix(rows: Sequence[dict[str, Any]]) -> Figure:
    """A heat map of the mean reward, of lines as ``read_matrix`` returns them: Challengers as
    rows with their share of illegal queries, Solvers as columns. A cell that no query was played
    in is grey."""
    import numpy as np
    from matplotlib.figure import Figure

    challengers, solvers, values = matrix_of(rows, "reward_mean")
    illegal = {row["challenger"]: row["illegal_frac"] for row in rows}
    reward = np.ma.masked_invalid(np.array(values, dtype=float))
    longest = max(map(len, challengers))
    size = (3 + 0.07 * longest + 0.62 * len(solvers), 1.5 + 0.06 * longest + 0.4 * len(challengers))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.add_subplot()
    axis.set_facecolor("#dddddd")
    # Not imshow, and no colour bar: pictures, which the policy of a report does not allow.
    places = np.arange(len(solvers)), np.arange(len(challengers))
    image = axis.pcolormesh(*places, reward, cmap="viridis", shading="nearest")
    axis.invert_yaxis()
    for (i, j), value in np.ndenumerate(reward.filled(math.nan)):
        empty = math.isnan(value)
        red, green, blue, _ = image.cmap(image.norm(value)) if not empty else (1, 1, 1, 1)
        # Black on light cells, white on dark ones, by how bright the eye finds the colour.
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.46
        text = "–" if empty else f"{value:.2f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=8,
                  color="white" if dark else "black")  # fmt: skip
    axis.set_xticks(range(len(solvers)), solvers, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(
        range(len(challengers)), [f"{name} ({illegal[name]:.0%} illegal)" for name in challengers]
    )
    axis.tick_params(labelsize=8)
    axis.set_xlabel("Solver")
    axis.set_ylabel("Challenger")
    axis.set_title("Cross-play: mean reward R", fontsize=10)
    return figure
