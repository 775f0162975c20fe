"""Queries with their answers, as they are read from a trace and chosen for a page."""

import shutil

import pytest

from lsp.paper.world import PaperWorld
from lsp.pocket.world import PocketWorld
from lsp.report.game import COLUMNS, read_index, read_plays, sample, true_quality
from lsp.tools.text import page_json
from lsp.tracking.reader import read_trace
from lsp.tracking.rows import SCHEMA

WORLD = PaperWorld()


def test_what_is_read_of_a_trace_are_its_columns():
    """A misspelt field would be read from no trace."""
    read = {name for names in COLUMNS.values() for name in names}
    assert read <= set(SCHEMA.names) and len(read) == 14


def test_a_step_is_read_by_the_names_of_its_columns(run):
    plays = read_plays(run, 2, PocketWorld())
    trace = read_trace(run, [2])
    assert {query.query_id for query in plays} == {row["query_id"] for row in trace}
    for query in plays:
        own = [row for row in trace if row["query_id"] == query.query_id]
        assert query.query_value == own[0]["query_value"] and query.step == 2
        assert query.challenger_reward == own[0]["challenger_reward"]
        assert query.query_tokens == own[0]["query_tokens"] and query.legal
        assert query.query_quality == pytest.approx(sum(r["quality"] for r in own) / 3)
        by_advantage = sorted(own, key=lambda row: -row["solver_advantage"])
        assert [a.answer for a in query.answers] == list(
            dict.fromkeys(row["answer"] for row in by_advantage)
        )
        texts = [row["answer"] for row in own]
        assert [a.times for a in query.answers] == [texts.count(a.answer) for a in query.answers]
        assert query.right_answer == PocketWorld().right_answer(query.query)


def test_the_world_says_what_is_legal_and_how_good_an_answer_is(run, add_step):
    texts = ["copy ab", "copy ab!", "copy cb"]
    plain = [dict(query_id=f"q{i}", query=text, answer="ab") for i, text in enumerate(texts)]
    cut = dict(query_id="q3", query="copy a", query_finish_reason="length", query_value=None)
    add_step(run, 4, [*plain, cut])
    world = PocketWorld()
    assert read_index(run, world).queries[4] == [
        ("copy ab", True), ("copy ab!", False), ("copy cb", True), ("copy a", False)
    ]  # fmt: skip
    assert [query.legal for query in read_plays(run, 4, world)] == [True, False, True, False]
    rubric = [world.quality(text, "ab") for text in texts]
    step, quality = true_quality(run, world)[-1]
    assert step == 4 and quality == pytest.approx(sum(rubric) / 3)
    assert true_quality(run, WORLD) == []


def test_equal_answers_are_folded(run, add_step):
    rows = [dict(query_id="q0", query="copy ab", answer=text) for text in ("ab", "b", "ab", "ab")]
    add_step(run, 4, [*rows, dict(query_id="q0", query="copy ab", answer="ab", reward=0.25)])
    (query,) = read_plays(run, 4, PocketWorld())
    assert [(a.answer, a.reward, a.times) for a in query.answers] == [
        ("ab", 0.5, 3), ("b", 0.5, 1), ("ab", 0.25, 1)
    ]  # fmt: skip


def test_repeats_are_marked(run, add_step):
    again = read_trace(run, [1])[0]["query"]
    add_step(run, 4, [dict(query_id=f"q{i}", query=again, answer="a") for i in range(3)])
    index = read_index(run, WORLD)
    (first, *_) = read_plays(run, 4, WORLD, index.uses)
    assert (first.same_step, first.first_step) == (3, 1)
    assert index.uses[again][0] >= 4


def test_a_sample_holds_the_best_the_worst_and_the_most_repeated(run, add_step):
    """A run that does not fit: 60 steps of 20 queries of 2,000 characters."""
    shutil.rmtree(run / "trace")
    for step in range(1, 61):
        rows = [
            dict(query_id=f"q{i}", query=f"{step} {i} " + "x" * 2_000, answer="y" * 500,
                 challenger_advantage=(i - 10) / 100 + (step == 7 and i == 3) * 5
                 - (step == 31 and i == 4) * 5)
            for i in range(19)
        ]  # fmt: skip
        rows.append(dict(query_id="q19", query="again " + "z" * 300, answer="a"))
        add_step(run, step, rows)
    index = read_index(run, WORLD)
    for budget in (600_000, 60_000):  # the second one holds nothing but what must be in, cut short
        chosen, whole = sample(run, index, WORLD, budget)
        assert not whole
        queries = [query for plays in chosen.values() for query in plays]
        assert max(q.challenger_advantage for q in queries) == pytest.approx(4.93, abs=0.01)
        assert min(q.challenger_advantage for q in queries) == pytest.approx(-5.06, abs=0.01)
        assert all(any(q.query.startswith("again") for q in p) for p in chosen.values())
        assert (min(chosen), max(chosen)) == (1, 60)
        texts = [t for q in queries for t in (q.query, *(a.answer for a in q.answers))]
        assert budget / 4 < len(page_json(texts)) <= budget


def test_escapes_count(run, add_step):
    """An angle bracket takes six bytes in the page."""
    shutil.rmtree(run / "trace")
    for step in range(1, 21):
        add_step(
            run, step, [dict(query_id="q", query=f"{step} " + "<" * 2_000, answer="&" * 2_000)]
        )
    index = read_index(run, WORLD)
    assert sample(run, index, WORLD, 400_000)[1] is False
    assert sample(run, index, WORLD, 600_000)[1] is True


def test_what_was_not_played_does_not_stand_for_the_worst(run, add_step):
    shutil.rmtree(run / "trace")
    plain = dict(query_id="a", query="best " * 50, answer="x", challenger_advantage=1.0)
    worst = dict(query_id="b", query="worst " * 50, answer="x", challenger_advantage=-1.0)
    unplayed = [
        dict(query_id=f"u{i}", query=f"{i} " * 90, query_finish_reason="length",
             query_value=None, challenger_advantage=None)
        for i in range(20)
    ]  # fmt: skip
    add_step(run, 1, [plain, worst, *unplayed])
    chosen, _ = sample(run, read_index(run, WORLD), WORLD, budget=1_400)
    assert {q.query.split()[0] for q in chosen[1]} >= {"best", "worst"}
