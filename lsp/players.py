"""Everything that plays: the policy in both roles, its reference, the judge, the reward."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsp.batch import pack, pad, row_sums
from lsp.config import Config, RolloutConfig
from lsp.init import Init
from lsp.logprobs import completion_scores
from lsp.lora import add_lora, merge_adapter, shared_copy
from lsp.models import end_token_ids, frozen_copy, load_model
from lsp.offload import on_device
from lsp.prompts import ChatFormat, Prompts
from lsp.queries.challenger import challenger_queries
from lsp.queries.dataset import step_queries
from lsp.rewards.self_reward import SelfJudge
from lsp.rollout.engine import DrawKey, Engine, RolloutEngine
from lsp.sharding import shard_layers
from lsp.types import Completion, Query, TrainingRow
from lsp.world import ALONE, World


@dataclass(frozen=True)
class Players:
    """The policy and what surrounds it. Methods draw with keys made from (seed, step, role).

    ``device``: where models compute, also those that wait elsewhere. ``left_out``: queries of the
    data set that are not in ``dataset``, since they are too long for the context.
    """

    config: Config
    device: torch.device
    policy: PreTrainedModel
    reference: PreTrainedModel
    chat: ChatFormat
    engine: Engine
    judge: SelfJudge
    reward: Any
    dataset: Sequence[str]
    left_out: int
    world: World = ALONE

    @property
    def prompts(self) -> Prompts:
        return self.config.prompts

    def step_queries(self, step: int) -> list[Query]:
        """Line 1 of the algorithm: the N queries of a step, from whoever asks."""
        config = self.config
        if config.method.queries == "dataset":
            texts = step_queries(self.dataset, config.num_queries, config.seed, step - 1)
            return [
                Query(f"s{step:06d}-q{number:03d}", text, "dataset")
                for number, text in enumerate(texts)
            ]
        asks = self.reference if config.method.challenger == "reference" else self.policy
        part = self.world.part(config.num_queries)
        count = part.stop - part.start
        key = DrawKey(config.seed, step, "challenger", range(part.start, part.stop))
        return self.world.gather(self.ask(asks, count, key) if count else [])

    def ask(self, model: PreTrainedModel, count: int, key: DrawKey) -> list[Query]:
        """``count`` queries from a model as Challenger, numbered as ``key`` says."""
        with on_device(model, self.device):
            return challenger_queries(
                model, self.engine, self.chat, self.prompts, self.config.rollout, count, key
            )

    def answers(
        self, prompts: Sequence[Sequence[int]], step: int, first: int = 0
    ) -> list[list[Completion]]:
        """G answers of the policy to each prompt; ``first``: the number of the first prompt among
        the step's."""
        rollout, size = self.config.rollout, self.config.group_size
        rows = range(first * size, (first + len(prompts)) * size)
        return self.engine.generate(
            self.policy,
            prompts,
            size,
            rollout.max_new_tokens,
            rollout.temperature,
            DrawKey(self.config.seed, step, "solver", rows),
        )

    def reference_at_work(self) -> AbstractContextManager[None]:
        """The reference, which is the judge too, is on the device inside."""
        return on_device(self.reference, self.device)

    def qualities(
        self, queries: Sequence[str], answers: Sequence[str], step: int
    ) -> tuple[list[float], list[str]]:
        """The judge's scores and what it wrote, one each for every pair."""
        key = DrawKey(self.config.seed, step, "judge")
        with self.reference_at_work():
            return self.judge.score(queries, answers, key)

    def greedy(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], limit: int
    ) -> list[str]:
        """The likeliest completion of each prompt; a cut one is marked by its missing end."""
        completions = self.engine.generate(model, prompts, 1, limit, 0.0, DrawKey(0, 0, "greedy"))
        return [c.text if c.finish_reason == "stop" else c.text + "…" for (c,) in completions]


@torch.no_grad()
def completion_probability(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
    max_tokens: int,
) -> list[float]:
    """P(text, end token | prompt) at temperature 1, by teacher forcing, one number a text;
    ``max_tokens``: padded tokens a pass."""
    end = chat.tokenizer.eos_token_id
    encoded = chat.encode_text(texts)
    rows = [
        TrainingRow("solver", tuple(prompt), (*ids, end), (), 0.0, 0.0, 1)
        for prompt, ids in zip(prompts, encoded, strict=True)
    ]
    probability = [0.0] * len(rows)
    for chosen in pack(rows, max_tokens):
        batch = pad([rows[i] for i in chosen]).to(model.device)
        scores = completion_scores(model, batch, temperature=1.0)
        for i, value in zip(chosen, row_sums(batch, scores.logprobs_C).tolist(), strict=True):
            probability[i] = math.exp(value)
    return probability


def rollout_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rollout: RolloutConfig
) -> RolloutEngine:
    """The engine that both roles write with."""
    return RolloutEngine(
        tokenizer,
        end_token_ids(model, tokenizer),
        rollout.max_rows,
        rollout.stop,
        rollout.top_p,
        rollout.max_tokens,
    )


