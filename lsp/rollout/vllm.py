"""Generation by vLLM servers: prompts and a key go in, completions come out; weights go before.

Servers hold the policy alone: all of its weights, or under LoRA its adapters beside the reference,
which is then their base. Who else is asked (an earlier Challenger, an evaluation's base) writes in
this process. A row is one request with a seed of its own, so it is the same whatever stands beside
it. No push is believed: the first rows of each server after one are scored by the trainer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lsp.batch import pad
from lsp.contracts import Engine, Processes
from lsp.model.chat import ChatFormat
from lsp.model.context import answer_tokens
from lsp.model.logprobs import completion_scores
from lsp.model.lora import ADAPTER
from lsp.rollout.in_process import InProcessEngine
from lsp.rollout.texts import completion_texts
from lsp.rollout.vllm_api import START, Room, RowRequest, SampledRow, Servers
from lsp.settings.config import Config
from lsp.types import Completion, DrawKey, TrainingRow

if TYPE_CHECKING:
    from lsp.rollout.settings import Vllm

Answer = TypeVar("Answer")
POLICY, REFERENCE = "policy", "reference"
"""Names under which servers serve what they were started with: the policy, or under LoRA what its
adapters lie beside."""
COMPARED = 4
"""Rows of each server that the trainer scores after a sync: the least likely of the first ones that
it is asked for, since rows that the policy was sure of before and after tell nothing."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
"""Nats. Measured with vLLM 0.32: in float32 at most 4e-5; in bfloat16 .044 on average, where single
tokens reach .5, so there it is the mean that is held to it. A head that was left behind was .58 off
at most, a prompt's old keys 1.1."""


@dataclass
class Held:
    """What a run's servers hold, for all of its engines. ``version`` names the policy's weights
    after ``updates`` there; ``compared``: (model, server) whose rows were scored since; ``begun``:
    rows that were asked for and may not be here yet; ``asking`` is held by who asks for some."""

    policy: PreTrainedModel | None = None
    updates: int = -1
    version: str = ""
    processes: int = 1
    adapter: TemporaryDirectory[str] | None = None
    rooms: list[Room | None] | None = None
    compared: set[tuple[str, int]] = field(default_factory=set)
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    begun: list[Future[list[SampledRow]]] = field(default_factory=list)
    asking: threading.Lock = field(default_factory=threading.Lock)


