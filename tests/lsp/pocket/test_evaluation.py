"""Exact accuracy: against brute force, and the averages by hand."""

from dataclasses import replace

import pytest
import torch

from lsp.pocket.equilibrium import asked_A, described
from lsp.pocket.evaluation import (
    PocketEvaluation,
    PocketEvaluator,
    Skill,
    measure_skill,
    win_loss,
)
from lsp.pocket.language import Task, legal_queries
from lsp.pocket.tables import asked_table, read_script
from lsp.settings.compose import compose


@pytest.fixture(scope="module")
def tasks():
    return [Task("copy", "a"), Task("sort", "cba"), Task("count", "abcabc"), Task("upper", "bb")]


def test_probability_is_that_of_the_right_answer_and_its_end(players, tasks):
    """By hand: one row at a time, all logits."""
    skill = measure_skill(players.policy, players, tasks)
    tokenizer = players.chat.tokenizer
    for task, found in zip(tasks, skill.probability, strict=True):
        (prompt,) = players.chat.encode([[("user", task.query)]])
        (answer,) = players.chat.encode_text([task.right_answer])
        answer = [*answer, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = players.policy(torch.tensor([prompt + answer])).logits[0]
        steps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        expected = steps[torch.arange(len(answer)), answer].sum().exp().item()
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_right_greedy_answer_has_more_than_half_the_probability_or_none_has(players, tasks):
    skill = measure_skill(players.policy, players, tasks)
    for probability, right in zip(skill.probability, skill.greedy_right, strict=True):
        assert right or probability <= 0.5
        assert 0 <= probability <= 1


def test_sampled_answers_agree_with_the_exact_accuracy(players):
    """Two thousand draws against the probability: within four standard errors."""
    task = Task("reverse", "abcab")
    (probability,) = measure_skill(players.policy, players, [task]).probability
    prompts = players.chat.encode([[("user", task.query)]])
    from lsp.types import DrawKey

    (drawn,) = players.engine.generate(
        players.policy, prompts, 2000, 12, 1.0, DrawKey(9, 1, "test")
    )
    share = sum(c.text == task.right_answer and c.finish_reason == "stop" for c in drawn) / 2000
    assert abs(share - probability) < 4 * (probability * (1 - probability) / 2000) ** 0.5


def test_drawn_queries_agree_with_the_exact_share_and_length(players):
    """``challenger_samples`` of 2,048 against the whole distribution: within four standard
    errors."""
    settings = replace(players.config.eval, challenger_samples=2048, exact=False)
    drawn = PocketEvaluator(settings, players, players.reference).challenger(players.reference)
    asked = asked_table(players.reference, read_script(players.chat, players.prompts))
    tasks = list(legal_queries())
    found = described(asked_A(asked), tasks)
    share = found["valid_query_frac"]
    assert abs(drawn["valid_query_frac"] - share) < 4 * (share * (1 - share) / 2048) ** 0.5
    assert drawn["argument_length"] == pytest.approx(
        found["argument_length"], abs=4 * 2 / 2048**0.5
    )


def test_averages_weigh_each_family_and_length_alike():
    skill = Skill(
        [Task("copy", "a"), Task("copy", "b"), Task("copy", "ab"), Task("sort", "ba")],
        [1.0, 0.0, 0.25, 0.75],
        [True, False, True, True],
        ["a", "", "ab", "ab"],
    )
    assert skill.accuracy() == pytest.approx((0.5 + 0.25 + 0.75) / 3)
    assert skill.accuracy(length=2) == 0.5
    assert skill.accuracy(family="copy") == pytest.approx(0.375)
    assert skill.greedy_accuracy() == pytest.approx((0.5 + 1 + 1) / 3)


def test_wins_and_losses_are_where_only_one_is_right():
    tasks = [Task("copy", "a")] * 4
    model = Skill(tasks, [0.0] * 4, [True, True, False, False], [""] * 4)
    base = Skill(tasks, [0.0] * 4, [True, False, True, False], [""] * 4)
    assert win_loss(model, base) == (1, 1)


@pytest.mark.parametrize("exact", [False, True])
def test_the_numbers_that_are_foreseen_are_those_that_are_measured(players, exact):
    """An objective that is none of them is refused beforehand."""
    sizes = {"dev_per_cell": 1, "test_per_cell": 1, "challenger_samples": 8}
    settings = PocketEvaluation(every=0, exact=exact, **sizes)
    found = PocketEvaluator(settings, players, players.reference)
    measured = found.metrics(players.reference, "dev").keys()
    # Where the game is solved, nothing is drawn; it may be that it cannot be.
    assert set(settings.measured) - measured == ({"distinct_query_frac"} if exact else set())
    assert measured <= set(settings.measured)
    objective = "objective=eval/pocket/accuracy/lenght_3"
    (problem,) = settings.problems(compose([objective, "eval=none"]))
    assert "near it are eval/pocket/accuracy/length_3" in problem[1]
