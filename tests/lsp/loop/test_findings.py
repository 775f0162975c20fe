"""What a step shows at once: each finding by the smallest step that has it, and none where all is
well."""

from dataclasses import replace

import pytest
import torch

from lsp.loop.findings import known_pairs_findings, repeats_prompt, step_findings
from lsp.settings.compose import compose
from lsp.types import Completion, Play, Query

CONFIG = compose(["world=paper", "model=qwen_0.5b", "method=lsp"])
ZERO = compose(["world=paper", "model=qwen_0.5b", "method=lsp_zero"])
WELL = [
    *("Write a poem about the sea.", "Name three rivers of Asia.", "Explain how glue works."),
    *("List five rules of chess.", "Describe a storm at night.", "Compare tea and coffee."),
    *("Suggest a name for a cat.", "Plan a picnic for four."),
]


def written(text="fine", finish="stop"):
    return Completion((5, 1), (0.0, 0.0), text, finish)


def asked(texts=WELL, status="stop"):
    return [Query(f"q{i}", text, status, (1,), written(text)) for i, text in enumerate(texts)]


def play_of(queries, reward=None, quality=None, answer=None, weight=1.0):
    """Two answers to each query."""
    count = len(queries)
    reward = torch.arange(2.0 * count).view(count, 2) if reward is None else reward
    quality = torch.arange(2.0 * count).view(count, 2) % 7 if quality is None else quality
    none = torch.zeros(count)
    return Play(
        queries, [[answer or written()] * 2 for _ in queries], [(1,)] * count, reward, {},
        quality, [["x"] * 2] * count, reward, reward, none, none, none, weight,
    )  # fmt: skip


def found(queries, play=None, config=CONFIG, prompt="Write five tasks for somebody."):
    play = play_of([q for q in queries if q.played]) if play is None else play
    return step_findings(config, queries, [prompt] * len(queries), play)


def only(findings):
    (finding,) = findings
    return finding


def test_a_step_that_is_well_has_none():
    assert found(asked()) == []
    assert step_findings(CONFIG, asked(), [""] * 8, play_of(asked())) == []  # of a data set


def test_queries_that_are_cut():
    queries = [*asked(WELL[:6], "length"), *asked(WELL[6:])]
    finding = only(found(queries))
    assert finding.text == "6 of 8 queries were cut at 256 tokens" and finding.stops
    assert "prompts=few_shot" in finding.mend and "rollout.max_query_tokens" in finding.mend
    some = only(found([*asked(WELL[:2], "length"), *asked(WELL[2:])]))
    assert some.text.startswith("2 of 8") and not some.stops


def test_queries_that_are_empty_or_malformed():
    text = only(found([*asked([""] * 3, "empty"), *asked(WELL[:5])])).text
    assert text == "3 of 8 queries were empty"
    text = only(found([*asked(WELL[:3], "malformed"), *asked(WELL[3:])])).text
    assert text == "3 of 8 queries were not what prompts.challenger_template or template_tags allow"


def test_a_step_with_one_query_left_teaches_the_challenger_nothing():
    findings = found([*asked(WELL[:7], "length"), *asked(WELL[7:])])
    assert [f.stops for f in findings] == [True, True]
    assert findings[1].text == "1 of 8 queries can be played: the Challenger learns nothing"


def test_queries_that_repeat_their_prompt():
    prompt = "It may be easy, of middling difficulty, hard, or merely noisy; choose one."
    finding = only(found(asked(["It may be easy, of middling difficulty.", *WELL[:4],
                                "merely noisy; choose one.", "hard, or merely noisy; choose"]),
                         prompt=prompt))  # fmt: skip
    assert finding.text == "3 of 7 queries repeat the words of their prompt" and not finding.stops


@pytest.mark.parametrize(
    ("text", "prompt", "repeats"),
    [
        ("a b c d e", "x a b c d y", True),  # one run of two
        ("a b c d e f", "x a b c d y", False),  # one run of three
        ("A B", "so a b it is", True),
        ("a b", "a c b", False),
        ("", "anything", False),
    ],
)
def test_runs_of_four_words_tell_a_repeated_prompt(text, prompt, repeats):
    assert repeats_prompt(text, prompt) is repeats


