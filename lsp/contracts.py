"""What can be plugged in: a class of settings says what a part needs, ``build`` makes the part.

    conf/<group>/<name>.yaml --settings are read--> PartSettings --build(context)--> the part

A part is one file and one yaml. The yaml's ``_target_`` names a class that is declared with
``@settings`` (lsp/settings/schema.py) and inherits one of the ``…Settings`` below. What it declares
is read before anything heavy loads: settings are checked (``problems``), the plan counts it. A
class that lacks a method is refused there, by name. ``build`` is called once for each part, in
every process of a run, and its result is held to its contract at once.

| part      | group in conf/     | built from the context's                 | called by      |
|-----------|--------------------|------------------------------------------|----------------|
| Queries   | data               | config                                   | all processes  |
| Reward    | reward             | config, device                           | all processes  |
| Engine    | rollout/engine     | config, device, chat, end_ids            | all processes  |
| SelfJudge | self_reward        | the same, reference, engine              | all processes  |
| Evaluator | eval               | config, device, chat, players, base      | the first one  |
| Tracker   | tracker            | config, run                              | the first one  |
| World     | world              | (not built: pure functions of texts)     | readers too    |
| Benchmark | evaluate/benchmark | (eval/contracts.py)                      | python -m eval |

Everything but a tracker is called from one thread, in the order of steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from lsp.types import Completion, DrawKey

# Classes of rooms that are built on this one, which can only name them.
Config = Any
Players = Any
ChatFormat = Any
ModelShape = Any
Processes = Any

Rows = Sequence[dict[str, Any]]
"""Trace rows of a step: lsp/tracking/rows.py has their columns."""


@dataclass(frozen=True)
class RunIdentity:
    """What a tracker needs to know of a run beside its config. ``base``: what the base model is;
    ``init_run_id``: the run that it started from."""

    run_id: str
    folder: Path
    name: str
    base: str
    init_run_id: str | None


@dataclass(frozen=True)
class BuildContext:
    """What ``build`` is given; the table above says which entries a part of each kind can rely on.

    ``device``: where models compute. ``chat``: encodes conversations for the policy. ``end_ids``:
    tokens that end its turn. ``reference``: the frozen init. ``engine``: the one that writes the
    answers, for others of its kind which stop elsewhere (the Challenger's, a judge's) and have what
    it knows in common with it. ``players``: all that plays, loaded. ``base``: the model that an
    evaluation compares with.
    """

    config: Config
    device: torch.device | None = None
    run: RunIdentity | None = None
    chat: ChatFormat | None = None
    end_ids: frozenset[int] = frozenset()
    reference: PreTrainedModel | None = None
    engine: Engine | None = None
    players: Players | None = None
    base: PreTrainedModel | None = None


class PartSettings(ABC):
    """Settings of anything that can be plugged in."""

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        """(reason, way out) of each thing that cannot work in a run of ``config``. Loads nothing
        heavy: settings are refused within seconds."""
        return ()

    def may_change(self) -> Sequence[str]:
        """Settings of it that a resumed run may have otherwise: how its work is cut and how others
        are asked, never what comes out."""
        return ()

    def check(self, context: BuildContext) -> None:
        """Raises what ``build`` would, as far as config and chat tell: before weights load."""
        return None

    @abstractmethod
    def build(self, context: BuildContext) -> Any:
        """The working part. Raises ValueError, with the way out, where it cannot be had."""


def build_part(settings: PartSettings, context: BuildContext) -> Any:
    """``settings.build(context)``. Raises ValueError where it is not what the contract says."""
    part = settings.build(context)
    contract = next(own for kind, own in BUILT.items() if isinstance(settings, kind))
    if not isinstance(part, contract) and not (part is None and contract is Tracker):
        raise ValueError(
            f"{type(settings).__name__}.build returned a {type(part).__name__}, and it must return"
            f" a {contract.__name__} (lsp/contracts.py); inherit that class"
        )
    return part


class QueriesSettings(PartSettings):
    """Where the queries of ``method.queries=dataset`` come from."""

    @abstractmethod
    def build(self, context: BuildContext) -> Sequence[str]:
        """All queries, at least one. Which of them a step plays follows from (seed, step)."""


@dataclass(frozen=True)
class OwnModel:
    """A model that a part holds beside the policy, for the plan of memory and hours.

    ``shape``: None where it is not known, and ``unknown`` then says why. ``max_length``: tokens of
    the longest row, ``max_tokens``: padded tokens of a pass. It is a classifier of one output.
    """

    dtype: str
    max_length: int
    max_tokens: int
    shape: ModelShape | None = None
    unknown: str = ""


class RewardSettings(PartSettings):
    """The external reward R."""

    @cached_property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest R; None where it has no bounds (-V is then the Challenger's only
        term). A class attribute or a field of that name does as well (a field's value lies in the
        instance, where it would hide behind a plain property)."""
        return None

    def own_models(self) -> Sequence[OwnModel]:
        """Models that it holds, each process its own copy."""
        return ()

    def uncounted(self) -> Sequence[str]:
        """What it needs that a plan cannot count, in words."""
        return ()

    def calls(self, config: Config) -> Sequence[str]:
        """Lines of a plan on what it asks of others, and what that may cost; empty: nothing."""
        return ()

    @abstractmethod
    def build(self, context: BuildContext) -> Reward: ...


