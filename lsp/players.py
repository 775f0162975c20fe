"""Settings and an init go in, everything that plays comes out, loaded."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsp.contracts import BuildContext, Engine, Reward, SelfJudge, build_part
from lsp.model.chat import ChatFormat, take_template
from lsp.model.context import check_context
from lsp.model.device import check_offload, choose_device
from lsp.model.language_model import end_token_ids, frozen_copy, load_model
from lsp.model.lora import add_lora, merge_adapter
from lsp.model.offload import on_device
from lsp.model.processes import ALONE, Processes
from lsp.queries.challenger import challenger_queries
from lsp.queries.dataset import step_queries
from lsp.queries.pool import EarlierChallengers
from lsp.rollout.settings import challenger_engine
from lsp.run.init import Init
from lsp.settings.config import Config
from lsp.settings.prompts import Prompts
from lsp.tools.heartbeat import at
from lsp.types import Completion, DrawKey, Query

TokenRows = Sequence[Sequence[int]]
ModelAndTokenizer = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Players:
    """The policy and what surrounds it. ``device``: where models compute, also those that wait
    elsewhere. ``asking``: the engine that writes queries. ``left_out``: queries of the data set
    that are not in ``dataset``, since they are too long for the context. ``earlier``: who asks
    beside the policy. Methods draw with keys made from (seed, step, role)."""

    config: Config
    device: torch.device
    policy: PreTrainedModel
    reference: PreTrainedModel
    chat: ChatFormat
    engine: Engine
    asking: Engine
    self_judge: SelfJudge
    reward: Reward
    dataset: Sequence[str]
    left_out: int
    processes: Processes = ALONE
    earlier: EarlierChallengers | None = None

    @property
    def prompts(self) -> Prompts:
        return self.config.prompts

    def sync(self, updates: int, processes: Processes | None = None) -> None:
        """Tell the engines that the policy, whose weights are whole now, is the one after so many
        updates. ``processes``: those that call it; None: all of the run's."""
        for engine in dict.fromkeys((self.engine, self.asking)):
            engine.sync(self.policy, updates, processes or self.processes)

    def step_queries(self, step: int) -> list[Query]:
        """Line 1 of the algorithm: the N queries of a step, from whoever asks."""
        config = self.config
        if config.method.queries == "dataset":
            texts = step_queries(self.dataset, config.num_queries, config.seed, step - 1)
            ids = [f"s{step:06d}-q{number:03d}" for number in range(len(texts))]
            return [Query(i, text, "dataset") for i, text in zip(ids, texts, strict=True)]
        model = self.reference if config.method.challenger == "reference" else self.policy
        part = self.processes.part_of(config.num_queries)
        numbers, others = range(part.start, part.stop), range(0)
        if self.earlier is not None:
            share = config.method.earlier_challengers
            own = config.num_queries - round(share * config.num_queries)
            first = max(0, own - part.start)
            numbers, others = numbers[:first], numbers[first:]
        queries = self._asked(model, step, numbers)
        if others:
            asked = self._asked(self.earlier.drawn_for(step, config.seed), step, others)
            queries += [replace(query, completion=None) for query in asked]
        return self.processes.all_gather_lists(queries)

    def _asked(self, model: PreTrainedModel, step: int, numbers: range) -> list[Query]:
        """The queries of a step that have these numbers."""
        key = DrawKey(self.config.seed, step, "challenger", numbers)
        return self.ask(model, len(numbers), key) if numbers else []

    def ask(self, model: PreTrainedModel, count: int, key: DrawKey) -> list[Query]:
        """``count`` queries from a model as Challenger, numbered as ``key`` says."""
        with on_device(model, self.device):
            queries = challenger_queries(
                model, self.asking, self.chat, self.prompts, self.config.rollout, count, key
            )
        if self.config.method.query_gate == "none":
            return queries
        legal = self.config.world.is_legal
        return [
            replace(query, status="illegal") if query.played and not legal(query.text) else query
            for query in queries
        ]

    def answers(self, prompts: TokenRows, step: int, first: int = 0) -> list[list[Completion]]:
        """G answers of the policy to each prompt; ``first``: the number of the first prompt among
        the step's."""
        return self.engine.generate(self.policy, prompts, *self._answering(prompts, step, first))

    def begin_answers(
        self, prompts: TokenRows, step: int, first: int = 0
    ) -> Callable[[], list[list[Completion]]]:
        """The same, begun now and called for later."""
        return self.engine.begin(self.policy, prompts, *self._answering(prompts, step, first))

    def _answering(
        self, prompts: TokenRows, step: int, first: int
    ) -> tuple[int, int, float, DrawKey]:
        """Samples, limit, temperature and key of a step's answers."""
        rollout, size = self.config.rollout, self.config.group_size
        rows = range(first * size, (first + len(prompts)) * size)
        key = DrawKey(self.config.seed, step, "solver", rows)
        return size, rollout.max_new_tokens, rollout.temperature_of("solver"), key

    def reference_at_work(self) -> AbstractContextManager[None]:
        """The reference, which is the judge too, is on the device inside."""
        return on_device(self.reference, self.device)

    def qualities(
        self, queries: Sequence[str], answers: Sequence[str], step: int
    ) -> tuple[list[float], list[str]]:
        """The judge's scores and what it wrote, one each for every pair."""
        key = DrawKey(self.config.seed, step, "judge")
        with self.reference_at_work():
            return self.self_judge.score(queries, answers, key)

    def greedy(self, model: PreTrainedModel, prompts: TokenRows, limit: int) -> list[Completion]:
        """The likeliest completion of each prompt."""
        key = DrawKey(0, 0, "greedy")
        return [one for (one,) in self.engine.generate(model, prompts, 1, limit, 0.0, key)]


