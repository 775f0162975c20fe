"""What a config asks one GPU to do, in numbers: the ground of the plan's memory and hours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lsp.contracts import OwnModel
from lsp.errors import RunError
from lsp.model.processes import Processes
from lsp.model.shapes import shape_of
from lsp.run.init import resolve_init
from lsp.settings.config import Config, ModelShape

WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""

CHARACTERS_PER_TOKEN = 4
"""Of a role prompt in English, whose tokenizer is not at hand: an estimate."""

TEMPLATE_TOKENS = 40
"""Of a chat template around a conversation: Llama 3.2's header with its two dates has 36."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompts, templates included: the Challenger's, the Solver's (a query
    inside), and the judge's (query and answer inside)."""

    challenger: int
    solver: int
    judge: int


@dataclass(frozen=True)
class Job:
    """``gpus``: processes, each with a GPU of its own; ``queries``: of a step, on one of them;
    ``rewards``: the classifiers in each with their shapes; ``missing``: what is not counted, and
    why. ``second_base``: the base is loaded beside the init, to compare with."""

    config: Config
    shape: ModelShape
    rewards: tuple[tuple[OwnModel, ModelShape], ...]
    lengths: Lengths
    missing: tuple[str, ...]
    second_base: bool
    gpus: int

    @property
    def width(self) -> int:
        return WIDTH[self.config.model.dtype]

    @property
    def on_cpu(self) -> bool:
        """A device of ``auto`` without a named card may be a CPU, which packs weights."""
        device = self.config.runtime.device
        return device == "cpu" or (device == "auto" and self.config.hardware.gpu is None)

    @property
    def queries(self) -> int:
        return math.ceil(self.config.num_queries / self.gpus)

    @property
    def answers(self) -> int:
        return self.queries * self.config.group_size

    def rows_at_once(self, prompt: int, new: int) -> int:
        """Rows that the engine decodes in one chunk (``InProcessEngine.generate``)."""
        rollout = self.config.rollout
        return min(rollout.max_rows, max(1, rollout.max_tokens // (prompt + new)))


def job_of(config: Config, lengths: Lengths | None = None) -> Job:
    """Raises UnknownShape where the policy's parameters cannot be counted; a reward model that
    cannot be is ``missing``. ``lengths``: where they are known; else estimated."""
    missing, rewards = [], []
    for model in config.reward.own_models():
        if model.shape is None:
            missing.append(f"the reward model: {model.unknown}")
        else:
            rewards.append((model, model.shape))
    missing += config.reward.uncounted()
    source = _source(config)
    from_base = source == config.model.name
    return Job(
        config,
        shape_of(source, config.model.shape if from_base else None, "model.shape"),
        tuple(rewards),
        lengths or estimated_lengths(config),
        tuple(missing),
        config.eval is not None and config.init.source != "base",
        config.hardware.gpus or Processes.from_environment().size,
    )


def _source(config: Config) -> str:
    """What the run starts from, or its base, of the same shape, where that is not there yet (which
    the plan's line on init names)."""
    try:
        return resolve_init(config).source
    except RunError:
        return config.model.name


def estimated_lengths(config: Config) -> Lengths:
    """From the prompts' characters and the limits; queries of a data set are taken to be as long as
    the Challenger's may be."""
    prompts, rollout = config.prompts, config.rollout

    def tokens(text: str) -> int:
        return TEMPLATE_TOKENS + math.ceil(len(text) / CHARACTERS_PER_TOKEN)

    solver = tokens(prompts.solver) + rollout.max_query_tokens
    return Lengths(
        challenger=tokens(prompts.challenger_messages()[0][1]),
        solver=solver,
        judge=tokens(prompts.judge) + rollout.max_query_tokens + rollout.max_new_tokens,
    )
