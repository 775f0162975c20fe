"""The pocket world's judge: the exact verifier. No network, no key, no cost, no opinion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.judge import Pair, Verdict
from eval.win_rate import TIE
from lsp.pocket.language import parse, verify


class NotAPocketTask(ValueError):
    """An instruction that the verifier has no answer to."""


@dataclass(frozen=True)
class VerifierJudge:
    """``conf/evaluate/judge/verifier.yaml``: the right answer is preferred to a wrong one; two
    right or two wrong ones are a tie. The order of two answers cannot matter, so one is asked."""

    model: ClassVar[str] = "verifier"
    order: ClassVar[str] = "one"
    order_seed: ClassVar[int] = 0
    usd: ClassVar[float] = 0.0
    errors: ClassVar[tuple[type[Exception], ...]] = (NotAPocketTask,)

    def build(self, *unused: Any) -> VerifierJudge:
        return self

    def explain(self, error: Exception) -> str:
        return str(error)

    def totals(self, asked: Sequence[tuple[Pair, bool]]) -> tuple[int, float]:
        return 0, 0.0

    def verdict(self, pair: Pair, model_first: bool) -> Verdict:
        """Raises NotAPocketTask where nothing is right or wrong."""
        if parse(pair.instruction) is None:
            raise NotAPocketTask(
                f"judge=verifier knows the pocket world's tasks only, and {pair.instruction[:60]!r}"
                " is none; take eval=pocket, or another judge"
            )
        right = [
            verify(pair.instruction, output, "exact")
            for output in (pair.model_output, pair.base_output)
        ]
        preference = TIE + (right[0] - right[1]) / 2
        return Verdict(pair.index, pair.source, model_first, preference, None, False, 0.0, None)

    async def judge_all(
        self, asked: Sequence[tuple[Pair, bool]], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        verdicts = [self.verdict(pair, model_first) for pair, model_first in asked]
        for verdict in verdicts:
            on_verdict(verdict)
        return verdicts
