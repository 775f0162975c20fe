"""What ``python -m eval`` can be plugged with: settings go in, instructions and judges come out.

A benchmark or a judge is one file and one yaml of ``conf/evaluate/{benchmark,judge}``, whose
``_target_`` names a class of settings (lsp/contracts.py) that inherits one of those below. What it
declares, and ``problems``, are read before anything loads or is paid for; ``build`` may read files,
and raises RunError, with the way out, where they cannot be used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from eval.types import Instruction, Pair, Question, Task, Verdict
from lsp.contracts import PartSettings
from lsp.judging.cache import VerdictCache
from lsp.judging.spending import UNKNOWN, Prices
from lsp.settings.schema import setting, settings

Level = Literal["answer", "verdict"]
EvaluateConfig = Any  # eval.settings.EvaluateConfig, which is made of the classes below


@dataclass(frozen=True)
class EvaluationContext:
    """What ``build`` is given; a benchmark can rely on ``config`` alone. ``api_key``: what
    ``key_variable`` holds. ``cache``: verdicts that came before. ``prices``: the judge's."""

    config: EvaluateConfig
    api_key: str = ""
    cache: VerdictCache | None = None
    prices: Prices = UNKNOWN


class MeasurementSettings(PartSettings):
    """What ``benchmark=<name>`` picks; a user's is a BenchmarkSettings or a CheckedSettings."""

    measures: ClassVar[Literal["models", "answers", "judge"]]
    """``models``: a judge compares two models' answers. ``answers``: each answer is checked by
    itself (eval/checked.py). ``judge``: pairs come with answers and published verdicts
    (eval/judge_check.py)."""
    name: str
    """Results go to ``<run>/eval/<name>/``."""

    @abstractmethod
    def build(self, context: EvaluationContext) -> object: ...


@settings
class BenchmarkSettings(MeasurementSettings):
    """What models are asked."""

    measures = "models"
    name: str = setting("of the benchmark; results go to <run>/eval/<name>/")
    temperature: float = setting("of the answers", ge=0, le=100)
    max_new_tokens: int = setting("of an answer, at most", ge=1, le=2**20)

    @abstractmethod
    def build(self, context: EvaluationContext) -> Sequence[Instruction]:
        """All instructions, at least one, their indices 0, 1, 2, …, no text twice."""

    def further_rates(
        self, pairs: Sequence[Pair], preferences: Sequence[float | None]
    ) -> Mapping[str, dict[str, Any]]:
        """Name -> a rate beside the win rate, from each pair's preference (None: no verdict). It
        goes into results.json under its name, and into the table: ``win_rate``, in percent by set
        and ``overall``, of a ``variant``; or None, with the ``reason``."""
        return {}


@settings
class CheckedSettings(MeasurementSettings):
    """What models are asked, where a check says of each answer by itself what is right about it: no
    judge, no cost, and no baseline needed."""

    measures = "answers"
    measured: ClassVar[Mapping[str, tuple[str, Level]]]
    """Number in results.json -> (column of pairs.jsonl, level): the share, in percent, of the
    column's verdicts (``verdict``), or of the answers whose verdicts are all True (``answer``)."""
    name: str = setting("of the benchmark; results go to <run>/eval/<name>/")
    data: str | None = setting("a file of its tasks, here or on the Hub (hub:…)")
    temperature: float = setting("of the answers", ge=0, le=100)
    max_new_tokens: int = setting("of an answer, at most", ge=1, le=2**20)
    nearest: bool = setting(
        "a ready answer to a prompt that is nearly the same is taken where there is none to the"
        " same, and said",
        default=False,
    )

    @abstractmethod
    def build(self, context: EvaluationContext) -> Sequence[Task]:
        """All tasks, at least one, their indices 0, 1, 2, …, no text twice, each with a name for
        each verdict on an answer (``kinds``)."""

    @abstractmethod
    def check(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[dict[str, Any]]:
        """For each task what pairs.jsonl says of the answer: under each column of ``measured`` a
        list of True, False or None (no verdict), one of each kind; whatever else explains it."""

    def further_numbers(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Name -> what is made of the ``measured`` shares."""
        return {}


class JudgeSettings(PartSettings):
    """Who compares answers."""

    model: str
    """Its name in results and in conf/judges.json, which has prices."""
    order: Literal["both", "one"] = "one"
    """Which of the two orders each pair is shown in; ``one`` is the seeded order of AlpacaEval."""
    order_seed: int = 0
    template: str | None = None
    """Its prompt's name in results, where it has one."""
    chat: ClassVar[bool] = False
    """Its calls are chat completions with ``tokenizer`` and ``max_tokens``: a dry run counts them,
    and judge_check can measure it. Any other judge costs nothing."""

    @property
    def key_variable(self) -> str | None:
        """The environment variable that holds its key; None where it needs none."""
        return None

    @abstractmethod
    def build(self, context: EvaluationContext) -> Judge: ...


class Judge(ABC):
    """Compares answers, in one thread."""

    usd: float = 0.0
    """Dollars that this process spent."""
    at_most: bool = False
    """``usd`` is an upper bound: what a call did cost is not known."""

    @abstractmethod
    async def judge_all(
        self, questions: Sequence[Question], on_verdict: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """A verdict for each question, each handed to ``on_verdict`` when it comes. Raises
        RunError, for the user, where going on is of no use; verdicts that came are kept then."""

    def totals(self, questions: Sequence[Question]) -> tuple[int, float]:
        """(calls, dollars) ever spent on these questions, by killed processes too."""
        return 0, 0.0
