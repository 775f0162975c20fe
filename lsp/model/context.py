"""Settings and texts go in, those that fit the model's context (or an error) come out."""

import math
from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedConfig

from lsp.model.chat import ChatFormat
from lsp.settings.config import Config


class Configured(Protocol):
    """A model, or what is known of one without its weights."""

    @property
    def config(self) -> PreTrainedConfig: ...


def check_context(
    model: Configured, chat: ChatFormat, config: Config, queries: Sequence[str]
) -> tuple[list[str], int]:
    """A data set's queries that fit into the model's context with an answer and, where it reads
    them, the judge's prompt; and how many do not. Raises ValueError where none does, or where the
    longest query of a Challenger with its answer, or what the judge reads of them, cannot fit."""
    prompts, rollout, method = config.prompts, config.rollout, config.method
    challenged = method.queries == "challenger"
    (form,) = chat.encode_text([prompts.longest_form()])
    query_tokens = rollout.max_query_tokens + len(form) if challenged else 0
    needed = answer_tokens(chat, config, query_tokens)
    if not method.scores_quality:
        del needed["the judge"]
    if challenged:
        (prompt,) = chat.encode([prompts.longest_challenger_messages()])
        needed = {"the Challenger": len(prompt) + rollout.max_query_tokens, **needed}
        for who, tokens in beyond_context(model, needed).items():
            raise ValueError(
                f"{who} may need {tokens} tokens, its prompt included, and the model's context has"
                f" {context_text(model)}; lower"
                f" rollout.max_query_tokens={rollout.max_query_tokens} or"
                f" rollout.max_new_tokens={rollout.max_new_tokens}"
            )
        return [], 0
    longest = context_of(model) - max(needed.values())
    lengths = [len(ids) for ids in chat.encode_text(queries)]
    fitting = [q for q, n in zip(queries, lengths, strict=True) if n <= longest]
    if not fitting:
        raise ValueError(
            f"no query of the data set fits: the shortest has {min(lengths)} tokens, and beside an"
            f" answer and the prompts the model's context of {context_text(model)} leaves"
            f" {longest}; lower rollout.max_new_tokens={rollout.max_new_tokens}"
        )
    return fitting, len(queries) - len(fitting)


def answer_tokens(chat: ChatFormat, config: Config, query_tokens: int) -> dict[str, int]:
    """The most tokens, prompts included, that Solver and self-judge need for a query of so many."""
    prompts, answered = config.prompts, query_tokens + config.rollout.max_new_tokens
    solver, judge = chat.encode([prompts.solver_messages(""), prompts.judge_messages("", "")])
    judge = judge if config.self_reward.reads_rubric else solver
    return {
        "the Solver": len(solver) + answered,
        "the judge": len(judge) + answered + config.self_reward.written_tokens,
    }


def beyond_context(model: Configured, needed: dict[str, int]) -> dict[str, int]:
    """Those of ``needed`` that exceed the model's context; none where its limit is not known."""
    return {who: n for who, n in needed.items() if n > context_of(model)}


def context_of(model: Configured) -> float:
    """Tokens that it can read at most; infinite where that is not known. Of ``longrope`` those that
    it was first trained on: transformers takes another set of rotary factors for every row of a
    batch where its longest row is longer, and a row would depend on its neighbours. (``dynamic``
    factors change beyond ``max_position_embeddings`` alone.)"""
    limits = [getattr(model.config, "max_position_embeddings", None), _longrope_limit(model)]
    return min((limit for limit in limits if limit), default=math.inf)


def context_text(model: Configured) -> str:
    """``context_of`` for errors, with its reason where that is not the model's own limit."""
    context, own = context_of(model), getattr(model.config, "max_position_embeddings", None)
    if _longrope_limit(model) != context or own == context:
        return str(context)
    return f"{context} (of {own}: beyond, longrope turns all rows of a batch by its longest one)"


def _longrope_limit(model: Configured) -> int | None:
    """Tokens up to which a longrope model takes its short factors; None for other models. The
    settings of rotary embeddings are those of all layers, or by kind of layer."""
    settings = getattr(model.config, "rope_parameters", None) or {}
    by_kind = [settings] if "rope_type" in settings else settings.values()
    longrope = [s for s in by_kind if isinstance(s, dict) and s.get("rope_type") == "longrope"]
    return min((s["original_max_position_embeddings"] for s in longrope), default=None)
