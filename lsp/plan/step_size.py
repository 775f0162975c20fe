"""A config goes in; what one process does in a step comes out, in numbers. The plan's memory and
hours are counted from these."""

import math
from dataclasses import dataclass

from lsp.contracts import OwnModel
from lsp.errors import RunError
from lsp.model.processes import Processes
from lsp.model.shapes import shape_of
from lsp.run.init import resolve_init
from lsp.settings.config import Config, ModelShape
from lsp.settings.gpus import GPUS, NO_GPU, Gpu
from lsp.tools.machine import may_have_gpu

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2}

CHARACTERS_PER_TOKEN = 4
"""In a role prompt in English, whose tokenizer is not at hand: an estimate."""

TEMPLATE_TOKENS = 40
"""Of a chat template around a conversation: Llama 3.2's header with its two dates has 36."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompts, templates included: the Challenger's, the Solver's (a query
    inside), and the self-judge's (query and answer inside)."""

    challenger: int
    solver: int
    judge: int


@dataclass(frozen=True)
class StepSize:
    """``gpus``: processes, each with a GPU of its own; ``queries``, ``answers``: of a step, in one
    of them; ``rewards``: the classifiers in each with their shapes; ``number_bytes``: of a weight;
    ``share``: of the trained weights, on one GPU; ``second_base``: whether the base
    is loaded beside the init, to compare with; ``uncounted``: what is left out, in words."""

    config: Config
    shape: ModelShape
    rewards: tuple[tuple[OwnModel, ModelShape], ...]
    lengths: Lengths
    gpus: int
    queries: int
    answers: int
    number_bytes: int
    share: float
    on_cpu: bool
    second_base: bool
    uncounted: tuple[str, ...]

    @property
    def gpu(self) -> Gpu:
        return GPUS.get(self.config.hardware.gpu, NO_GPU)

    @property
    def trained_rows(self) -> list[tuple[int, int, int, int]]:
        """(rows, distinct prompts, tokens of a prompt, of a completion) of each trained role."""
        rollout, lengths = self.config.rollout, self.lengths
        rows = [(self.answers, self.queries, lengths.solver, rollout.max_new_tokens)]
        if self.config.method.trains_challenger:
            rows.append((self.queries, 1, lengths.challenger, rollout.max_query_tokens))
        return rows

    def rows_at_once(self, prompt: int, new: int) -> int:
        """Rows that the engine decodes in one chunk (``InProcessEngine.generate``)."""
        rollout = self.config.rollout
        return min(rollout.max_rows, max(1, rollout.max_tokens // (prompt + new)))


def is_for_this_cpu(config: Config) -> bool:
    """Whether it is sure that a run computes on this machine's CPU."""
    device = config.runtime.device
    return device == "cpu" or (_may_be_cpu(config) and not may_have_gpu())


def _may_be_cpu(config: Config) -> bool:
    """``auto`` without a named GPU may be a CPU."""
    device = config.runtime.device
    return device == "cpu" or (device == "auto" and config.hardware.gpu is None)


def step_size_of(config: Config, lengths: Lengths | None = None) -> StepSize:
    """``lengths``: where they are known; else estimated. Raises UnknownShape where the policy's
    parameters cannot be counted; another model that cannot be is ``uncounted``."""
    models, engine = config.reward.own_models(), config.rollout.engine
    uncounted = [f"the reward model: {m.unknown}" for m in models if m.shape is None]
    uncounted += config.reward.uncounted()
    if not engine.in_process:
        uncounted.append(f"memory and hours of {type(engine).__name__}, which writes elsewhere")
    try:
        source = resolve_init(config).source
    except RunError:  # not there yet, as the plan's line on init says; the base has the same shape
        source = config.model.name
    from_base = source == config.model.name
    hardware = config.hardware
    gpus = hardware.gpus or Processes.from_environment().size
    queries = math.ceil(config.num_queries / gpus)
    return StepSize(
        config=config,
        shape=shape_of(source, config.model.shape if from_base else None, "model.shape"),
        rewards=tuple((model, model.shape) for model in models if model.shape is not None),
        lengths=lengths or estimated_lengths(config),
        gpus=gpus,
        queries=queries,
        answers=queries * config.group_size,
        number_bytes=BYTES_PER_NUMBER[config.model.dtype],
        share=1 / gpus if hardware.parallel == "fsdp" else 1.0,
        on_cpu=_may_be_cpu(config),
        second_base=config.eval is not None and config.init.source != "base",
        uncounted=tuple(uncounted),
    )


def estimated_lengths(config: Config) -> Lengths:
    """From the prompts' characters and the limits; queries of a data set are taken to be as long as
    the Challenger's may be."""
    prompts = config.prompts
    form = math.ceil(len(prompts.longest_form()) / CHARACTERS_PER_TOKEN)
    query = config.rollout.max_query_tokens + form
    asked = "".join(text for _, text in prompts.longest_challenger_messages())
    judge = "".join(text for _, text in prompts.judge_messages("", ""))
    texts = (asked, prompts.solver, judge)
    challenger, solver, judge = (
        TEMPLATE_TOKENS + math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts
    )
    answered = query + config.rollout.max_new_tokens
    if not config.self_reward.reads_rubric:  # the answer after its query, and after none
        return Lengths(challenger, solver + query, 2 * (solver + answered))
    return Lengths(challenger, solver + query, judge + answered)
