"""The map of the program: what flows from one step of Algorithm 1 to the next.

    prompts -> Completion -> Query [N] -> Play [Q, G] -> TrainingRow -> MicroBatch -> loss

Shape letters, here and in tensor names: N the step's queries, Q those that are played, G the
answers to each, B rows of a micro-batch, T tokens, V the vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Role = Literal["challenger", "solver"]
RowKey = tuple[Role, tuple[int, ...], tuple[int, ...]]
"""(role, prompt ids, completion ids): what makes two rows of the loss the same pair."""
QueryStatus = Literal["stop", "length", "empty", "malformed", "illegal", "dataset"]


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


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    ``ids`` are the sampled tokens, the end token included where one was sampled; ``logprobs``
    are theirs at the sampling temperature. ``finish_reason`` is ``stop`` (an end token or a stop
    string) or ``length`` (cut at the limit).

    Example: ``Completion((42, 43, 1), (-0.1, -0.2, -0.0), "ab", "stop")``.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: Literal["stop", "length"]

    @property
    def marked(self) -> str:
        """Its text for a reader; a cut one is marked by its missing end."""
        return self.text if self.finish_reason == "stop" else self.text + "…"


@dataclass(frozen=True)
class Query:
    """One query of a step. ``query_id`` is its identity: its text may repeat.

    ``status`` is how it ended: ``stop``; ``length``, ``empty``, ``malformed`` or ``illegal``, which
    are recorded and not played; or ``dataset``. ``completion`` is the Challenger's, for its loss;
    None where a data set or an earlier Challenger asked. ``seed`` is what it was to be about, where
    the Challenger was told.

    Example: ``Query("s000003-q05", "sort cba", "stop", prompt_ids, completion)``.
    """

    query_id: str
    text: str
    status: QueryStatus
    prompt_ids: tuple[int, ...] = ()
    completion: Completion | None = None
    seed: str = ""

    @property
    def played(self) -> bool:
        return self.status in ("stop", "dataset")


@dataclass(frozen=True)
class Play:
    """The played queries of a step with everything that is known of their answers.

    Row i of each ``_QG`` tensor belongs to ``queries[i]``. ``reward_details`` is what the reward
    tells beside its number (a part of a sum, say), by name, [Q, G] each. ``quality_QG`` is NaN
    where a self-score could not be read, and all NaN where none was asked for; ``quality_text`` is
    what the judge wrote. ``self_reward_weight`` is the w in force; None where it is to be told by
    the first play, and this one tells nothing. ``invalid`` queries were not played and bear loss
    all the same, each with ``invalid_reward`` and ``invalid_advantage``. ``challenger_baseline``:
    the moving mean that the next play's rewards are compared with, where that is the baseline.
    """

    queries: list[Query]
    answers: list[list[Completion]]
    solver_prompt_ids: list[tuple[int, ...]]
    reward_QG: Tensor
    reward_details: dict[str, Tensor]
    quality_QG: Tensor
    quality_text: list[list[str]]
    solver_reward_QG: Tensor
    solver_advantage_QG: Tensor
    query_value_Q: Tensor
    challenger_reward_Q: Tensor
    challenger_advantage_Q: Tensor
    self_reward_weight: float | None = None
    invalid: Sequence[Query] = ()
    invalid_reward: float = 0.0
    invalid_advantage: float = 0.0
    challenger_baseline: float = 0.0


@dataclass(frozen=True)
class TrainingRow:
    """One (prompt, completion) pair of the loss, with its weights.

    ``policy_weight`` is advantage x token weight x role weight, ``kl_weight`` token weight x
    role weight. Equal pairs of a step are one row that carries their summed weights, which is
    exact for one on-policy update; ``count`` is how many they were. ``rollout_logprobs`` are the
    engine's, to be compared with the trainer's.

    Example: two answers "ab" to one query, advantages 0.5 and 0.5, token weight 1/4:
    ``TrainingRow("solver", prompt, ids, logprobs, policy_weight=0.25, kl_weight=0.5, count=2)``.
    """

    role: Role
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    policy_weight: float
    kl_weight: float
    count: int

    @property
    def key(self) -> RowKey:
        return self.role, self.prompt_ids, self.completion_ids

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def merged_with(self, other: TrainingRow) -> TrainingRow:
        return replace(
            self,
            policy_weight=self.policy_weight + other.policy_weight,
            kl_weight=self.kl_weight + other.kl_weight,
            count=self.count + other.count,
        )


@dataclass(frozen=True)
class MicroBatch:
    """Rows of the loss with each distinct prompt once.

    ``prompt_ids_KP`` are K prompts and ``completion_ids_BT`` the rows' completions, both padded on
    the right with id 0; ``owner_B`` is the prompt of each row. ``completion_mask_BT`` is true at
    completion tokens; ``row_C`` gives the row of each of those C tokens, in row-major order.
    """

    rows: list[TrainingRow]
    prompt_ids_KP: Tensor
    prompt_length_K: Tensor
    owner_B: Tensor
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor
    row_C: Tensor = field(repr=False)

    @property
    def target_C(self) -> Tensor:
        """The completion tokens, row-major."""
        return self.completion_ids_BT[self.completion_mask_BT]

    @property
    def padded_tokens(self) -> int:
        """Positions of the tensors, padding included."""
        return self.prompt_ids_KP.numel() + self.completion_ids_BT.numel()

    @property
    def tokens(self) -> int:
        """Those that are no padding."""
        return int(self.prompt_length_K.sum()) + len(self.row_C)

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(
            self.rows,
            self.prompt_ids_KP.to(device),
            self.prompt_length_K.to(device),
            self.owner_B.to(device),
            self.completion_ids_BT.to(device),
            self.completion_mask_BT.to(device),
            self.row_C.to(device),
        )