class Reward(ABC):
    """Scores answers. Each process calls it with its own part of a step's pairs."""

    @abstractmethod
    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        """One finite number a pair, in their order; the same pair must get the same number. Raises
        ValueError, for the user, to end the run."""

    def details(self) -> Mapping[str, list[float]]:
        """Name -> one number for each pair of the last call; logged as
        ``reward/external/<name>/mean`` and ``std``, and kept in the trace."""
        return {}

    def offload(self) -> None:
        """From now on its models are on the device only while it scores (lsp/model/offload.py)."""
        return None


class EngineSettings(PartSettings):
    """What writes completions for both roles."""

    in_process: ClassVar[bool] = True
    """Whether it decodes on the run's own weights and device, so that the plan counts its cache."""

    def warnings(self, config: Config) -> Sequence[str]:
        """What a run of ``config`` should be told of it as it starts."""
        return ()

    @abstractmethod
    def build(self, context: BuildContext) -> Engine: ...


class Engine(ABC):
    """Writes completions. Each process calls it for its own rows, and not at all without any."""

    def sync(self, policy: PreTrainedModel, updates: int, processes: Processes) -> None:
        """The policy's weights are those after so many updates, and they are whole. Called by all
        ``processes`` before a step's play, and by the first one alone before it evaluates; one that
        decodes on the weights themselves has nothing to do. Raises ValueError to end the run."""
        return None

    @abstractmethod
    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[list[Completion]]:
        """``samples`` completions of each prompt by the model as it is now, in their order.

        ``prompts`` are token ids, one or more each. ``temperature`` 0 takes the likeliest token.
        All randomness is a function of ``key`` and a row's number, so that a row is the same
        whatever stands beside it. Log-probabilities are at the sampling temperature.
        """

    def begin(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> Callable[[], list[list[Completion]]]:
        """The same, called for later: where the engine is elsewhere it begins now, and ``model``
        may change meanwhile. ``sync`` waits for it."""
        return partial(self.generate, model, prompts, samples, max_new_tokens, temperature, key)


class SelfJudgeSettings(PartSettings):
    """The quality self-reward R_Q. ``lsp_weight`` is a field that every one of them has: the
    ``method.self_reward_weight`` of ``method=lsp``, since it depends on the scales of R and R_Q."""

    lsp_weight: float
    range: ClassVar[tuple[float, float]] = (0.0, 7.0)

    @property
    def reads_rubric(self) -> bool:
        """Whether it reads a pair under ``prompts.judge``; else as the Solver's turn, alone."""
        return True

    @property
    def written_tokens(self) -> int:
        """Tokens that the judge writes of a pair at most; 0 where it scores in one pass."""
        return 0

    @abstractmethod
    def build(self, context: BuildContext) -> SelfJudge: ...


class SelfJudge(ABC):
    """Scores the quality of (query, answer) pairs. Each process calls it with its own pairs."""

    @abstractmethod
    def score(
        self, queries: Sequence[str], answers: Sequence[str], key: DrawKey
    ) -> tuple[list[float], list[str]]:
        """Scores (NaN where none could be read) and what the judge wrote, one each for every pair.
        The reference is on the device meanwhile."""


class EvaluatorSettings(PartSettings):
    """Measures on held-out data while a run goes on. ``every`` is a field that each has: steps
    between evaluations, beside those before the first and after the last step (0: those alone)."""

    name: ClassVar[str]
    """Its numbers are ``eval/<name>/…`` on the way."""
    labels: ClassVar[Mapping[str, str]] = {}
    """Key -> words, of what the closing table and the report show of its numbers; empty: all."""
    every: int

    @abstractmethod
    def build(self, context: BuildContext) -> Evaluator: ...


class Evaluator(ABC):
    """Called by the first process alone, with whole weights, in torch's eval mode."""

    @abstractmethod
    def metrics(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """Numbers of one model on ``dev`` (on the way) or ``test`` (at the end; there the base is
        measured too, for ``base/…`` beside ``final/…``). The same model gives the same numbers."""

    def examples(self) -> Sequence[Example]:
        """Some prompts of the test split, drawn and not chosen, with the base's answers and those
        of the last model that was measured on it: for a reader."""
        return ()

    def held_out(self) -> Sequence[HeldOut]:
        """All prompts of the test split in an order of their own, with the scores of the base and
        of the last model that was measured on it: what two runs are compared by, prompt by prompt.
        The first of ``labels`` is the weighted mean of the scores."""
        return ()


class Example(NamedTuple):
    """``right_answer``: where there is one and it is known."""

    prompt: str
    right_answer: str | None
    base: str
    trained: str


class HeldOut(NamedTuple):
    """One prompt with the likeliest answers to it and what they scored, more being better.
    ``weight``: its share in the mean; all weights sum to 1."""

    prompt: str
    right_answer: str | None
    weight: float
    base_score: float
    trained_score: float
    base: str
    trained: str


class TrackerSettings(PartSettings):
    """A sink beside the run's folder, which is always written."""

    finish_seconds: float = 0.0
    """How long the end of a run waits for it."""

    @abstractmethod
    def announcement(self) -> str:
        """One line that says where the run is tracked. Raises RunError where it cannot be."""

    @abstractmethod
    def build(self, context: BuildContext) -> Tracker | None:
        """None: nothing is tracked beside the folder."""


class Tracker(ABC):
    """Records a run. Called from a thread of its own, in the order of steps; an error is said once
    and the run goes on without it."""

    advice: str = ""
    """What to do about what a tracker that failed did not take."""

    @abstractmethod
    def log(self, step: int, metrics: dict[str, float], rows: Rows) -> None:
        """Scalars by path, and the step's trace rows; step 0 is the evaluation of the start."""

    @abstractmethod
    def checkpoint(self, folder: Path, step: int) -> None:
        """A checkpoint was written."""

    @abstractmethod
    def alert(self, step: int, text: str) -> None:
        """Something that a person should see."""

    @abstractmethod
    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over; ``summary["status"]`` says how."""


class World(ABC):
    """What is known of the queries of a world; pure functions of texts, for readers of runs too.
    conf/world/<name>.yaml picks its other parts (prompts, data, reward, evaluation)."""

    name: ClassVar[str]
    makes_earlier_runs: ClassVar[bool] = False
    """``init=<method>`` makes the run that it starts from where there is none: minutes here."""

    def is_legal(self, query: str) -> bool:
        """Whether a query that came to its end is one that this world has answers to."""
        return True

    def right_answer(self, query: str) -> str | None:
        """The one right answer, where there is one and it is known."""
        return None

    def checks(self, query: str, answer: str) -> Sequence[tuple[str, bool | None]]:
        """What an answer was held to, each by name: whether it does it; None: that is not known."""
        return ()

    def quality(self, query: str, answer: str) -> float | None:
        """The true quality of an answer, on the scale of R_Q, where it is known."""
        return None

    def known_pairs(self) -> Sequence[tuple[str, str]]:
        """Queries with a good answer each, by which a self-judge can be tried."""
        return ()

    @abstractmethod
    def kinds(self, queries: Sequence[str]) -> Sequence[QueryKinds]:
        """How a picture sorts queries; ``queries``: all that are to be sorted."""

    def problems(self, config: Config) -> Sequence[tuple[str, str, str]]:
        """(key, reason, way out) of each setting that cannot work in this world."""
        return ()


@dataclass(frozen=True)
class QueryKinds:
    """One way of sorting queries. ``kind_of`` gives a legal query one of ``names``; ``ordered``:
    the names are steps of one scale, and take the colours of one."""

    title: str
    names: Sequence[str]
    kind_of: Callable[[str], str]
    ordered: bool = False


BUILT: dict[type, type] = {
    QueriesSettings: Sequence,
    RewardSettings: Reward,
    EngineSettings: Engine,
    SelfJudgeSettings: SelfJudge,
    EvaluatorSettings: Evaluator,
    TrackerSettings: Tracker,
}
"""What each kind of settings builds."""
