"""Engines that ``rollout.engine`` can name: settings go in, an engine comes out. Loads no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lsp.contracts import BuildContext, Engine, EngineSettings, build_part
from lsp.settings.schema import settings

if TYPE_CHECKING:
    from lsp.rollout.in_process import InProcessEngine


@settings
class InProcess(EngineSettings):
    """Generation on the training weights, in the processes that train; ``rollout`` says how."""

    def check(self, context: BuildContext) -> None:
        from lsp.rollout.in_process import check_stop_strings

        stop = context.config.rollout.stop + context.config.prompts.challenger_stop
        check_stop_strings(context.chat.tokenizer, stop)

    def build(self, context: BuildContext) -> InProcessEngine:
        from lsp.rollout.in_process import InProcessEngine

        tokenizer, end_ids, rollout = (
            context.chat.tokenizer,
            context.end_ids,
            context.config.rollout,
        )
        limits = (rollout.max_rows, rollout.stop, rollout.top_p, rollout.max_tokens)
        return InProcessEngine(tokenizer, end_ids, *limits)


def challenger_engine(context: BuildContext, engine: Engine) -> Engine:
    """One that stops at ``prompts.challenger_stop`` too; ``engine`` itself where that is empty."""
    config = context.config
    if not config.prompts.challenger_stop:
        return engine
    rollout = replace(config.rollout, stop=config.rollout.stop + config.prompts.challenger_stop)
    own: Engine = build_part(
        rollout.engine, replace(context, config=replace(config, rollout=rollout))
    )
    return own


def unrestricted(context: BuildContext) -> BuildContext:
    """The context of an engine that stops at end tokens alone and samples from all tokens: a
    judge's."""
    rollout = replace(context.config.rollout, stop=(), top_p=1.0)
    return replace(context, config=replace(context.config, rollout=rollout))
