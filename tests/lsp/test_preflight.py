"""``python -m lsp.preflight``: what it prints, and its exit status, on the smallest models."""

import json
import math

from lsp import preflight
from lsp.loop.launch import start
from lsp.paper.known_pairs import KNOWN_PAIRS


def test_the_pocket_game_is_on(capsys):
    assert preflight.main(["method=lsp"]) == 0
    said = capsys.readouterr().out
    for words in ("16 queries of lsp", "16 answers", "complete 100%", "R_Q read 100%",
                  "self-judge on known pairs: read 100%", "good above off-topic", "in all ",
                  "hardware.tokens_per_second=", "a step of 24 x 8: about", "planned for a full",
                  "the game is on"):  # fmt: skip
        assert words in said


def test_grpo_asks_nobody_and_judges_nothing(capsys):
    assert preflight.main(["method=grpo"]) == 0
    said = capsys.readouterr().out
    assert "16 queries of grpo" in said and "self-judge" not in said


def test_a_game_that_is_not_played_ends_in_status_1(capsys):
    """Two tokens are too few for any query."""
    assert preflight.main(["method=lsp", "rollout.max_query_tokens=2"]) == 1
    said = capsys.readouterr().out
    assert "STOP  16 of 16 queries were cut at 2 tokens. Way out: prompts=few_shot" in said
    assert "0 of 16 queries can be played" in said
    assert "these settings do not play their game" in said


def test_a_run_to_go_on_with_is_not_looked_at_and_an_init_that_is_missing_is_named(
    capsys, tmp_path
):
    assert preflight.main([f"resume={tmp_path}"]) == 1
    assert preflight.main(["init=grpo", f"runs_root={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert "leave resume out" in said and "look at the game from init=base" in said


def test_settings_that_cannot_work_are_one_message(capsys):
    assert preflight.main(["method=lsp", "group_size=1"]) == 1
    assert preflight.main(["model.name=/nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 2 and "choose group_size=2 or more" in said.lower()


def test_known_pairs_are_judged_query_by_query(players):
    pairs = [("copy abc", "abc"), ("upper a", "A"), ("sort cb", "bc")]
    known = preflight.judge_known(players, pairs)
    assert set(known.bad) == {"off-topic", "empty", "gibberish"}
    assert len(known.good) == 3 and known.unread == 0
    counted = preflight.KnownPairs([3.0, math.nan], {"empty": [1.0, 1.0]})
    assert counted.wins == {"empty": 1} and counted.unread == 1


def test_gibberish_is_the_same_words_in_another_order():
    for _, answer in KNOWN_PAIRS:
        text = preflight.shuffled(answer)
        assert sorted(text.split()) == sorted(answer.split()) and text != answer
        assert preflight.shuffled(answer) == text
    assert len(KNOWN_PAIRS) >= 14  # three bad answers each: forty pairs and more


def test_step_1_of_a_run_says_the_same(tmp_path, small, capsys, without_pictures):
    """In the log, run.json and the report; a step that plays nothing says so on its line."""
    folder = tmp_path / "run"
    start([*small, "rollout.max_query_tokens=2", "tracker=none", f"run_dir={folder}"])
    said = capsys.readouterr().err
    assert "finding: 4 of 4 queries were cut at 2 tokens; prompts=few_shot" in said
    assert "step 1/3  nothing played: 100% cut" in said
    findings = json.loads((folder / "run.json").read_text())["findings"]
    assert [finding["stops"] for finding in findings] == [True, True]
    assert findings[0]["text"] == "4 of 4 queries were cut at 2 tokens"