def load_players(
    config: Config,
    init: Init,
    checkpoint: Path | None = None,
    processes: Processes = ALONE,
    folder: Path | None = None,
) -> Players:
    """Load the models. The reference is exactly the init; the policy is the init (with adapters
    under LoRA), or a ``checkpoint`` of this very run where one is resumed. ``folder``: the run's,
    whose checkpoints may ask."""
    device = choose_device(config.runtime.device, processes.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's too
    offload, rank = config.hardware.offload, config.model.lora.rank
    if offload:
        check_offload(device)
    at("the policy and its reference")
    policy, tokenizer = _load(config, config.model.name if init.is_adapter else init.source, device)
    if init.is_adapter:
        merge_adapter(policy, Path(init.source))
        take_template(tokenizer, Path(init.source))
    if checkpoint and not rank:  # a resumed run's adapters come with its optimizer's state
        reference = policy.requires_grad_(False)
        policy, _ = _load(config, checkpoint, device)
    else:
        reference = frozen_copy(policy, shared=bool(rank))
    if rank:
        add_lora(policy, config.model.lora)
    elif offload:  # under LoRA its tensors are the policy's
        reference.to("cpu")
    chat = ChatFormat(tokenizer, config.model.date_string, config.model.template_kwargs)
    end_ids = end_token_ids(policy, chat)
    context = BuildContext(config, device, chat=chat, end_ids=end_ids, reference=reference)
    at("the rollout engine")
    engine = build_part(config.rollout.engine, context)
    asking = challenger_engine(context, engine)
    self_judge = build_part(config.self_reward, replace(context, engine=engine))
    at("the data")
    queries = build_part(config.data, context) if config.method.queries == "dataset" else ()
    dataset, left_out = check_context(policy, chat, config, queries)
    at("the reward")
    reward = build_part(config.reward, context)
    if offload:
        reward.offload()
    parts = (chat, engine, asking, self_judge, reward, dataset, left_out)
    earlier = None
    if config.method.earlier_challengers and folder is not None:
        earlier = EarlierChallengers(
            folder / "checkpoints",
            config.checkpoint.every,
            reference,
            lambda path: _load(config, path, device)[0].requires_grad_(False),
        )
    at("")
    return Players(config, device, policy, reference, *parts, processes, earlier)


def load_base(config: Config, init: Init, reference: PreTrainedModel) -> PreTrainedModel:
    """The base to compare with: the reference itself unless the run starts elsewhere."""
    if init.source == config.model.name:
        return reference
    return _load(config, config.model.name, reference.device)[0]


def _load(config: Config, source: str | Path, device: torch.device) -> ModelAndTokenizer:
    model = config.model
    return load_model(source, model.dtype, device, model.revision, model.trust_remote_code)
