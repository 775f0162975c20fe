"""Types between the steps of the algorithm: what draws are keyed by, what makes two rows one."""

import pytest

from lsp.types import Completion, DrawKey, Query, TrainingRow

KEY = DrawKey(0, 1, "solver")


def test_large_row_numbers_stay_apart():
    numbers = [0, 1, 2**63 + 4096, 2**63 + 4097, 2**64 - 2, 2**64 - 1]
    key = DrawKey(0, 1, "judge", numbers)
    assert len({tuple(key.uniforms(row, 2)) for row in range(len(numbers))}) == len(numbers)


def test_other_steps_roles_and_seeds_draw_otherwise():
    uniforms = {
        key: tuple(key.uniforms(0, 4))
        for key in (KEY, DrawKey(0, 2, "solver"), DrawKey(0, 1, "judge"), DrawKey(1, 1, "solver"))
    }
    assert len(set(uniforms.values())) == 4
    assert tuple(KEY.uniforms(0, 4)) != tuple(KEY.uniforms(1, 4))
    assert tuple(KEY.uniforms(0, 8)[:4]) == tuple(KEY.uniforms(0, 4))


def test_rows_bear_the_numbers_that_they_have_in_the_whole_step():
    """A process that generates rows 3 and 4 draws what one that generates all draws for them."""
    part = DrawKey(0, 1, "solver", range(3, 5))
    assert [part.number(0), part.number(1)] == [3, 4] and KEY.number(7) == 7
    assert part.uniforms(0, 4).tolist() == KEY.uniforms(3, 4).tolist()
    assert part.uniforms(1, 4).tolist() == KEY.uniforms(4, 4).tolist()


def test_numbers_lie_in_the_unit_interval_and_are_the_same_for_ever():
    """What a run drew is what it draws when it is resumed by a later version."""
    numbers = DrawKey(3, 1, "x").uniforms(0, 10_000)
    assert numbers.min() >= 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.01
    assert KEY.uniforms(0, 3).round(12).tolist() == [0.56941027627, 0.157240609988, 0.730094014656]


@pytest.mark.parametrize(
    ("status", "played"),
    [("stop", True), ("dataset", True), ("length", False), ("empty", False), ("malformed", False)],
)
def test_which_queries_are_played(status, played):
    assert Query("q", "copy a", status).played is played


def test_equal_pairs_are_one_row_with_their_weights_added():
    completion = Completion((7, 1), (-0.5, -0.1), "a", "stop")
    one = TrainingRow("solver", (1, 2), completion.ids, completion.logprobs, 0.5, 0.25, 1)
    other = TrainingRow("solver", (1, 2), completion.ids, completion.logprobs, -0.75, 0.25, 2)
    assert one.key == other.key == ("solver", (1, 2), (7, 1)) and one.length == 4
    merged = one.merged_with(other)
    assert (merged.policy_weight, merged.kl_weight, merged.count) == (-0.25, 0.5, 3)
    assert (merged.key, merged.rollout_logprobs) == (one.key, (-0.5, -0.1))
