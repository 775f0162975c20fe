"""Steps that teach nothing: why by hand, when the warning comes, and a run that has them."""

from dataclasses import replace

import pytest
import torch

from lsp.loop.idle import IdleSteps, idle_words
from lsp.loop.launch import start
from lsp.metrics import empty_play
from lsp.pocket.world import PocketWorld
from lsp.settings.compose import compose
from lsp.types import Completion, Play, Query

LSP = compose(["method=lsp"])
FROZEN = compose(["method=frozen_challenger"])
EQUAL = "the answers to each query have the same reward"


def answer(finish="stop"):
    return Completion((7, 1), (0.0, 0.0), "a", finish)


def asked(*statuses):
    return [Query(f"q{i}", "sort ba", one, (5,), answer()) for i, one in enumerate(statuses)]


def play_of(solver, challenger, answers=None):
    """Two queries with two answers each; advantages as given."""
    none = torch.zeros(2, 2)
    return Play(
        asked("stop", "stop"), answers or [[answer(), answer()]] * 2, [(1,)] * 2, none, {}, none,
        [], none, torch.tensor(solver), torch.zeros(2), torch.zeros(2), torch.tensor(challenger),
    )  # fmt: skip


FLAT, UNEVEN = [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [-0.5, 0.5]]
SAME, APART = [0.0, 0.0], [0.25, -0.25]


def test_nothing_is_played_and_the_shares_say_why():
    queries = asked("illegal", "illegal", "illegal", "length")
    assert idle_words(LSP, queries, empty_play()) == "nothing played: 25% cut, 75% illegal"
    queries = asked("malformed", "empty")
    assert idle_words(LSP, queries, empty_play()) == "nothing played: 50% empty, 50% malformed"


@pytest.mark.parametrize(
    ("config", "solver", "challenger", "words"),
    [
        (LSP, UNEVEN, SAME, ""),
        (LSP, FLAT, SAME, f"nothing learned: {EQUAL}"),
        (LSP, FLAT, APART, f"the Solver learns nothing: {EQUAL}"),
        (FROZEN, FLAT, APART, f"nothing learned: {EQUAL}"),  # whose advantages train nobody
        (LSP, [[1e-8, -1e-8], [0.0, 0.0]], SAME, f"nothing learned: {EQUAL}"),  # rounding
    ],
)
def test_equal_rewards_teach_nothing(config, solver, challenger, words):
    assert idle_words(config, asked("stop", "stop"), play_of(solver, challenger)) == words


def test_answers_that_are_masked_teach_nothing():
    masks = replace(LSP, method=replace(LSP.method, mask_truncated_answers=True))
    cut = play_of(UNEVEN, SAME, [[answer("length")] * 2] * 2)
    assert idle_words(masks, cut.queries, cut).startswith("nothing learned: all answers were cut, ")
    assert idle_words(LSP, cut.queries, cut) == ""
    # The second query's answers are the ones with an advantage, and they are left out.
    some = play_of(UNEVEN, SAME, [[answer()] * 2, [answer("length")] * 2])
    assert idle_words(masks, some.queries, some) == f"nothing learned: {EQUAL}"


def test_what_a_gated_query_lost_is_a_lesson_too():
    lost = replace(play_of(FLAT, SAME), invalid=asked("illegal"), invalid_advantage=-0.5)
    assert idle_words(LSP, lost.queries, lost) == f"the Solver learns nothing: {EQUAL}"


def test_the_third_in_a_row_is_warned_of_with_the_way_out_and_then_the_thirtieth():
    steps, play = IdleSteps(), play_of(FLAT, SAME)
    words = idle_words(LSP, play.queries, play)

    def warned(words):
        return steps.step(LSP, play.queries, lambda: ["Write"] * 2, play, words)

    assert [warned(words), warned(""), warned(words), warned(words)] == ["", "", "", ""]
    assert warned(words) == (
        f"3 steps in a row, nothing learned: {EQUAL}; in 2 of 2 groups all 2 answers have the same"
        " R, which teach nothing; a reward that tells answers apart, a larger group_size, or"
        " easier queries"
    )
    assert [bool(warned(words)) for _ in range(4, 32)] == [n == 30 for n in range(4, 32)]
    warned("")
    assert not any(warned(words) for _ in range(31))  # said already


def test_the_way_out_of_queries_that_are_not_played():
    steps, queries = IdleSteps(), asked("illegal", "illegal")
    steps.in_a_row = 2
    warning = steps.step(LSP, queries, lambda: ["Write"] * 2, empty_play(), "nothing played: …")
    assert warning.startswith("3 steps in a row, nothing played: …; 2 of 2 queries were none that")
    assert "prompts=few_shot, or prompts of your own" in warning


@pytest.mark.usefixtures("without_pictures")
def test_a_run_whose_gate_lets_nothing_through_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PocketWorld, "is_legal", lambda world, query: False)
    start(["method=gated", "num_steps=3", "num_queries=4", "group_size=2", "eval=none",
           "tracker=none", "objective=null", f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if line.startswith("step 1/3")).startswith(
        "step 1/3  nothing played: "
    )
    (warning,) = [line for line in lines if line.startswith("warning: step 3: ")]
    assert "3 steps in a row, nothing played: " in warning and "few_shot" in warning
