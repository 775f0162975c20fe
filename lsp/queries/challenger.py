"""Queries from the Challenger: the model itself, under its prompt."""

from __future__ import annotations

from transformers import PreTrainedModel

from lsp.config import RolloutConfig
from lsp.prompts import ChatFormat, Prompts, parse_query
from lsp.rollout.engine import DrawKey, Engine
from lsp.types import Query


def challenger_queries(
    model: PreTrainedModel,
    engine: Engine,
    chat: ChatFormat,
    prompts: Prompts,
    rollout: RolloutConfig,
    count: int,
    key: DrawKey,
) -> list[Query]:
    """``count`` queries, all from one prompt, numbered as ``key`` says. A query cut at the
    token limit, an empty one and one with a template tag inside get a status that says so, and are
    not played."""
    (prompt,) = chat.encode([prompts.challenger_messages()])
    (completions,) = engine.generate(
        model, [prompt], count, rollout.max_query_tokens, rollout.temperature, key
    )
    queries = []
    for row, completion in enumerate(completions):
        text, valid = parse_query(completion.text, prompts.template_tags)
        if completion.finish_reason == "length":
            status = "length"
        elif not valid:
            status = "invalid"
        else:
            status = "stop" if text else "empty"
        query_id = f"s{key.step:06d}-q{key.number(row):03d}"
        queries.append(Query(query_id, text, status, tuple(prompt), completion))
    return queries
