"""The self-judge: expected digits by hand, written totals, and pairs judged alike anywhere."""

import math
from dataclasses import replace

import pytest
import torch

from lsp.contracts import BuildContext
from lsp.errors import ConfigError
from lsp.model.last_states import last_states
from lsp.model.logprobs import completion_hidden
from lsp.players import load_players
from lsp.pocket.language import form_rubric
from lsp.rewards.self_reward import LikelihoodSelfJudge, RubricJudge, RubricSelfJudge
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.settings.prompts import JudgeShot
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


def likelihood_of(players, **more):
    settings = replace(compose(["self_reward=likelihood"]).self_reward, **more)
    return LikelihoodSelfJudge(players.reference, players.chat, players.prompts, settings)


def test_likelihood_by_hand(players):
    """x = l(q) + c (l(q) - l()), l the mean log-probability of the answer's tokens and its end."""
    tokenizer = players.chat.tokenizer

    def mean(query, answer):
        (prompt,) = players.chat.encode([players.prompts.solver_messages(query)])
        ids = [*players.chat.encode_text([answer])[0], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = players.reference(torch.tensor([prompt + ids])).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        return scores.gather(1, torch.tensor(ids)[:, None]).mean().item()

    judge = likelihood_of(players, likelihood_contrast=2.0, likelihood_low=-9.0)
    scores, texts = judge.score(*zip(*PAIRS, strict=True), KEY)
    for (query, answer), score in zip(PAIRS, scores, strict=True):
        given, alone = mean(query, answer), mean("", answer)
        x = given + 2 * (given - alone)
        assert score == pytest.approx(min(7, max(0, 7 * (x + 9) / (4 + 9))), abs=1e-3)
    assert scores[0] == scores[4] and "nats a token" in texts[0]
    assert scores[0] > scores[3]  # the right answer above none


def test_likelihood_without_contrast_is_the_plain_mean(players):
    judge = likelihood_of(players, likelihood_contrast=0.0, likelihood_low=-10, likelihood_high=0)
    (score,), (text,) = judge.score(["copy abc"], ["abc"], KEY)
    assert score == pytest.approx(7 * (1 + float(text.partition(" ")[0]) / 10), abs=1e-2)


def test_a_calibration_upside_down_is_refused():
    with pytest.raises(ConfigError, match="likelihood_low=5 is not below likelihood_high"):
        compose(["self_reward=likelihood", "self_reward.likelihood_low=5"])


def test_states_after_a_shared_beginning_are_those_of_whole_prompts(players, monkeypatch):
    """A rubric is computed once, and no score changes."""
    prompts = [[3, *[5, 6, 7, 8] * 10, *end] for end in ([9], [9, 10, 11], [4, 4], [12] * 7)]
    whole = torch.cat([next(last_states(players.reference, [prompt])) for prompt in prompts])
    shared = torch.cat(list(last_states(players.reference, prompts)))
    assert torch.allclose(shared, whole, atol=1e-5)
    asked = []
    real = completion_hidden

    def watched(model, batch):
        asked.append(batch.tokens)
        return real(model, batch)

    monkeypatch.setattr("lsp.model.last_states.completion_hidden", watched)
    list(last_states(players.reference, prompts))
    assert asked == [41 + sum(len(p) - 41 + 1 for p in prompts)]  # and a token more for each row


def test_few_shot_judges_read_their_examples_first(players):
    shots = {"one": JudgeShot(query="copy abc", answer="abc", total="7")}
    prompts = replace(players.prompts, judge_shots=shots)
    judge = replace(judge_of(players, "expected"), prompts=prompts)
    (plain,), (ids,) = (
        players.chat.encode([p.judge_messages("copy a", "a")]) for p in (players.prompts, prompts)
    )
    assert ids[-len(plain) + 1 :] == plain[1:] and len(ids) > len(plain)
    scores, _ = judge.score(*zip(*PAIRS, strict=True), KEY)
    assert len(scores) == len(PAIRS)
