"""The pocket world's external reward: pairs in, R in [0, 1] out."""

from lsp.contracts import BuildContext, Reward
from lsp.pocket.verifier import PocketVerifier


def test_it_scores_pairs_in_their_order_exactly_or_in_part():
    queries, answers = ["copy ab", "copy ab", "copy ab", "nonsense"], ["ab", "b", "aa", "ab"]
    exact = PocketVerifier(credit="exact").build(BuildContext(None))
    assert isinstance(exact, Reward) and exact(queries, answers) == [1.0, 0.0, 0.0, 0.0]
    partial = PocketVerifier(credit="partial")
    assert partial.build(BuildContext(None))(queries, answers) == [1.0, 0.0, 0.5, 0.0]
    assert partial(queries[:0], answers[:0]) == [] and partial.details() == {}


def test_it_declares_its_range_and_needs_nothing():
    verifier = PocketVerifier(credit="exact")
    assert verifier.range == (0.0, 1.0)
    assert (verifier.own_models(), verifier.uncounted()) == ((), ())
