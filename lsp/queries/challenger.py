"""Queries from the Challenger: the model and its prompt go in, a step's queries come out.

Each query may have a prompt of its own: examples that are drawn for it, and a seed (a topic, a
skill, a document) from a file. Both draws are keyed as everything else is, by (seed, step, number).
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedModel

from lsp.contracts import Engine
from lsp.model.chat import ChatFormat
from lsp.settings.config import RolloutConfig
from lsp.settings.prompts import Messages, Prompts, fill
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
    """``count`` queries, numbered as ``key`` says. A query cut at the token limit, an empty one,
    one that does not keep to ``prompts.challenger_template`` and one with a template tag inside get
    a status that says so, and are not played. ``engine`` stops at ``prompts.challenger_stop``."""
    limits = rollout.max_query_tokens, rollout.temperature_of("challenger")
    if prompts.drawn:
        drawn = [challenger_prompt(prompts, key, row) for row in range(count)]
        asked, seeds = zip(*drawn, strict=True)
        encoded = chat.encode(asked)
        written = [one for (one,) in engine.generate(model, encoded, 1, *limits, key)]
    else:  # one prompt, of which an engine computes the states once
        (prompt,) = chat.encode([prompts.challenger_messages()])
        encoded, seeds = [prompt] * count, [""] * count
        (written,) = engine.generate(model, [prompt], count, *limits, key)
    queries = []
    for row, completion in enumerate(written):
        seed = seeds[row]
        text, well_formed = parse_query(
            completion.text, prompts.template_tags, prompts.challenger_template
        )
        status = "stop" if text else "empty"
        if completion.finish_reason == "length":
            status = "length"
        elif not well_formed:
            status = "malformed"
        if text:
            text = fill(prompts.query_form, {"written": text, "seed": seed})
        query_id = f"s{key.step:06d}-q{key.number(row):03d}"
        queries.append(Query(query_id, text, status, tuple(encoded[row]), completion, seed))
    return queries


def challenger_prompt(prompts: Prompts, key: DrawKey, row: int) -> tuple[Messages, str]:
    """What the Challenger is asked for one query, and the query's seed (empty: there are none)."""
    seeds = prompts.seeds()
    own = DrawKey(key.seed, key.step, f"{key.role}'s prompt", key.rows)
    uniforms = own.uniforms(row, 1 + prompts.challenger_shots).tolist()
    seed = seeds[int(uniforms[0] * len(seeds))] if seeds else ""
    pool, chosen = list(prompts.challenger_examples), []
    for uniform in uniforms[1:]:
        chosen.append(pool.pop(int(uniform * len(pool))))
    return prompts.challenger_messages(seed, chosen), seed


def parse_query(text: str, template_tags: Sequence[str], template: str = "") -> tuple[str, bool]:
    """What the Challenger asks -> (query, whether it is well formed). Tags of the prompt's template
    are taken off once at the two ends; a tag that remains inside makes the query malformed, and so
    does text that is not the template with its {placeholders} filled."""
    query = text.strip()
    for tag in template_tags:
        query = query.removeprefix(tag).removesuffix(tag).strip()
    tagged = any(tag in query for tag in template_tags)
    return query, not tagged and is_filled(template, query)


def is_filled(template: str, text: str) -> bool:
    """Whether a text is the template with its ``{placeholders}`` filled, each with something. What
    has no placeholder is words for the Challenger, not a frame. Linear in the text's length."""
    first, *others = re.split(r"\{\w+\}", template.strip())
    if not others:
        return True
    if not text.startswith(first):
        return False
    place = len(first)
    for fixed in others[:-1]:
        place = text.find(fixed, place + 1)
        if place < 0:
            return False
        place += len(fixed)
    return text.endswith(others[-1]) and place + 1 + len(others[-1]) <= len(text)
