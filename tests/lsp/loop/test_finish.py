"""The end of a run on the terminal: the table by hand, three plays of the last step."""

from lsp.loop.finish import evaluation_table, sample_plays
from lsp.pocket.world import PocketWorld
from lsp.tracking.local import LocalTracker
from lsp.tracking.rows import SCHEMA

SUMMARY = {
    "base/accuracy": 0.5, "final/accuracy": 0.625, "base/length": 3.0, "final/length": 2.5,
    "final/wins": 3.0, "final/ties": 5.0, "final/losses": 2.0, "final/win_rate": 0.55,
    "last/loss/total": 1.0,
}  # fmt: skip


def test_the_table_compares_base_and_trained_model():
    lines = evaluation_table(SUMMARY, {"accuracy": "exact accuracy"}).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["test", "split", "base", "trained", "change"],
        ["exact", "accuracy", "0.500", "0.625", "+0.125"],
    ]
    assert lines[2:] == [
        "against the base, greedy: 3 wins, 5 ties, 2 losses; win rate with half ties 55.0%"
    ]


def test_without_labels_all_numbers_of_an_evaluator_are_shown():
    plain = {key: value for key, value in SUMMARY.items() if "wins" not in key}
    lines = evaluation_table(plain, {}).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["accuracy", "0.500", "0.625", "+0.125"],
        ["length", "3.000", "2.500", "-0.500"],
    ]


def row(query, answer, reward, quality=None):
    """Of step 2; the Solver's reward is that of the answer."""
    number = None if answer is None else reward - 0.5
    return dict.fromkeys(SCHEMA.names) | {
        "run_id": "r", "step": 2, "query_id": f"q-{query}", "query": query, "answer": answer,
        "answer_id": f"{query}-{answer}", "source": "challenger", "reward": reward,
        "quality": quality, "solver_reward": reward, "solver_advantage": number,
        "query_value": 0.5, "query_finish_reason": "stop" if answer is not None else "length",
        "challenger_reward": number, "challenger_advantage": number,
    }  # fmt: skip


def test_plays_of_the_last_step_show_the_best_and_the_worst_answer(tmp_path):
    assert sample_plays(tmp_path, PocketWorld()) == []
    tracker = LocalTracker(tmp_path)
    tracker.log(1, {}, [row("old", "x", 1.0)])
    rows = [row("copy a", "b", 0.0, 2.0), row("copy a", "a", 1.0, 7.0), row("cut", None, None)]
    tracker.log(2, {}, [*rows, row("sort b\x1b", "b", 0.25)])
    assert sample_plays(tmp_path, PocketWorld()) == [
        "  'copy a'  V = 0.50",
        "    best  'a'  R = 1.00  R_Q = 7.0",
        "    worst 'b'  R = 0.00  R_Q = 2.0",
        "  'sort b\\x1b'  V = 0.50",
        "    best  'b'  R = 0.25",
        "    worst 'b'  R = 0.25",
    ]
    assert len(sample_plays(tmp_path, PocketWorld(), count=1)) == 3
