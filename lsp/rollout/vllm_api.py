"""The calls of a vLLM server: rows of token ids and pushes of weights go in, sampled ids with their
log-probabilities come out. Loads neither torch nor vLLM.

    POST /v1/completions                    one row: ids in, ids and processed log-probabilities out
    GET  /v1/models  /metrics  /weight_info who answers, room for keys and values, whose weights
    POST /v1/load_lora_adapter, /v1/unload_lora_adapter                             adapters
    POST /pause -> /collective_rpc -> /reset_prefix_cache -> /update_weight_version -> /resume

A row's request is tried again as a reward's is (lsp/tools/retry.py); a push is tried once, and its
failure is final. Written against vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lsp.tools import http
from lsp.tools.heartbeat import at
from lsp.tools.retry import Quiet, Unanswered, answered

if TYPE_CHECKING:
    import httpx2

    from lsp.rollout.settings import Vllm

Found = TypeVar("Found")
START = "`python -m lsp.serve <the run's settings>` shows how it is to be started"
EXACT = ConfigDict(strict=True)


@dataclass(frozen=True)
class RowRequest:
    """One row to be sampled. ``server``: which of them is asked; ``end_ids`` end it, and are known
    to be below ``vocabulary``; so do ``stop_strings``."""

    server: int
    model: str
    prompt: tuple[int, ...]
    seed: int
    temperature: float
    max_new_tokens: int
    end_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    vocabulary: int

    def body(self) -> dict[str, Any]:
        """What is sent. Everything that a server could take from elsewhere is said: a model's
        generation_config.json may hold top_k and penalties of its own."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "n": 1,
            "seed": self.seed,
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": self.max_new_tokens,
            "logprobs": 0,
            "ignore_eos": True,  # whose id is among the end ids where it ends a turn
            "stop_token_ids": self.end_ids,
            "stop": self.stop_strings,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }


class _Logprobs(TypedDict):
    __pydantic_config__ = EXACT
    token_logprobs: list[FiniteFloat]


class SampledRow(TypedDict):
    """What a server says of one row."""

    __pydantic_config__ = EXACT
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: Literal["stop", "length"]


class _Completion(TypedDict):
    __pydantic_config__ = EXACT
    choices: list[SampledRow]


class _Model(TypedDict):
    __pydantic_config__ = EXACT
    id: str
    max_model_len: int | None  # an adapter has none


class _Models(TypedDict):
    __pydantic_config__ = EXACT
    data: list[_Model]


class _Taken(TypedDict):
    __pydantic_config__ = EXACT
    tensors: int


class _Results(TypedDict):
    __pydantic_config__ = EXACT
    results: list[_Taken]


class _Reset(TypedDict):
    __pydantic_config__ = EXACT
    success: bool


class _Weights(TypedDict):
    __pydantic_config__ = EXACT
    weight_version: str


COMPLETION, MODELS, RESULTS = TypeAdapter(_Completion), TypeAdapter(_Models), TypeAdapter(_Results)
RESET, WEIGHTS = TypeAdapter(_Reset), TypeAdapter(_Weights)


