"""A judge over chat completions: a pair of answers goes in, which of the two is better comes out.

A verdict is a preference in [1, 2], 2 where the model's answer is preferred: from the log-probs of
the two labels where the server gives them (AlpacaEval's weighted form), else from the text.
lsp/judging asks, reads, pays and keeps; what cannot be read is left out, counted by its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from eval.contracts import EvaluateConfig, EvaluationContext, Judge, JudgeSettings
from eval.template import FIRST, SECOND, read_template
from eval.types import Pair, Question, Verdict
from eval.win_rate import label_preference
from lsp.judging.cache import VerdictCache
from lsp.judging.client import Asked, ChatClient, Reply, Request
from lsp.judging.replies import NoVerdict, label_logprobs, read_from
from lsp.judging.server import ChatServer
from lsp.judging.spending import Prices, Spending, prices
from lsp.settings.schema import setting, settings

LABELS = (FIRST, SECOND)
TOP_LOGPROBS = 5


@settings
class ChatJudge(ChatServer, JudgeSettings):
    """A model behind chat completions, OpenAI's or any server that speaks them."""

    chat = True
    template: Literal["own", "alpaca_eval"] = setting("whose prompt (eval/template.py)")
    tokenizer: str | None = setting("counts a dry run's tokens; null: tiktoken")
    logprobs: bool = setting("ask for log-probs; the text decides where there are none")
    order: Literal["both", "one"] = setting("both orders, or AlpacaEval's seeded one")
    order_seed: int = setting("of the seeded order", ge=0, le=2**32 - 1)
    max_usd: float | None = setting("stop before more could be spent", gt=0, le=1e6)

    @property
    def key_variable(self) -> str | None:
        return self.api_key_env

    def problems(self, config: EvaluateConfig) -> list[tuple[str, str]]:
        problems = self.server_problems()
        if self.max_usd is not None and prices(self.model).input is None:
            fix = "add it to conf/judges.json, or leave judge.max_usd out"
            problems.append((f"max_usd={self.max_usd:g} needs the judge's price", fix))
        return problems

    def build(self, context: EvaluationContext) -> "PairJudge":
        assert context.cache is not None
        return PairJudge(self, context.api_key, context.cache, context.prices)


class PairJudge(ChatClient, Judge):
    """Asks for verdicts, ``concurrency`` at a time, each at most once for ever (the cache)."""

    def __init__(self, settings: ChatJudge, api_key: str, cache: VerdictCache, prices: Prices):
        asked = Asked("judge", "judge")
        spending = Spending(settings.max_usd)
        super().__init__(settings, asked, api_key, cache, prices, LABELS, spending)
        self.settings, self.template = settings, read_template(settings.template)

    def request(self, pair: Pair, model_first: bool) -> Request:
        messages = self.template.messages(*pair.shown(model_first))
        return self.request_of(messages, TOP_LOGPROBS if self.settings.logprobs else 0)

    def totals(self, questions: Sequence[Question]) -> tuple[int, float]:
        return self.cache.totals([self.key(self.request(*question)) for question in questions])

    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """Raises BudgetReached once nothing more may be asked, counting what was spent on these
        questions before, and JudgeRefuses; every verdict that came is in the cache then."""
        _, before = self.totals(questions)
        self.spending = Spending(self.settings.max_usd, before)
        verdicts: dict[int, Verdict] = {}

        def came(place: int, reply: Reply) -> None:
            verdicts[place] = verdict_of(*questions[place], reply)
            on_verdict(verdicts[place])

        await self.ask_all([self.request(*question) for question in questions], came)
        return [verdicts[place] for place in sorted(verdicts)]


def verdict_of(pair: Pair, model_first: bool, reply: Reply) -> Verdict:
    """A reply about a pair, in the terms of an evaluation."""
    about = {"usd": reply.usd, "date": reply.date, "cached": reply.cached}
    of_pair, outcome = (pair.index, pair.source, model_first), reply.outcome
    if isinstance(outcome, NoVerdict):
        return Verdict(*of_pair, problem=outcome.text, reason=outcome.reason, **about)
    preference, source = preference_of(outcome, model_first), read_from(outcome, LABELS)
    return Verdict(*of_pair, preference, outcome["text"], read_from=source, **about)


def preference_of(response: Mapping[str, Any], model_first: bool) -> float | None:
    """Preference in [1, 2] from a stored response; None where it holds no readable label."""
    logprobs = label_logprobs(response, LABELS)
    return None if logprobs is None else label_preference(*logprobs, switched=model_first)
