"""The pocket language: enumeration, right answers, verifier, rubric, splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.contracts import BuildContext
from lsp.pocket.language import (
    FAMILIES,
    evaluation_queries,
    form_rubric,
    legal_queries,
    parse,
    split,
    verify,
)
from lsp.pocket.queries import PocketQueries


def test_right_answers():
    assert {f: FAMILIES[f]("acab") for f in FAMILIES} == {
        "copy": "acab",
        "upper": "ACAB",
        "reverse": "baca",
        "sort": "aabc",
        "rotate": "caba",
        "swap": "babc",
        "count": "4",
        "last": "b",
    }


def test_all_legal_queries_are_enumerated_once():
    queries = [task.query for task in legal_queries()]
    assert len(queries) == len(set(queries)) == 8 * sum(3**n for n in range(1, 9)) == 78_720
    assert all(parse(query).query == query for query in queries[::97])


@pytest.mark.parametrize(
    "query",
    ["", "copy", "copy ", " copy a", "copy  a", "copy a ", "copy abcabcabc", "copy abd", "copyo a",
     "copy A", "copya", "copy a b", "COPY a"],
)  # fmt: skip
def test_what_is_not_legal_has_no_task_and_scores_lowest(query):
    assert parse(query) is None
    assert verify(query, "a") == 0.0


def test_partial_credit_is_the_share_of_right_positions():
    assert verify("reverse abc", "cba") == 1.0
    assert verify("reverse abc", "cbb") == pytest.approx(2 / 3)
    assert verify("reverse abc", "cbabb") == pytest.approx(3 / 5)
    assert verify("reverse abc", "") == 0.0
    assert verify("reverse abc", "cbb", "exact") == 0.0
    with pytest.raises(ValueError, match="'partial' or 'exact'"):
        verify("copy a", "a", "half")


@given(st.sampled_from(sorted(FAMILIES)), st.text("abc", min_size=1, max_size=8), st.text())
def test_only_the_right_answer_gets_full_reward(family, argument, answer):
    right = FAMILIES[family](argument)
    reward = verify(f"{family} {argument}", answer)
    assert 0.0 <= reward <= 1.0
    assert (reward == 1.0) == (answer == right)


@pytest.mark.parametrize(
    ("query", "answer", "score"),
    [
        ("copy abc", "abc", 7),
        ("reverse abc", "abc", 7),  # wrong but well formed: the rubric looks at form alone
        ("upper abc", "abc", 5),  # not the capitals asked for, nor letters of the argument's
        ("copy abc", "abca", 5),  # too long, twice over
        ("copy aab", "aac", 6),  # a letter that is not in the argument
        ("count abc", "3", 7),
        ("count abc", "12", 6),  # two digits, where one is asked for
        ("swap aaa", "bbb", 7),
        ("copy abc", "", 2),
        ("copyo abc", "abc", 1),  # not identified, not legal, but readable
        ("copy abcx", "abc", 2),
        ("copy abcx", "?", 1),
        ("", "", 0),
    ],
)
def test_form_rubric_by_hand(query, answer, score):
    assert form_rubric(query, answer) == score


@given(st.text(), st.text())
def test_form_rubric_is_total(query, answer):
    assert form_rubric(query, answer) in range(8)


def test_splits_are_disjoint_and_large_enough():
    dev = {task.query for task in evaluation_queries("dev", 25)}
    test = {task.query for task in evaluation_queries("test", 60)}
    train = set(PocketQueries(per_cell=200, max_length=8).build(BuildContext(None)))
    assert len(test) >= 2000 and len(dev) >= 800 and len(train) > 5000
    assert not (dev & test or dev & train or test & train)
    assert {split(task) for task in legal_queries()} == {"dev", "test", "train"}
    cells = {(task.family, len(task.argument)) for task in evaluation_queries("test", 60)}
    assert {length for _, length in cells} == set(range(1, 9))
    with pytest.raises(ValueError, match="'dev' or 'test'"):
        evaluation_queries("train", 1)