def test_queries_that_are_alike():
    finding = only(found(asked(["Write a poem."] * 6 + WELL[:2])))
    assert finding.text == "3 of 8 queries are distinct" and not finding.stops
    assert only(found(asked(["Write a poem."] * 8))).stops
    assert "prompts.challenger_seeds" in finding.mend


def test_queries_that_the_world_has_no_answer_to():
    pocket = compose(["method=lsp"])
    findings = found(asked(["sort cab", "what is this", "sing", "count the", "last ab"]),
                     config=pocket, prompt="ask")  # fmt: skip
    assert only(findings).text == "3 of 5 queries are none that this world has answers to"
    assert only(findings).stops


def test_queries_that_the_gate_holds_back():
    gated = compose(["method=gated"])
    texts = ["sort cab", "copy ab", "last ab", "count a"]
    queries = [*asked(["what", "sing", "sort"], "illegal"), *asked(texts)]
    finding = only(found(queries, config=gated, prompt="ask"))
    assert finding.text == "3 of 7 queries were none that this world has answers to"
    assert "prompts=few_shot" in finding.mend and not finding.stops
    most = found([*asked(WELL[:5], "illegal"), *asked(texts[:2])], config=gated, prompt="ask")
    assert only(most).stops


def test_one_query_teaches_where_a_baseline_moves():
    queries = [*asked(WELL[:7], "length"), *asked(WELL[7:])]
    moving = replace(CONFIG, method=replace(CONFIG.method, challenger_baseline="moving"))
    assert "cut at 256 tokens" in only(found(queries, config=moving)).text


def test_rewards_that_tell_no_answers_apart():
    flat = torch.ones(8, 2)
    finding = only(found(asked(), play_of(asked(), flat)))
    assert finding.text.startswith("in 8 of 8 groups all 2 answers have the same R")
    assert finding.stops
    by_query = torch.arange(8.0)[:, None].expand(8, 2)
    assert not only(found(asked(), play_of(asked(), by_query))).stops


def test_answers_that_are_cut_or_empty():
    cut = only(found(asked(), play_of(asked(), answer=written("so", "length"))))
    assert cut.text == "16 of 16 answers were cut at 1024 tokens"
    assert only(found(asked(), play_of(asked(), answer=written(" ")))).text == (
        "16 of 16 answers are empty"
    )


def test_self_scores_that_are_not_read():
    none = torch.full((8, 2), torch.nan)
    finding = only(found(asked(), play_of(asked(), quality=none)))
    assert finding.text == "no self-score could be read: this plays as lsp_zero" and finding.stops
    assert finding.mend.startswith("self_reward=likelihood")
    logged = only(found(asked(), play_of(asked(), quality=none, weight=0.0), ZERO))
    assert logged.text == "no self-score could be read" and not logged.stops


@pytest.mark.parametrize(
    ("weight", "words"), [(100.0, "louder than R"), (1e-3, "not heard beside R"), (2.0, None)]
)
def test_how_loud_the_self_reward_is(weight, words):
    findings = found(asked(), play_of(asked(), weight=weight))
    if words is None:
        assert findings == []
    else:
        assert words in only(findings).text
        assert "method.self_reward_weight=" in only(findings).mend


def test_a_judge_that_does_not_tell_good_from_bad():
    assert known_pairs_findings(CONFIG, 34, 45, 0) == []
    weak = only(known_pairs_findings(CONFIG, 30, 45, 0))
    assert weak.text.endswith("in 30 of 45 known pairs") and not weak.stops
    blind = only(known_pairs_findings(CONFIG, 20, 45, 3))
    assert blind.text.endswith("(3 could not be read)") and blind.stops
    assert not only(known_pairs_findings(ZERO, 20, 45, 0)).stops
    silent = replace(ZERO, method=replace(ZERO.method, log_quality=False))
    assert known_pairs_findings(silent, 0, 45, 0) == []
