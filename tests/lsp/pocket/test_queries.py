"""The pocket world's data set: legal queries of the train split, so many of each kind."""

import random
from collections import Counter

import pytest

from lsp.contracts import BuildContext
from lsp.pocket.language import FAMILIES, parse, split, split_cells
from lsp.pocket.pretrain import Corpus, PretrainSettings
from lsp.pocket.queries import DRAWS, PocketQueries


def queries_of(**settings):
    return PocketQueries(**settings).build(BuildContext(None))


def test_each_family_and_length_has_so_many_at_most_and_none_is_held_out():
    queries = queries_of(per_cell=5, max_length=3)
    tasks = [parse(query) for query in queries]
    cells = Counter((task.family, len(task.argument)) for task in tasks)
    assert len(set(queries)) == len(queries) and {split(task) for task in tasks} == {"train"}
    assert {length for _, length in cells} == {1, 2, 3} and max(cells.values()) == 5
    assert len({family for family, _ in cells}) == 8


def test_the_same_settings_give_the_same_queries_in_the_same_order():
    assert queries_of(per_cell=7, max_length=8) == queries_of(per_cell=7, max_length=8)


def test_draws_thin_out_by_length_as_the_queries_do_that_the_base_was_pretrained_on():
    queries = queries_of(per_cell=5, max_length=8, length_decay=0.7)
    tasks = [parse(query) for query in queries]
    assert len(queries) == DRAWS and {split(task) for task in tasks} == {"train"}
    lengths = [len(task.argument) for task in tasks]
    # Of weights .7^1 to .7^8: 2.844; one draw's deviation is 1.9, the mean's of 10,000 .019.
    weights = {n: 0.7**n for n in range(1, 9)}
    mean = sum(n * w for n, w in weights.items()) / sum(weights.values())
    assert sum(lengths) / DRAWS == pytest.approx(mean, abs=0.06)
    counts = Counter(lengths)
    for length in range(1, 8):  # each length has .7 of the draws of the one before it
        assert counts[length + 1] / counts[length] == pytest.approx(0.7, abs=0.1)
    families = Counter(task.family for task in tasks)
    assert set(families) == set(FAMILIES)
    assert all(count / DRAWS == pytest.approx(1 / 8, abs=0.02) for count in families.values())
    corpus = Corpus(PretrainSettings())
    drawn = [parse(corpus.challenger()[1]) for _ in range(DRAWS)]
    schooled = sum(len(task.argument) for task in drawn) / DRAWS
    assert sum(lengths) / DRAWS == pytest.approx(schooled, abs=0.2)


def test_draws_follow_from_the_settings_and_keep_to_the_longest():
    settings = {"per_cell": 5, "max_length": 3, "length_decay": 2.0}
    queries = queries_of(**settings)
    assert queries == queries_of(**settings)
    lengths = Counter(len(parse(query).argument) for query in queries)
    assert set(lengths) == {1, 2, 3} and lengths[1] < lengths[2] < lengths[3]


def test_without_a_decay_the_list_is_the_sample_that_it_was():
    draw = random.Random("pocket queries")
    expected = [
        text
        for cell in split_cells("train")
        for texts in [[task.query for task in cell if len(task.argument) <= 4]]
        for text in draw.sample(texts, min(9, len(texts)))
    ]
    assert queries_of(per_cell=9, max_length=4, length_decay=None) == expected
    assert queries_of(per_cell=9, max_length=4) == expected