class VllmEngine(Engine):
    """Samples completions at the servers of ``urls``. ``own`` is the engine for models that they do
    not hold, which stops where this one does; ``dtype`` is that of the models here. ``adapters``:
    the policy's travel, and the servers hold the ``reference`` beside them. ``first``: the engine
    that knows the same servers."""

    def __init__(
        self,
        settings: Vllm,
        own: InProcessEngine,
        urls: Sequence[str],
        dtype: str,
        adapters: bool = False,
        reference: PreTrainedModel | None = None,
        first: Engine | None = None,
    ):
        self.settings, self.own = settings, own
        self.servers = Servers(settings, urls)
        self.adapters, self.reference = adapters, reference
        self.exact = {settings.dtype or dtype, dtype} == {"float32"}
        self.tolerance = settings.tolerance or TOLERANCE["float32" if self.exact else "bfloat16"]
        self.held = first.held if isinstance(first, VllmEngine) else Held()

    def sync(self, policy: PreTrainedModel, updates: int, processes: Processes) -> None:
        held = self.held
        wait(held.begun)  # they are of the weights before; who asked for them sees what failed
        held.begun.clear()
        held.policy, held.processes = policy, processes.size
        if processes.is_first and held.updates != updates:
            version = f"{held.run}-{updates}"
            self._push_adapter(policy, version) if self.adapters else self._push(policy, version)
            held.version = version
        held.version = processes.broadcast(held.version)  # all wait for the push here
        if held.updates != updates:
            held.updates, held.compared = updates, set()

    def _push(self, policy: PreTrainedModel, version: str) -> None:
        """All weights, through a folder that is there for as long as the servers read it."""
        # Tied weights are one parameter, under one name.
        weights = {name: p.detach().contiguous() for name, p in policy.named_parameters()}
        with TemporaryDirectory(prefix="lsp-weights-", dir=self.settings.folder) as folder:
            save(weights, Path(folder) / "model.safetensors")
            asyncio.run(self.servers.take_weights(folder, len(weights), version))

    def _push_adapter(self, policy: PreTrainedModel, version: str) -> None:
        """The adapters, as peft writes them: under a new name in a new folder, since vLLM knows
        them by both, and reads them again where it has put them aside."""
        held = self.held
        folder = TemporaryDirectory(prefix="lsp-adapter-", dir=self.settings.folder)
        save_adapter(policy, Path(folder.name))
        before = f"{POLICY}-{held.version}" if held.version else ""
        asyncio.run(self.servers.take_adapter(f"{POLICY}-{version}", folder.name, before))
        held.adapter = folder  # the one before it is removed, and this one with the engine

    def name_of(self, model: PreTrainedModel) -> str:
        """Under which name the servers have a model; empty: under none."""
        if self.held.policy is None:
            return ""  # nobody has said who the policy is: no run, but a look at one
        if model is self.held.policy:
            return f"{POLICY}-{self.held.version}" if self.adapters else POLICY
        return REFERENCE if self.adapters and model is self.reference else ""

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[list[Completion]]:
        """See ``Engine.generate``; log-probabilities at temperature 0 are those of the plain
        logits."""
        if not self.name_of(model) or not prompts:
            return self.own.generate(model, prompts, samples, max_new_tokens, temperature, key)
        requests = self._requests(model, prompts, samples, max_new_tokens, temperature, key)
        rows = self._rows(requests)
        self._compare(model, requests, rows)
        return self._completions(requests, rows, samples)

    def begin(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> Callable[[], list[list[Completion]]]:
        """See ``Engine.begin``. What is to be compared with the model as it is now is waited for
        here; the others come in a thread of their own, which touches neither model nor text."""
        if not self.name_of(model) or not prompts:
            return super().begin(model, prompts, samples, max_new_tokens, temperature, key)
        requests = self._requests(model, prompts, samples, max_new_tokens, temperature, key)
        first = self._to_compare(requests)
        known = dict(zip(first, self._rows([requests[i] for i in first]), strict=True))
        self._compare(model, [requests[i] for i in first], list(known.values()))
        later = [i for i in range(len(requests)) if i not in known]
        rows = in_background(lambda: self._rows([requests[i] for i in later]))
        self.held.begun.append(rows)

        def completions() -> list[list[Completion]]:
            known.update(zip(later, rows.result(), strict=True))
            return self._completions(requests, [known[i] for i in range(len(requests))], samples)

        return completions

    def _requests(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_new_tokens: int,
        temperature: float,
        key: DrawKey,
    ) -> list[RowRequest]:
        own = self.own
        return [
            RowRequest(
                server=key.number(row) % len(self.servers.urls),
                model=self.name_of(model),
                prompt=tuple(prompt),
                seed=seed_of(key, row),
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                end_ids=tuple(own.stop_ids.tolist()),
                stop_strings=own.stop_strings,
                vocabulary=model.config.vocab_size,
            )
            for row, prompt in enumerate(p for p in prompts for _ in range(samples))
        ]

    def _completions(
        self, requests: Sequence[RowRequest], rows: Sequence[SampledRow], samples: int
    ) -> list[list[Completion]]:
        own = self.own
        ids = [tuple(row["token_ids"]) for row in rows]
        texts = completion_texts(own.tokenizer, ids, set(requests[0].end_ids), own.stop_strings)
        written = [
            Completion(one, tuple(row["logprobs"]["token_logprobs"]), text, row["finish_reason"])
            for one, row, text in zip(ids, rows, texts, strict=True)
        ]
        return [written[i : i + samples] for i in range(0, len(written), samples)]

    def _rows(self, requests: Sequence[RowRequest]) -> list[SampledRow]:
        """What servers have room for is counted for one call at a time."""
        if not requests:
            return []
        with self.held.asking:
            return asyncio.run(self._asked(requests))

    async def _asked(self, requests: Sequence[RowRequest]) -> list[SampledRow]:
        held, servers = self.held, self.servers
        if held.rooms is None:
            held.rooms = await servers.rooms()
        longest = max(len(request.prompt) + request.max_new_tokens for request in requests)
        places = zip(servers.urls, held.rooms, strict=True)
        at_once = [self._at_once(url, room, longest) for url, room in places]
        rows = await servers.rows(requests, at_once)
        if not self.adapters:
            await servers.require_version(held.version)
        return rows

    def _at_once(self, url: str, room: Room | None, longest: int) -> int:
        """Rows that this process has at one server: no more than its keys and values have room for,
        since a row that has to make room ends vLLM on a CPU where it has a seed."""
        allowed = self.settings.concurrency
        if room is not None:
            if not (fitting := room.rows(longest)):
                raise ValueError(
                    f"the server {url} has room for keys and values of {room.tokens} tokens, and a"
                    f" row may have {longest}; start it with more (--kv-cache-memory-bytes)"
                )
            allowed = min(allowed, fitting)
        return max(1, allowed // self.held.processes)

    def _to_compare(self, requests: Sequence[RowRequest]) -> list[int]:
        """Numbers of the first rows of each server that has not been compared since the last
        sync."""
        numbers: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            if (request.model, request.server) not in self.held.compared:
                numbers.setdefault(request.server, []).append(i)
        return sorted(i for each in numbers.values() for i in each[: 2 * COMPARED])

    def _compare(
        self, model: PreTrainedModel, requests: Sequence[RowRequest], rows: Sequence[SampledRow]
    ) -> None:
        """Score some rows of each server that has not been compared since the last sync.
        Raises ValueError where it samples from something else than ``model``."""
        name = self.name_of(model)
        for server, url in enumerate(self.servers.urls):
            written = [i for i, request in enumerate(requests) if request.server == server]
            if not written or (name, server) in self.held.compared:
                continue
            chosen = sorted(written, key=lambda i: sum(rows[i]["logprobs"]["token_logprobs"]))
            difference = self._difference(model, requests, rows, chosen[:COMPARED])
            kind = "at most" if self.exact else "on average"
            if not difference <= self.tolerance:
                raise ValueError(
                    f"the server {url} does not sample from this run's weights: log-probabilities"
                    f" of its rows as {name} are {difference:.2g} nats {kind} from the trainer's,"
                    f" where {self.tolerance:g} is rounding (rollout.engine.tolerance). A push did"
                    " not arrive whole, or the server was started with another model or other"
                    f" settings; {START}"
                )
            self.held.compared.add((name, server))

    @torch.no_grad()
    def _difference(
        self,
        model: PreTrainedModel,
        requests: Sequence[RowRequest],
        rows: Sequence[SampledRow],
        chosen: Sequence[int],
    ) -> float:
        """Nats between server and trainer over the tokens of the ``chosen`` rows: the largest where
        both compute in float32, else the mean."""
        scored = [
            TrainingRow("solver", requests[i].prompt, tuple(rows[i]["token_ids"]), (), 0.0, 0.0, 1)
            for i in chosen
        ]
        batch = pad(scored).to(model.device)
        ours = completion_scores(model, batch, requests[0].temperature or 1.0).logprobs_C.cpu()
        theirs = torch.tensor([x for i in chosen for x in rows[i]["logprobs"]["token_logprobs"]])
        apart = (ours - theirs).abs()
        return float(apart.max() if self.exact else apart.mean())


def in_background(work: Callable[[], Answer]) -> Future[Answer]:
    """What ``work`` returns or raises, by a thread that no end of the process waits for."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rows asked ahead").start()
    return future


def seed_of(key: DrawKey, row: int) -> int:
    """A row's seed, 63 bits: vLLM takes -1 for none. Of neighbouring rows, steps and seeds they
    have nothing in common."""
    text = json.dumps([key.seed, key.step, key.role, key.number(row)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises OSError where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:  # how a full disk shows itself there
        raise OSError(str(error)) from error


def save_adapter(policy: PreTrainedModel, folder: Path) -> None:
    """The policy's adapters in a folder, as peft's ``save_pretrained`` lays them out."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, Tensor] = get_peft_model_state_dict(policy, adapter_name=ADAPTER)
    named = {f"base_model.model.{n}": t.detach().contiguous() for n, t in tensors.items()}
    save(named, folder / "adapter_model.safetensors")
    policy.peft_config[ADAPTER].save_pretrained(str(folder))


def row_tokens(config: Config, chat: ChatFormat, queries: Sequence[str] = ()) -> int:
    """Tokens of the longest row that the servers of a run are asked for, its prompt included.
    ``queries``: those of a data set."""
    prompts, rollout = config.prompts, config.rollout
    (form,) = chat.encode_text([prompts.longest_form()])
    query = max(map(len, chat.encode_text(queries)), default=rollout.max_query_tokens + len(form))
    needed = answer_tokens(chat, config, query)
    if not (config.method.scores_quality and config.self_reward.written_tokens):
        del needed["the judge"]  # which reads in this process
    if config.method.queries == "challenger":
        (asked,) = chat.encode([prompts.longest_challenger_messages()])
        needed["the Challenger"] = len(asked) + rollout.max_query_tokens
    return max(needed.values())
