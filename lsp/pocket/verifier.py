"""The pocket world's external reward: an exact verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from lsp.pocket.language import verify


@dataclass(frozen=True)
class PocketVerifier:
    """R in [0, 1] by ``lsp.pocket.language.verify``; a query that is not legal scores 0."""

    credit: Literal["partial", "exact"]
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def build(self, device) -> PocketVerifier:
        return self

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [verify(q, a, self.credit) for q, a in zip(queries, answers, strict=True)]