class Servers:
    """Those at ``urls``, asked as ``settings`` say. What fails is a ValueError, for the user."""

    def __init__(self, settings: Vllm, urls: Sequence[str]):
        self.settings, self.urls = settings, urls
        self._quiet = [Quiet() for _ in urls]

    async def check(self, model: str, tokens: int) -> None:
        """Raises ValueError where one is not there, does not serve ``model``, or cannot take a row
        of so many tokens."""
        at("waiting for the vLLM servers")
        await self._each(self._check(url, model, tokens) for url in self.urls)

    async def _check(self, url: str, model: str, tokens: int) -> None:
        answer = await self._json(MODELS, url, "GET", "/v1/models")
        served = {each["id"]: each for each in answer["data"]}
        if model not in served:
            names = ", ".join(http.safe(name) for name in served)
            raise ValueError(f"the server {url} serves {names}, and no {model!r}; {START}")
        if (limit := served[model]["max_model_len"]) is not None and limit < tokens:
            raise ValueError(
                f"the server {url} takes rows of {limit} tokens at most, and a row may have"
                f" {tokens}; start it with a larger --max-model-len; {START}"
            )

    async def rooms(self) -> list[Room | None]:
        """Of each server; None where it does not tell."""
        return await self._each(self._room(url) for url in self.urls)

    async def _room(self, url: str) -> Room | None:
        return room_in(http.text_of(await self._once(url, "GET", "/metrics")))

    async def rows(
        self, requests: Sequence[RowRequest], at_once: Sequence[int]
    ) -> list[SampledRow]:
        """Of all requests, in their order. ``at_once``: of each server."""
        gates = [asyncio.Semaphore(count) for count in at_once]
        clients, done = [self._client(url) for url in self.urls], 0

        async def row(request: RowRequest) -> SampledRow:
            nonlocal done
            async with gates[request.server]:
                written = await self._row(clients[request.server], request)
            done += 1
            at(f"{done} of {len(requests)} rows from the servers")
            return written

        at(f"0 of {len(requests)} rows from the servers")

        try:
            return await self._each(row(request) for request in requests)
        finally:
            for client in clients:
                await client.aclose()

    async def _row(self, client: httpx2.AsyncClient, request: RowRequest) -> SampledRow:
        url, settings = self.urls[request.server], self.settings
        body = json.dumps(request.body())  # escaped to ASCII

        def read(answer: Any) -> SampledRow:
            return checked_row(request, answer)

        try:
            row, _ = await answered(
                lambda: client.post(f"{url}/v1/completions", content=body),
                read,
                settings.max_tries,
                self._quiet[request.server],
            )
        except Unanswered as error:
            if error.refused:
                raise ValueError(f"the server {url} refuses: {error}; {START}") from error
            raise ValueError(
                f"the server {url} gave no row in {settings.max_tries} tries, the last: {error};"
                " see that it runs, start it anew, or raise rollout.engine.timeout_seconds or"
                f" max_tries; {START}"
            ) from error
        return row

    async def take_adapter(self, name: str, folder: str, before: str) -> None:
        """Load the adapter in ``folder`` under a new name into each server, and unload the one
        before it (empty: there is none)."""
        for url in self.urls:
            body = {"lora_name": name, "lora_path": folder}
            await self._once(url, "POST", "/v1/load_lora_adapter", body)
            if before:
                await self._once(url, "POST", "/v1/unload_lora_adapter", {"lora_name": before})

    async def take_weights(self, folder: str, tensors: int, version: str) -> None:
        """Let all servers sample from the ``tensors`` in ``folder``, called ``version`` there."""
        at("giving the vLLM servers the new weights")
        await self._each(self._take(url, folder, tensors, version) for url in self.urls)

    async def _take(self, url: str, folder: str, tensors: int, version: str) -> None:
        await self._once(url, "POST", "/pause?mode=wait")
        call = {"method": "take_weights", "args": [folder]}
        answer = await self._json(RESULTS, url, "POST", "/collective_rpc", call)
        taken = [worker["tensors"] for worker in answer["results"]]
        if not taken or set(taken) != {tensors}:
            raise ValueError(
                f"the server {url} took {taken} tensors of {folder} and not {tensors}: it must see"
                " rollout.engine.folder under the same path"
            )
        # Keys of the old weights would be found again under the same prompts.
        reset = await self._json(RESET, url, "POST", "/reset_prefix_cache")
        if not reset["success"]:
            raise ValueError(f"the server {url} kept the keys and values of its old weights")
        await self._once(url, "POST", "/update_weight_version", {"new_version": version})
        await self._once(url, "POST", "/resume")

    async def require_version(self, version: str) -> None:
        """Raises ValueError where a server has other weights than those that it was given last."""
        for url in self.urls:
            found = (await self._json(WEIGHTS, url, "GET", "/weight_info"))["weight_version"]
            if found != version:
                raise ValueError(
                    f"the server {url} has other weights ({http.safe(found, 40)}) than those that"
                    f" this run gave it ({version}): it was started anew, or another run uses it;"
                    " each run needs servers of its own"
                )

    async def _once(self, url: str, method: str, path: str, body: Any = None) -> bytes:
        """What one call that is not tried again is answered with."""
        content = None if body is None else json.dumps(body)
        async with self._client(url) as client:
            try:
                response = await client.request(method, f"{url}{path}", content=content)
            except http.NoAnswer as error:
                reason = f"gives no answer ({error}); see that it runs; {START}"
                raise ValueError(f"the server {url} {reason}") from error
        if response.status_code != 200:
            reason = http.said(response.status_code, http.text_of(response.content))
            raise ValueError(f"the server {url} refuses {path}: {reason}; {START}")
        return response.content

    async def _json(
        self, adapter: TypeAdapter[Found], url: str, method: str, path: str, body: Any = None
    ) -> Found:
        """``_once``, of a call that is answered by JSON."""
        content = await self._once(url, method, path, body)
        try:
            return _read(adapter, http.read_json(content))
        except (http.NoAnswer, ValueError) as error:
            reason = f"answers {path} with {error}; {START}"
            raise ValueError(f"the server {url} {reason}") from error

    def _client(self, url: str) -> httpx2.AsyncClient:
        headers = {"content-type": "application/json"}
        return http.client(url, self.settings.timeout_seconds, headers)

    async def _each(self, calls: Iterable[Coroutine[Any, Any, Found]]) -> list[Found]:
        """What all of them return; the first that fails ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def _read(adapter: TypeAdapter[Found], answer: Any) -> Found:
    """An answer as it should be. Raises ValueError that says what is wrong with it."""
    try:
        return adapter.validate_python(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{place}: {first['msg']}") from None


def checked_row(request: RowRequest, answer: Any) -> SampledRow:
    """The one row of an answer. Raises ValueError where it is not what was asked for."""
    rows = _read(COMPLETION, answer)["choices"]
    if len(rows) != 1:
        raise ValueError(f"1 row was asked for, and {len(rows)} came")
    row = rows[0]
    ids, logprobs = row["token_ids"], row["logprobs"]["token_logprobs"]
    if tuple(row["prompt_token_ids"]) != request.prompt:
        raise ValueError("the row follows another prompt than the one that was sent")
    if len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} tokens came with {len(logprobs)} log-probabilities")
    if not 1 <= len(ids) <= request.max_new_tokens:
        raise ValueError(f"{len(ids)} tokens came, of 1 to {request.max_new_tokens}")
    if not all(0 <= token < request.vocabulary for token in ids):
        raise ValueError(f"a token came that is none of {request.vocabulary}")
    if max(logprobs) > 1e-3:
        raise ValueError(f"a log-probability of {max(logprobs):g} came")
    ended = ids[-1] in request.end_ids
    if any(token in request.end_ids for token in ids[:-1]):
        raise ValueError("the row goes on after an end token")
    if row["finish_reason"] == "stop" and not (ended or request.stop_strings):
        raise ValueError("the row stopped without an end token")
    if row["finish_reason"] == "length" and (ended or len(ids) < request.max_new_tokens):
        raise ValueError(f"the row was cut after {len(ids)} of {request.max_new_tokens} tokens")
    return row


@dataclass(frozen=True)
class Room:
    """For keys and values: ``tokens`` in all, given out in blocks of ``block``."""

    tokens: int
    block: int

    def rows(self, length: int) -> int:
        """How many rows of this length it holds at once."""
        return self.tokens // (-(-length // self.block) * self.block)


def room_in(metrics: str) -> Room | None:
    """What the page of a server's metrics tells of its room: that of its smallest engine."""
    rooms = []
    for line in re.findall(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="(\d+)"', line))
        if {"kv_cache_size_tokens", "block_size"} <= labels.keys():
            rooms.append(Room(int(labels["kv_cache_size_tokens"]), int(labels["block_size"])))
    return min(rooms, key=lambda room: room.tokens) if rooms else None