def load_players(
    config: Config, init: Init, resumed_from: str | None, world: World = ALONE
) -> Players:
    """Load the models. The reference is exactly the init; the policy is the init (with adapters
    under LoRA), or a checkpoint of this very run where one is resumed."""
    device = choose_device(config.runtime.device, world.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's too
    offload = config.hardware.offload
    if offload:
        check_offload(device)
    model = config.model
    policy, tokenizer = load_init(config, init, device)
    if model.lora.rank:  # a resumed run's adapters come with its optimizer's state
        reference = shared_copy(policy)
        add_lora(policy, model.lora)
    elif resumed_from:
        reference = policy.requires_grad_(False)
        policy = load_model(
            resumed_from, model.dtype, device, trust_remote_code=model.trust_remote_code
        )[0]
    else:
        reference = frozen_copy(policy)
    if offload and not model.lora.rank:  # under LoRA its tensors are the policy's
        reference.to("cpu")
    if config.hardware.parallel == "fsdp" and world.size > 1:
        shard_layers(policy, world)
    chat = ChatFormat(tokenizer, config.model.date_string)
    ends, rollout = end_token_ids(policy, tokenizer), config.rollout
    engine = rollout_engine(policy, tokenizer, rollout)
    judge = SelfJudge(
        reference,
        chat,
        RolloutEngine(tokenizer, ends, rollout.max_rows, max_tokens=rollout.max_tokens),
        config.prompts,
        config.self_reward,
        rollout.temperature,
    )
    check_context(policy, chat, config)
    dataset: Sequence[str] = ()
    left_out = 0
    if config.method.queries == "dataset":
        dataset, left_out = within_context(policy, chat, config, config.data.build())
    reward = config.reward.build(device)
    if offload and hasattr(reward, "offload"):
        reward.offload()
    return Players(
        config, device, policy, reference, chat, engine, judge, reward, dataset, left_out, world
    )


def load_init(
    config: Config, init: Init, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a run starts from; an adapter is merged into the base."""
    model = config.model
    source = model.name if init.is_adapter else init.source
    policy, tokenizer = load_model(
        source, model.dtype, device, model.revision, model.trust_remote_code
    )
    if init.is_adapter:
        merge_adapter(policy, Path(init.source))
    return policy, tokenizer


def load_base(config: Config, init: Init, reference: PreTrainedModel) -> PreTrainedModel:
    """The base to compare with: the reference itself unless the run starts elsewhere."""
    if init.source == config.model.name:
        return reference
    model = config.model
    return load_model(
        model.name, model.dtype, reference.device, model.revision, model.trust_remote_code
    )[0]


def device_name(device: torch.device) -> str:
    """``cpu``, or what the GPU calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_context(model: PreTrainedModel, chat: ChatFormat, config: Config) -> None:
    """Raises ValueError where the longest query with its answer, or what the judge reads of them,
    cannot fit into the model's context."""
    prompts, rollout, method = config.prompts, config.rollout, config.method
    if method.queries == "dataset":
        return
    (challenger,) = chat.encode([prompts.challenger_messages()])
    needed = {
        "the Challenger": len(challenger) + rollout.max_query_tokens,
        **answer_tokens(chat, config, rollout.max_query_tokens),
    }
    if not method.scores_quality:
        del needed["the judge"]
    for who, tokens in beyond_context(model, needed).items():
        raise ValueError(
            f"{who} may need {tokens} tokens, its prompt included, and the model's context has"
            f" {model.config.max_position_embeddings}; lower"
            f" rollout.max_query_tokens={rollout.max_query_tokens} or"
            f" rollout.max_new_tokens={rollout.max_new_tokens}"
        )


def within_context(
    model: PreTrainedModel, chat: ChatFormat, config: Config, queries: Sequence[str]
) -> tuple[list[str], int]:
    """The queries that fit into the model's context with an answer and, where it reads them, the
    judge's prompt; and how many do not. Raises ValueError where none does."""
    needed = answer_tokens(chat, config, 0)
    if not config.method.scores_quality:
        del needed["the judge"]
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return list(queries), 0
    longest = context - max(needed.values())
    lengths = [len(ids) for ids in chat.encode_text(queries)]
    fitting = [q for q, n in zip(queries, lengths, strict=True) if n <= longest]
    if not fitting:
        raise ValueError(
            f"no query of the data set fits: the shortest has {min(lengths)} tokens, and beside an"
            f" answer and the prompts the model's context of {context} leaves {longest}; lower"
            f" rollout.max_new_tokens={config.rollout.max_new_tokens}"
        )
    return fitting, len(queries) - len(fitting)


def answer_tokens(chat: ChatFormat, config: Config, query_tokens: int) -> dict[str, int]:
    """The most tokens, prompts included, that the Solver and the judge need for a query of so
    many."""
    prompts, answered = config.prompts, query_tokens + config.rollout.max_new_tokens
    solver, judge = chat.encode([prompts.solver_messages(""), prompts.judge_messages("", "")])
    written = config.self_reward.max_new_tokens * (config.self_reward.mode == "generate")
    return {
        "the Solver": len(solver) + answered,
        "the judge": len(judge) + answered + written,
    }


def beyond_context(model: PreTrainedModel, needed: dict[str, int]) -> dict[str, int]:
    """Those of ``needed`` that exceed the model's context; none where it has no known limit."""
    context = getattr(model.config, "max_position_embeddings", None)
    return {who: n for who, n in needed.items() if context is not None and n > context}


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: of the GPU's memory on one, else its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def check_offload(device: torch.device) -> None:
    """Raises ValueError where there is no GPU to leave."""
    if device.type == "cpu":
        raise ValueError(
            "hardware.offload=true moves reference and reward model off the GPU between phases, and"
            " this run is on the CPU; choose hardware.offload=false"
        )


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, each of a machine's processes its own. Raises ValueError
    for a cuda that is not there, or is another process's."""
    if name.startswith("cuda:") and local_rank:
        raise ValueError(
            f"runtime.device={name} is one GPU, and each of the run's processes needs its own;"
            " choose runtime.device=cuda"
        )
    if name in ("auto", "cuda") and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU of its own: there are"
                f" {torch.cuda.device_count()}; start as many processes as there are GPUs"
            )
        return torch.device("cuda", local_rank)
    if name == "auto":
        return torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"runtime.device={name}: torch sees no CUDA device; choose cpu or auto")
    return torch.device(name)
