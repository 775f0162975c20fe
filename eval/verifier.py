"""Pairs of answers to pocket tasks go in, verdicts of the exact verifier come out. No cost."""

from collections.abc import Callable, Sequence

from eval.contracts import EvaluationContext, Judge, JudgeSettings
from eval.types import Pair, Question, Verdict
from eval.win_rate import TIE
from lsp.errors import RunError
from lsp.pocket.language import parse, verify
from lsp.settings.schema import settings


class NotAPocketTask(RunError):
    """An instruction that the verifier has no answer to."""


@settings
class VerifierJudge(JudgeSettings, Judge):
    """The right answer is preferred to a wrong one; two right or two wrong ones are a tie. The
    order of two answers cannot matter, so one is asked. It has no settings, and judges itself."""

    model = "verifier"

    def build(self, context: EvaluationContext) -> Judge:
        return self

    def verdict(self, pair: Pair, model_first: bool) -> Verdict:
        """Raises NotAPocketTask where nothing is right or wrong."""
        if parse(pair.instruction) is None:
            raise NotAPocketTask(
                f"judge=verifier knows the pocket world's tasks only, and {pair.instruction[:60]!r}"
                " is none; take benchmark=pocket, or another judge"
            )
        right, other_right = (
            verify(pair.instruction, output, "exact")
            for output in (pair.model_output, pair.base_output)
        )
        return Verdict(pair.index, pair.source, model_first, TIE + (right - other_right) / 2)

    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        verdicts = [self.verdict(*question) for question in questions]
        for verdict in verdicts:
            on_verdict(verdict)
        return verdicts
