"""The pocket world's external reward: an exact verifier. Texts go in, R in [0, 1] comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lsp.contracts import BuildContext, Reward, RewardSettings
from lsp.pocket.language import verify
from lsp.settings.schema import setting, settings


@settings
class PocketVerifier(RewardSettings, Reward):
    """R in [0, 1] by ``lsp.pocket.language.verify``; a query that is not legal scores 0."""

    credit: Literal["partial", "exact"] = setting(
        "partial: the share of right positions; exact: 1 or 0"
    )
    range = (0.0, 1.0)

    def build(self, context: BuildContext) -> PocketVerifier:
        return self

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [verify(q, a, self.credit) for q, a in zip(queries, answers, strict=True)]
