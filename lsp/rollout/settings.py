"""Engines that ``rollout.engine`` can name: settings go in, an engine comes out. Loads no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsp.contracts import BuildContext, Engine, EngineSettings, build_part
from lsp.settings.schema import setting, settings
from lsp.tools import http

if TYPE_CHECKING:
    from lsp.rollout.in_process import InProcessEngine
    from lsp.rollout.vllm import VllmEngine
    from lsp.settings.config import Config


@settings
class InProcess(EngineSettings):
    """Generation on the training weights, in the processes that train; ``rollout`` says how."""

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        problems = []
        if config.rollout.urls and not config.resume:
            reason = "decodes in this process and asks no server, and rollout.url names one"
            problems.append((reason, "say rollout.engine=vllm too, or leave rollout.url out"))
        if config.rollout.lag:
            reason = "decodes in this process, so that nothing can be written meanwhile"
            problems.append((reason, "say rollout.engine=vllm too, or rollout.lag=0"))
        return problems

    def check(self, context: BuildContext) -> None:
        check_texts(context)

    def build(self, context: BuildContext) -> InProcessEngine:
        from lsp.rollout.in_process import InProcessEngine

        tokenizer, end_ids, rollout = (
            context.chat.tokenizer,
            context.end_ids,
            context.config.rollout,
        )
        limits = (rollout.max_rows, rollout.stop, rollout.top_p, rollout.max_tokens)
        return InProcessEngine(tokenizer, end_ids, *limits)


@settings
class Vllm(EngineSettings):
    """Generation by the vLLM servers of ``rollout.url``, which get the policy's weights before each
    step (docs/engines.md). ``python -m lsp.serve`` starts one."""

    in_process = False

    concurrency: int = setting("rows at a time at each server, of all processes", ge=1, le=65_536)
    timeout_seconds: float = setting("for all of one request", gt=0, le=86_400)
    max_tries: int = setting("of one row's request, the first included", ge=1, le=100)
    dtype: Literal["float32", "bfloat16"] | None = setting(
        "what the servers compute in; null: model.dtype"
    )
    tolerance: float | None = setting(
        "nats by which the log-probabilities of a server's first rows after each sync may differ"
        " from the trainer's: at most where both compute in float32 (null: 0.001), else on average"
        " (null: 0.2)",
        gt=0,
        le=100,
    )
    folder: str | None = setting(
        "where new weights are laid for the servers, who must see it under the same path (/dev/shm"
        " on one machine, a shared disk on several); null: the system's temporary one"
    )

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        problems = [p for url in config.rollout.urls for p in address_problems(url, "rollout.url")]
        if not config.rollout.urls and not config.resume:
            reason = "does not know its servers"
            problems.append((reason, "say rollout.url=http://127.0.0.1:8000, or [<url>,<url>]"))
        if config.rollout.top_p < 1:
            reason = (
                f"samples from rollout.top_p={config.rollout.top_p:g} of the probability and gives"
                " log-probabilities of that part alone, which are not those of the loss"
            )
            problems.append((reason, "say rollout.top_p=1"))
        if self.folder is not None and not Path(self.folder).is_dir():
            problems.append((f"folder={self.folder} is no folder here", "make it, or choose null"))
        return problems

    def may_change(self) -> Sequence[str]:
        return ("concurrency", "timeout_seconds", "max_tries")

    def warnings(self, config: Config) -> Sequence[str]:
        """Who writes in this process all the same."""
        method, adapters = config.method, config.model.lora.rank > 0
        written = {
            "earlier Challengers": method.earlier_challengers > 0,
            "the reference's queries": method.challenger == "reference" and not adapters,
            "the judge's texts": method.scores_quality
            and config.self_reward.written_tokens > 0
            and not adapters,
            "answers of the base": config.eval is not None
            and not (adapters and config.init.source == "base"),
        }
        warnings = []
        if who := ", ".join(name for name, here in written.items() if here):
            warnings.append(
                f"rollout.engine=vllm: written in this process, by models no server has: {who}"
            )
        if config.rollout.lag and config.rollout_correction == "none":
            warnings.append(
                "rollout.lag=1 with loss.rollout_correction=none: rows of the weights before the"
                " last update are learnt from as if the policy had written them"
            )
        return warnings

    def dtype_in(self, config: Config) -> str:
        """What the servers of a run compute in."""
        return self.dtype or config.model.dtype

    def check(self, context: BuildContext) -> None:
        """Stop strings, and whether each server is there and serves the model that it should."""
        from lsp.rollout.vllm import POLICY, REFERENCE, row_tokens
        from lsp.rollout.vllm_api import Servers

        check_texts(context)
        config = context.config
        name = REFERENCE if config.model.lora.rank else POLICY
        servers = Servers(self, config.rollout.urls)
        asyncio.run(servers.check(name, row_tokens(config, context.chat)))

    def build(self, context: BuildContext) -> VllmEngine:
        from lsp.rollout.vllm import VllmEngine

        own, config = InProcess().build(context), context.config
        adapters, model = config.model.lora.rank > 0, config.model
        whose = (adapters, context.reference, context.engine)
        return VllmEngine(self, own, config.rollout.urls, model.dtype, *whose)


def address_problems(url: str, key: str = "url") -> list[tuple[str, str]]:
    """(reason, way out) of a setting that is to be a vLLM server's address."""
    if url.rstrip("/").endswith("/v1"):
        return [(f"{key}={url} ends in /v1", "leave that out: http://host:port")]
    return http.address_problems(key, url)


def check_texts(context: BuildContext) -> None:
    """Raises ValueError for a stop string that no completion can hold."""
    from lsp.rollout.texts import check_stop_strings

    stop = context.config.rollout.stop + context.config.prompts.challenger_stop
    check_stop_strings(context.chat.tokenizer, stop)


def challenger_engine(context: BuildContext, engine: Engine) -> Engine:
    """One that stops at ``prompts.challenger_stop`` too; ``engine`` itself where that is empty."""
    config = context.config
    if not config.prompts.challenger_stop:
        return engine
    rollout = replace(config.rollout, stop=config.rollout.stop + config.prompts.challenger_stop)
    changed = replace(context, config=replace(config, rollout=rollout), engine=engine)
    own: Engine = build_part(rollout.engine, changed)
    return own


def unrestricted(context: BuildContext) -> BuildContext:
    """The context of an engine that stops at end tokens alone and samples from all tokens: a
    judge's."""
    rollout = replace(context.config.rollout, stop=(), top_p=1.0)
    return replace(context, config=replace(context.config, rollout=rollout))
