"""What the Challenger writes becomes a query with a status; only whole ones are played."""

from dataclasses import replace

import pytest

from lsp.contracts import BuildContext
from lsp.learner import Learner
from lsp.queries.challenger import challenger_prompt, challenger_queries, parse_query
from lsp.rollout.settings import challenger_engine
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


class Fills:
    """An engine that writes one text after every prompt and keeps the prompts."""

    def __init__(self, text):
        self.text = text

    def generate(self, model, prompts, samples, max_new_tokens, temperature, key):
        self.prompts, self.temperature = prompts, temperature
        return [[Completion((5, 1), (-0.1, -0.1), self.text, "stop")] * samples for _ in prompts]


def drawn_prompts(players, tmp_path, **more):
    (tmp_path / "seeds.txt").write_text("cats\ndogs\nowls\nbees\n")
    return replace(
        players.prompts, challenger="ask of {seed}", challenger_opening="{examples}{number}.",
        challenger_shots=2, challenger_examples=tuple("abcdefgh"),
        challenger_seeds=str(tmp_path / "seeds.txt"), **more,
    )  # fmt: skip


def ask(players, prompts, engine, step=1, first=0, count=8):
    key = DrawKey(0, step, "challenger", range(first, first + count))
    rollout = replace(players.config.rollout, query_temperature=0.5)
    return challenger_queries("model", engine, players.chat, prompts, rollout, count, key)


def test_each_query_has_examples_and_a_seed_of_its_own_that_follow_from_its_number(
    players, tmp_path
):
    prompts, engine = drawn_prompts(players, tmp_path), Fills("x")
    queries = ask(players, prompts, engine)
    assert len({tuple(prompt) for prompt in engine.prompts}) == 8
    assert {query.seed for query in queries} <= {"cats", "dogs", "owls", "bees"}
    assert len({query.seed for query in queries}) > 1
    assert [q.prompt_ids for q in queries] == [tuple(p) for p in engine.prompts]
    assert engine.temperature == 0.5
    later = ask(players, prompts, engine, first=4, count=4)  # another process's part
    assert [(q.prompt_ids, q.seed) for q in later] == [(q.prompt_ids, q.seed) for q in queries[4:]]
    other = ask(players, prompts, engine, step=2)
    assert [q.prompt_ids for q in other] != [q.prompt_ids for q in queries]


def test_no_example_is_shown_twice_in_one_prompt(players, tmp_path):
    prompts = drawn_prompts(players, tmp_path)
    for row in range(50):
        messages, _ = challenger_prompt(prompts, DrawKey(3, 1, "challenger"), row)
        first, second, number = messages[-1][1].splitlines()
        assert first[3:] != second[3:] and number == "3."


def test_a_query_is_made_of_what_was_written_and_its_seed(players, tmp_path):
    prompts = drawn_prompts(players, tmp_path, query_form="{written} Mention {seed}.")
    for query in ask(players, prompts, Fills(" Say {seed}. ")):
        assert query.text == f"Say {{seed}}. Mention {query.seed}." and query.played
    assert {query.text for query in ask(players, prompts, Fills("  "))} == {""}


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("Write a poem about the sea.", True),
        ("<query>Write a\nsong about bees.</query>", True),
        ("Write a poem about .", False),  # a placeholder is filled with something
        ("Compose a poem about the sea.", False),
        ("Write {KIND} about {TOPIC}.", True),
    ],
)
def test_a_query_is_its_template_filled_in(text, well_formed):
    assert parse_query(text, TAGS, "Write {KIND} about {TOPIC}.")[1] is well_formed


def test_a_challenger_engine_of_its_own_stops_at_its_strings(players):
    config = replace(players.config, prompts=replace(players.prompts, challenger_stop=(" ",)))
    context = BuildContext(config, chat=players.chat, end_ids=frozenset({1}))
    engine = challenger_engine(context, players.engine)
    (prompt,) = players.chat.encode([players.prompts.challenger_messages()])
    (written,) = engine.generate(players.policy, [prompt], 8, 24, 1.0, DrawKey(0, 1, "challenger"))
    assert all(" " not in completion.text for completion in written)
    assert challenger_engine(replace(context, config=players.config), players.engine) is (
        players.engine
    )


def test_the_opening_bears_no_loss_and_each_role_its_own_temperature(train_in_memory, monkeypatch):
    """Of a query what came after the opening is trained, at the Challenger's temperature."""
    seen = []
    real = Learner._backward

    def watched(learner, batch, *more):
        seen.extend(batch.rows)
        return real(learner, batch, *more)

    monkeypatch.setattr(Learner, "_backward", watched)
    lines, rows = train_in_memory(
        ["num_steps=1", "num_queries=4", "group_size=2", "eval=none", "tracker=none",
         "prompts.challenger_opening='{examples}'", "prompts.challenger_shots=1",
         "prompts.challenger_examples=[sort,copy]", "prompts.challenger_example='{example} '",
         "rollout.query_temperature=0.5"]
    )  # fmt: skip
    asked = [row for row in seen if row.role == "challenger"]
    written = {row["query_id"]: row["query_tokens"] for row in rows}
    assert asked and sum(len(row.completion_ids) * row.count for row in asked) <= sum(
        written.values()
    )
    assert lines[0]["rollout/logprob_mismatch"] < 1e-4  # engine and trainer agree for both roles


def test_words_without_a_placeholder_are_no_frame():
    assert parse_query("anything", TAGS, "a string task") == ("anything", True)


def test_a_frame_is_looked_for_in_time_that_grows_with_the_text():
    """Repetition is what a collapsing Challenger writes; tried place by place it took an hour."""
    frame = "Write a {KIND} about {TOPIC}, {PLACE}, {TIME}, {MOOD}, {END}."
    text = "Write a song about " + "red, " * 20_000
    assert not parse_query(text, TAGS, frame)[1]
    assert parse_query(text + "red.", TAGS, frame)[1]
