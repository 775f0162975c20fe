"""What is known of the pocket world's queries."""

from lsp.pocket.language import FAMILIES
from lsp.pocket.world import PocketWorld

WORLD = PocketWorld()


def test_legality_answers_and_quality_are_those_of_the_language():
    assert WORLD.is_legal("reverse abc") and not WORLD.is_legal("reverse abd")
    assert WORLD.right_answer("reverse abc") == "cba" and WORLD.right_answer("reverse") is None
    assert WORLD.quality("copy abc", "abc") == 7.0 and WORLD.quality("", "") == 0.0
    assert WORLD.name == "pocket" and WORLD.makes_earlier_runs


def test_queries_are_sorted_by_family_and_length():
    families, lengths = WORLD.kinds(["copy a"])
    assert list(families.names) == list(FAMILIES) and not families.ordered
    assert list(lengths.names) == list("12345678") and lengths.ordered
    assert (families.kind_of("sort cba"), lengths.kind_of("sort cba")) == ("sort", "3")
