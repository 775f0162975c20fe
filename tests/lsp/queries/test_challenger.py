"""What the Challenger writes becomes a query with a status; only whole ones are played."""

from dataclasses import replace

import pytest

from lsp.queries.challenger import challenger_queries, parse_query
from lsp.types import Completion, DrawKey

TAGS = ("<query>", "</query>")
WRITTEN = [
    Completion((5, 6, 1), (-0.1,) * 3, "<query>copy a</query>", "stop"),
    Completion((5, 6), (-0.1,) * 2, "copy a", "length"),
    Completion((1,), (-0.1,), "  ", "stop"),
    Completion((7, 1), (-0.1,) * 2, "a <query> b", "stop"),
]


class Writes:
    """An engine that writes ``WRITTEN`` and keeps what it was asked for."""

    def generate(self, model, prompts, samples, max_new_tokens, temperature, key):
        self.call = (model, prompts, samples, max_new_tokens, temperature, key)
        return [WRITTEN]


def test_statuses_texts_and_numbers(players):
    engine, key = Writes(), DrawKey(0, 12, "challenger", range(8, 12))
    prompts = replace(players.prompts, template_tags=TAGS)
    rollout = players.config.rollout
    queries = challenger_queries("model", engine, players.chat, prompts, rollout, 4, key)
    (prompt,) = players.chat.encode([prompts.challenger_messages()])
    assert engine.call == ("model", [prompt], 4, rollout.max_query_tokens, 1.0, key)
    assert [(q.query_id, q.text, q.status) for q in queries] == [
        ("s000012-q008", "copy a", "stop"),
        ("s000012-q009", "copy a", "length"),
        ("s000012-q010", "", "empty"),
        ("s000012-q011", "a <query> b", "malformed"),
    ]
    assert [query.played for query in queries] == [True, False, False, False]
    assert [query.completion for query in queries] == WRITTEN
    assert {query.prompt_ids for query in queries} == {tuple(prompt)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<query>\nWrite a haiku.\n</query>\n", ("Write a haiku.", True)),
        ("Write a haiku.", ("Write a haiku.", True)),
        ("<query><query>twice</query>", ("<query>twice", False)),
        ("a </query> b", ("a </query> b", False)),
    ],
)
def test_tags_are_taken_off_the_ends_once(text, expected):
    assert parse_query(text, TAGS) == expected
