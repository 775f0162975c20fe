"""How much a step's queries repeat each other, on token lists worked by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.queries.diversity import bleu, cluster_shares, novelty, repetition


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 1.0),
        ([7], [7], 1.0),
        # Orders 1 to 3 match 3 of 4, 2 of 3, 1 of 2; of order 4 none: .1 of 1.
        ([1, 2, 3, 4], [1, 2, 3, 5], (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** (1 / 4)),
        # Nothing matches: .1 of 2 and of 1, two orders.
        ([1, 2], [3, 4], (0.1 / 2 * 0.1 / 1) ** (1 / 2)),
        # All of it matches, and it is half as long: e^(1 - 4/2).
        ([1, 2], [1, 2, 3, 4], math.exp(-1)),
        # Longer than the reference, no brevity penalty: 2 of 4 and 1 of 3.
        ([1, 2, 3, 4], [1, 2], (2 / 4 * 1 / 3) ** (1 / 2)),
        # A token matches as often as the reference has it.
        ([1, 1, 1], [1], 1 / 3),
        ([], [], 1.0),
        ([], [1], 0.0),
        ([1], [], 0.0),
    ],
)
def test_bleu_by_hand(candidate, reference, expected):
    assert bleu(candidate, reference) == pytest.approx(expected)


def test_of_fewer_orders_only_these_are_counted():
    assert bleu([1, 2, 3, 4], [1, 2, 3, 5], orders=2) == pytest.approx((3 / 4 * 2 / 3) ** 0.5)


def test_two_equal_queries_and_another_have_two_thirds_and_one():
    assert cluster_shares([[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]]) == [2 / 3, 2 / 3, 1 / 3]


def test_queries_are_joined_up_to_a_distance_of_half():
    # BLEU (5/6 4/5 3/4 2/3)^(1/4) = .76, and .40 for the shorter ones: distances .24 and .60.
    assert cluster_shares([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]]) == [1.0, 1.0]
    assert cluster_shares([[1, 2, 3, 4], [1, 2, 3, 5]]) == [0.5, 0.5]


def test_one_query_alone_is_all_of_the_step():
    assert (cluster_shares([[1, 2]]), cluster_shares([])) == ([1.0], [])
    assert (novelty([[1, 2]]), novelty([])) == ([1.0], [])


def test_which_of_two_equal_distances_is_joined_depends_on_no_order():
    """``b`` is .33 from both others, which are .73 apart, .53 from a pair on the average: two of
    three are joined, and the same two wherever they stand."""
    texts = {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 6], "c": [7, 2, 3, 4, 6]}
    for names in itertools.permutations("abc"):
        shares = dict(zip(names, cluster_shares([texts[name] for name in names]), strict=True))
        assert shares == {"a": 2 / 3, "b": 2 / 3, "c": 1 / 3}


def test_novelty_is_one_minus_the_likeness_to_the_most_similar():
    # Pairs {12, 23}, {12, 24}, {56}: one of three in common, and none.
    assert novelty([[1, 2, 3], [1, 2, 4], [5, 6]]) == pytest.approx([2 / 3, 2 / 3, 1.0])
    # The nearest counts: the second is equal to the third.
    assert novelty([[1, 2, 3], [1, 2, 4], [1, 2, 4]]) == pytest.approx([2 / 3, 0.0, 0.0])
    assert novelty([[1], [1], [1, 2]]) == [0.0, 0.0, 1.0]  # a token is no pair
    assert novelty([[], [], [1, 2]]) == [0.0, 0.0, 1.0]


steps = st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=7)


@given(steps)
def test_shares_and_novelty_are_of_the_step(queries):
    count = len(queries)
    assert all(1 / count <= share <= 1 for share in cluster_shares(queries))
    assert all(0 <= value <= 1 for value in novelty(queries))
    assert all(0 <= bleu(one, other) <= 1 for one in queries for other in queries)


@given(steps, st.randoms(use_true_random=False))
@pytest.mark.parametrize("measure", [cluster_shares, novelty])
def test_the_order_of_the_queries_says_nothing(measure, queries, draw):
    order = draw.sample(range(len(queries)), len(queries))
    found = measure(queries)
    assert measure([queries[i] for i in order]) == [found[i] for i in order]


@given(steps)
def test_equal_queries_share_a_cluster_and_are_not_novel(queries):
    twice = [*queries, queries[0]]
    shares, new = cluster_shares(twice), novelty(twice)
    assert shares[0] == shares[-1] >= 2 / len(twice)
    assert new[0] == new[-1] == 0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("one two three four", 0.0),
        ("a b c a b c", 0.25),  # abc bca cab abc: one of four
        ("[name] [name] [name] [name]", 0.5),
    ],
)
def test_repetition_within_a_text_by_hand(text, share):
    assert repetition(text) == share
