"""(seed, step, role, row) -> the random numbers of a row, by a counter-based generator (Philox).

A row's draws never depend on its neighbours, on chunking or on when others stop.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DrawKey:
    """What a generation's randomness is keyed by, beside the position. ``rows``: each row's number
    among those of its step and role, below 2^64; where a generation has them all, their order."""

    seed: int
    step: int
    role: str
    rows: Sequence[int] | None = None

    def number(self, row: int) -> int:
        """Of a generation's row among the step's."""
        return row if self.rows is None else self.rows[row]

    def uniforms(self, row: int, count: int) -> np.ndarray:
        """``count`` numbers in [0, 1) for one row, float64."""
        parts = [0, self.number(row), zlib.crc32(self.role.encode()), self.step]
        counter = np.array(parts, dtype=np.uint64)  # of a list, large ones would be rounded
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).random(count)
