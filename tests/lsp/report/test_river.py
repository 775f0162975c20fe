"""Shares of the kinds of queries, as a world sorts them."""

from lsp.contracts import QueryKinds
from lsp.paper.world import PaperWorld
from lsp.pocket.world import PocketWorld
from lsp.report.river import ILLEGAL, draw_river, query_shares


def shares_of(world, queries):
    """Title -> kind -> shares; ``queries`` as ``lsp.report.game.Index`` has them."""
    legal = [text for step in queries.values() for text, is_legal in step if is_legal]
    return {kinds.title: query_shares(queries, kinds) for kinds in world.kinds(legal)}


def test_free_text_is_sorted_by_words_and_openings():
    queries = {1: [("write a poem", True)] * 2 + [("one two three", True), ("x", False)]}
    shares = shares_of(PaperWorld(), queries)
    openings = shares["first two words"]
    assert (openings["write a"], openings["one two"], openings[ILLEGAL]) == ([0.5], [0.25], [0.25])
    words = shares["number of words"]
    assert words["1 to 5 words"] == [0.75] and sum(s[0] for s in words.values()) == 1


def test_pocket_tasks_are_sorted_by_family_and_length():
    queries = {1: [("copy ab", True), ("sort cba", True)], 2: [("copy a", True), ("copy", False)]}
    shares = shares_of(PocketWorld(), queries)
    assert shares["family"]["copy"] == [0.5, 0.5] and shares["family"]["sort"] == [0.5, 0.0]
    assert shares["length"]["1"] == [0.0, 0.5] and shares["length"]["3"] == [0.5, 0.0]
    assert shares["length"][ILLEGAL] == shares["family"][ILLEGAL] == [0.0, 0.5]


def test_every_kind_has_a_colour_and_illegal_is_grey():
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    names = [f"kind {i}" for i in range(12)]
    axis = Figure().subplots()
    draw_river(axis, {1: [("kind 3", True)]}, QueryKinds("kind", names, lambda text: text))
    colours = [to_hex(area.get_facecolor()[0]) for area in axis.collections]
    assert len({*colours}) == 13 and colours[-1] == "#9a9a9a"
