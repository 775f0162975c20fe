"""Steps that teach nothing: a step's queries and play go in, why it taught nothing comes out, and
after several in a row the way out.

Trends look healthy meanwhile: what is not played has no reward to fall, and equal rewards have a
fine mean. What such a step still does is pull the policy to its reference.
"""

from collections.abc import Callable, Sequence

from lsp.loop.findings import TELL_APART, step_findings
from lsp.settings.config import Config
from lsp.types import Play, Query

SMALLEST = 1e-6
"""An advantage, or a difference of two rewards, that is not rounding."""
STATUS_WORDS = {
    "length": "cut",
    "empty": "empty",
    "malformed": "malformed",
    "illegal": "illegal",
}


def idle_words(config: Config, queries: Sequence[Query], play: Play) -> str:
    """Why a step taught nothing, or the Solver nothing, in a few words for its line; empty: all
    that learn were taught."""
    if not play.queries:
        shares = {
            word: sum(query.status == status for query in queries) / len(queries)
            for status, word in STATUS_WORDS.items()
        }
        return f"nothing played: {', '.join(f'{s:.0%} {w}' for w, s in shares.items() if s)}"
    why = _solver_idles(config, play)
    if not why:
        return ""
    challenger = config.method.trains_challenger and _challenger_is_taught(play)
    return f"{'the Solver learns nothing' if challenger else 'nothing learned'}: {why}"


def _solver_idles(config: Config, play: Play) -> str:
    """Why no answer has an advantage that is trained on; empty: one has."""
    masks = config.method.mask_truncated_answers
    cut = [answer.finish_reason == "length" for group in play.answers for answer in group]
    if masks and all(cut):
        return "all answers were cut, and method.mask_truncated_answers leaves them out"
    advantages = play.solver_advantage_QG.flatten().tolist()
    pairs = zip(advantages, cut, strict=True)
    if any(abs(advantage) > SMALLEST for advantage, was_cut in pairs if not (masks and was_cut)):
        return ""
    return "the answers to each query have the same reward"


def _challenger_is_taught(play: Play) -> bool:
    """Whether a query that a model wrote has an advantage."""
    pairs = zip(play.queries, play.challenger_advantage_Q.tolist(), strict=True)
    of_played = any(abs(a) > SMALLEST for query, a in pairs if query.completion is not None)
    return of_played or bool(play.invalid and abs(play.invalid_advantage) > SMALLEST)


class IdleSteps:
    """Counts steps in a row that taught nothing."""

    FIRST = 3
    """In a row of which the first warning of a run comes; the next with ten times as many."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._warns_at = self.FIRST

    def step(
        self,
        config: Config,
        queries: Sequence[Query],
        prompts: Callable[[], Sequence[str]],
        play: Play,
        words: str,
    ) -> str:
        """A warning with the way out, when one is due. ``prompts``: those that findings take;
        ``words`` of ``idle_words``."""
        if not words:
            self.in_a_row = 0
            return ""
        self.in_a_row += 1
        if self.in_a_row < self._warns_at:
            return ""
        self._warns_at *= 10
        found = step_findings(config, queries, prompts(), play)
        ways = [str(finding) for finding in found if finding.stops] or [f"way out: {TELL_APART}"]
        return f"{self.in_a_row} steps in a row, {words}; {'; '.join(ways)}"
