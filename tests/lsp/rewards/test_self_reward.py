"""The self-judge: expected digits by hand, written totals, and pairs judged alike anywhere."""

import math
from dataclasses import replace

import pytest
import torch

from lsp.contracts import BuildContext
from lsp.players import load_players
from lsp.pocket.language import form_rubric
from lsp.rewards.self_reward import RubricJudge, RubricSelfJudge
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.types import DrawKey

KEY = DrawKey(0, 1, "judge")
PAIRS = [
    ("copy abc", "abc"),
    ("copyo abc", "abc"),
    ("upper aab", "AAB"),
    ("sort cba", ""),
    ("copy abc", "abc"),
]


def judge_of(players, mode, tokens=4):
    settings = RubricJudge(mode=mode, max_new_tokens=tokens, lsp_weight=0.3)
    return RubricSelfJudge(
        players.reference, players.chat, players.engine, players.prompts, settings, 1.0
    )


def test_expected_is_the_mean_of_the_digits_renormalised(players):
    scores, texts = judge_of(players, "expected").score(*zip(*PAIRS, strict=True), KEY)
    digits = [players.chat.tokenizer.convert_tokens_to_ids(str(d)) for d in range(8)]
    for (query, answer), score in zip(PAIRS, scores, strict=True):
        (ids,) = players.chat.encode([players.prompts.judge_messages(query, answer)])
        with torch.no_grad():
            last = players.reference(torch.tensor([ids])).logits[0, -1].softmax(-1)[digits]
        expected = (last / last.sum() * torch.arange(8.0)).sum().item()
        assert score == pytest.approx(expected, abs=1e-4)
    assert scores[0] == scores[4] and "digit mass" in texts[0]


def test_the_pretrained_judge_tells_good_form_from_bad(players):
    scores, _ = judge_of(players, "expected").score(*zip(*PAIRS, strict=True), KEY)
    for (query, answer), score in zip(PAIRS, scores, strict=True):
        assert abs(score - form_rubric(query, answer)) < 1.5


def test_generate_parses_what_the_judge_wrote(players):
    scores, texts = judge_of(players, "generate").score(*zip(*PAIRS, strict=True), KEY)
    for score, text in zip(scores, texts, strict=True):
        assert math.isnan(score) or score == float(text)
    assert sum(not math.isnan(score) for score in scores) >= 4


def test_a_pair_is_judged_alike_whatever_stands_beside_it(players):
    """Draws are keyed by the pair: how a step is shared out over processes changes no score."""
    judge = judge_of(players, "generate")
    judge.temperature = 5.0  # so that it writes anything
    pairs = [(f"copy {'abc'[: i % 3 + 1]}", "ab" * (i // 3)) for i in range(12)]
    _, whole = judge.score(*zip(*pairs, strict=True), KEY)
    _, backwards = judge.score(*zip(*pairs[::-1], strict=True), KEY)
    _, half = judge.score(*zip(*pairs[5:], strict=True), KEY)
    assert backwards[::-1] == whole and half == whole[5:] and len(set(whole)) > 6
    _, later = judge.score(*zip(*pairs, strict=True), DrawKey(0, 2, "judge"))
    assert later != whole


def test_a_cut_judgement_is_unread(players):
    """One token leaves no room for the end: the text is a digit and still counts as read, but
    with a tag asked for it is not."""
    judge = judge_of(players, "generate", tokens=1)
    judge.prompts = replace(players.prompts, judge_tag="total")
    scores, _ = judge.score(["copy a"], ["a"], KEY)
    assert math.isnan(scores[0])


def test_low_digit_mass_is_unread(players, llama_folder):
    """A random model puts its probability elsewhere."""
    config = compose(["tracker=none", f"model.name={llama_folder}"])
    other = load_players(config, resolve_init(config))
    scores, texts = other.self_judge.score(["copy a"], ["a"], KEY)
    assert math.isnan(scores[0]) and "digit mass 0." in texts[0]


def test_what_it_declares_and_what_it_is_built_from(players):
    """``generate`` writes; ``expected`` reads one token. Its engine is freed from the rollout's."""
    config = compose(["self_reward.mode=generate", "self_reward.max_new_tokens=9",
                      "rollout.temperature=0.5", "rollout.stop=[a]"])  # fmt: skip
    settings = config.self_reward
    assert settings.written_tokens == 9 and settings.range == (0.0, 7.0)
    assert compose([]).self_reward.written_tokens == 0
    judge = settings.build(
        BuildContext(config, chat=players.chat, end_ids=frozenset({1}), reference=players.reference)
    )
    assert isinstance(judge, RubricSelfJudge) and judge.reference is players.reference
    assert (judge.temperature, judge.engine.stop_strings) == (0.5, ())


def test_expected_needs_one_token_for_each_digit(players, monkeypatch):
    two_tokens = [[1, 2], *[[1, 2, 3, 4]] * 8]
    monkeypatch.setattr(type(players.chat), "encode", lambda self, conversations: two_tokens)
    with pytest.raises(ValueError, match="one token for each digit; choose self_reward.mode=gener"):
        judge_of(players, "expected")
    assert judge_of(players, "generate").settings.mode == "generate"
