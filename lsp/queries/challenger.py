"""Queries from the Challenger: the model and its prompt go in, a step's queries come out."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from lsp.contracts import Engine
from lsp.model.chat import ChatFormat
from lsp.settings.config import RolloutConfig
from lsp.settings.prompts import Prompts
from lsp.types import DrawKey, Query


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
        text, well_formed = parse_query(completion.text, prompts.template_tags)
        status = "stop" if text else "empty"
        if completion.finish_reason == "length":
            status = "length"
        elif not well_formed:
            status = "malformed"
        query_id = f"s{key.step:06d}-q{key.number(row):03d}"
        queries.append(Query(query_id, text, status, tuple(prompt), completion))
    return queries


def parse_query(text: str, template_tags: Sequence[str]) -> tuple[str, bool]:
    """What the Challenger asks -> (query, whether it is well formed). Tags of the prompt's template
    are taken off once at the two ends; a tag that remains inside makes the query malformed."""
    query = text.strip()
    for tag in template_tags:
        query = query.removeprefix(tag).removesuffix(tag).strip()
    return query, not any(tag in query for tag in template_tags)
