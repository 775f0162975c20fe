"""Pairs of answers to pocket tasks go in, verdicts of the exact verifier come out. No cost."""

from collections.abc import Callable, Sequence

from eval.contracts import EvaluationContext, Judge, JudgeSettings
from eval.types import Pair, Question, Verdict
from eval.win_rate import TIE
from lsp.errors import RunError
from lsp.pocket.language import parse, verify
from lsp.settings.schema import settings


@settings
class VerifierJudge(JudgeSettings, Judge):
    """The right answer is preferred to a wrong one; two right or two wrong ones are a tie. The
    order of two answers cannot matter, so one is asked. It has no settings, and judges itself."""

    model = "verifier"

    def build(self, context: EvaluationContext) -> Judge:
        return self

    def verdict(self, pair: Pair, model_first: bool) -> Verdict:
        """Raises RunError where nothing is right or wrong."""
        if parse(pair.instruction) is None:
            problem = f"knows the pocket world's tasks only, and {pair.instruction[:60]!r} is none"
            raise RunError(f"judge=verifier {problem}; take benchmark=pocket, or another judge")
        model_right = verify(pair.instruction, pair.model_output, "exact")
        base_right = verify(pair.instruction, pair.base_output, "exact")
        return Verdict(pair.index, pair.source, model_first, TIE + (model_right - base_right) / 2)

    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        verdicts = [self.verdict(*question) for question in questions]
        for verdict in verdicts:
            on_verdict(verdict)
        return verdicts
