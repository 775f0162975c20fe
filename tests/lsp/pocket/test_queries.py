"""The pocket world's data set: legal queries of the train split, so many of each kind."""

from collections import Counter

from lsp.contracts import BuildContext
from lsp.pocket.language import parse, split
from lsp.pocket.queries import PocketQueries


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
