"""The matrix of a cross-play: a folder's crossplay.csv goes in, a text and a heat map come out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lsp.errors import RunError
from lsp.files import read_csv
from lsp.tools.text import text_table


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


def matrix_of(rows: Sequence[dict[str, Any]], key: str) -> tuple[dict, list[str], np.ndarray]:
    """(Challenger -> share of illegal queries, Solvers, a column of ``rows`` by both, or NaN)."""
    challengers = {row["challenger"]: row["illegal_frac"] for row in rows}
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    values = {(row["challenger"], row["solver"]): row[key] for row in rows}
    matrix = np.array([[values[c, s] for s in solvers] for c in challengers], dtype=float)
    return challengers, solvers, matrix


def matrix_text(rows: Sequence[dict[str, Any]]) -> str:
    """Mean reward and, where it is known, exact accuracy; columns bear the numbers of the rows."""
    lines = []
    for key, title in (("reward_mean", "mean reward R"), ("accuracy", "exact accuracy")):
        challengers, solvers, values = matrix_of(rows, key)
        if key == "accuracy" and np.isnan(values).all():
            continue
        table = [["", "illegal", *map(str, range(1, len(solvers) + 1))]]
        for number, (name, line) in enumerate(zip(challengers, values, strict=True), 1):
            cells = ["-" if math.isnan(value) else f"{value:.3f}" for value in line]
            table.append([f"{number:>2} {name}", f"{challengers[name]:.3f}", *cells])
        lines += [f"{title}: rows ask, columns answer", text_table(table)]
    return "\n".join(lines)


def draw_matrix(rows: Sequence[dict[str, Any]]) -> Figure:
    """A heat map of the mean reward, of lines as ``read_matrix`` returns them: Challengers as
    rows with their share of illegal queries, Solvers as columns. A cell that no query was played
    in is grey."""
    challengers, solvers, reward = matrix_of(rows, "reward_mean")
    longest = max(map(len, challengers))
    size = (3 + 0.07 * longest + 0.62 * len(solvers), 1.5 + 0.06 * longest + 0.4 * len(challengers))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.add_subplot()
    axis.set_facecolor("#dddddd")
    # Not imshow, and no colour bar: pictures, which the policy of a report does not allow.
    columns, lines = np.arange(len(solvers)), np.arange(len(challengers))
    image = axis.pcolormesh(columns, lines, reward, cmap="viridis", shading="nearest")
    axis.invert_yaxis()
    for (i, j), value in np.ndenumerate(reward):
        empty = math.isnan(value)
        red, green, blue, _ = image.cmap(image.norm(value)) if not empty else (1, 1, 1, 1)
        # Black on light cells, white on dark ones, by how bright the eye finds the colour.
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.46
        text, colour = "–" if empty else f"{value:.2f}", "white" if dark else "black"
        axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    names = [f"{name} ({illegal:.0%} illegal)" for name, illegal in challengers.items()]
    axis.set_xticks(columns, solvers, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(lines, names)
    axis.tick_params(labelsize=8)
    axis.set(xlabel="Solver", ylabel="Challenger")
    axis.set_title("Cross-play: mean reward R", fontsize=10)
    return figure
