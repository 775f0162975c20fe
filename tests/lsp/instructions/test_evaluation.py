"""The evaluation of the instructions world: by hand, and by a model that cannot do it."""

import json

import pytest

from lsp.errors import ConfigError
from lsp.instructions.evaluation import (
    Answers,
    InstructionsEvaluation,
    InstructionsEvaluator,
    better,
    by_kind,
)
from lsp.instructions.world import InstructionsWorld
from lsp.settings.compose import compose

PROMPTS = [
    "Greet a friend. Do not use any commas.",
    "Greet a friend. Do not use any commas. Use fewer than 10 words.",
]


def answers_of(followed):
    return Answers(PROMPTS, ["x", "y"], followed, [0.0, 0.0])


def test_shares_wins_and_kinds_by_hand():
    one, other = answers_of([[True], [False, True]]), answers_of([[False], [True, False]])
    assert one.shares == [1.0, 0.5] and other.shares == [0.0, 0.5]
    assert (better(one, other), better(other, one)) == (1, 0)  # the second is a tie
    names = ["punctuation:no_comma", "length_constraints:number_words", "startend:quotation"]
    assert by_kind(one, names) == {"followed/no comma": 0.5, "followed/number words": 1.0}


def test_it_measures_a_model_and_the_base_once(players, monkeypatch):
    """The pocket base writes a few letters: no commas, few words, and nothing else."""
    texts = {"test": PROMPTS, "held_out_kinds": ["Greet. Use the letter q at least 4 times."]}
    monkeypatch.setattr("lsp.instructions.evaluation.prompts", texts.get)
    settings = InstructionsEvaluation(every=0, challenger_samples=4)
    evaluator = InstructionsEvaluator(settings, players, players.reference)
    asked = []
    real = InstructionsEvaluator.answers
    monkeypatch.setattr(
        InstructionsEvaluator, "answers", lambda *of: asked.append(of[2]) or real(*of)
    )
    values = evaluator.metrics(players.policy, "test")
    assert asked == ["test", "held_out_kinds"]  # the policy's weights are the base's
    assert values["followed/no comma"] == 1.0 and values["followed/letter frequency"] == 0
    assert (values["wins"], values["losses"], values["ties"]) == (0, 0, 2)
    assert values["held_out_reward"] == 1.0 and values["held_out_kinds_reward"] == 0
    assert values["likelihood"] < 0 == values["repetition"]
    assert values["legal_query_frac"] == 0  # it asks in the pocket world's language
    assert evaluator.metrics(players.policy, "test") == values and len(asked) == 2
    monkeypatch.setattr("random.Random.sample", lambda of, items, count: items)
    examples = evaluator.examples()
    assert [example.prompt for example in examples] == PROMPTS
    assert all(example.base == example.trained for example in examples)
    rows = evaluator.held_out()
    assert [(r.prompt, r.weight, r.base_score, r.trained_score) for r in rows] == [
        (prompt, 0.5, 1.0, 1.0) for prompt in PROMPTS
    ]


def test_ifevals_number_stands_in_the_summary_where_its_prompts_are_given(
    players, tmp_path, monkeypatch
):
    """The pocket base writes a letter or two: no comma, fewer than 10 words, and no title."""
    path = tmp_path / "prompts.jsonl"
    rows = [
        ("greet", ["punctuation:no_comma"], [{}]),
        ("greet me", ["detectable_format:title", "punctuation:no_comma"], [{}, {}]),
    ]
    columns = ("prompt", "instruction_id_list", "kwargs")
    path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    monkeypatch.setattr("lsp.instructions.evaluation.prompts", lambda split: PROMPTS[:1])
    settings = InstructionsEvaluation(
        every=0, challenger_samples=1, ifeval=str(path), ifeval_tokens=8
    )
    evaluator = InstructionsEvaluator(settings, players, players.reference)
    # one of two prompts, two of three rules
    assert evaluator.metrics(players.policy, "test")["ifeval"] == pytest.approx((50 + 200 / 3) / 2)
    with pytest.raises(ConfigError, match="nowhere.jsonl.*Give eval.ifeval=<a file"):
        compose(["world=instructions", "eval.ifeval=nowhere.jsonl"])


def test_it_is_of_its_own_world():
    with pytest.raises(ConfigError, match="this evaluation is of the instructions world"):
        compose(["eval=instructions"])


def test_queries_are_sorted_by_rule_number_of_rules_and_opening():
    first, count, opening = InstructionsWorld().kinds(PROMPTS)
    assert first.kind_of(PROMPTS[1]) == "no comma" and "json format" in first.names
    assert (
        count.kind_of(PROMPTS[1]) == "2" and count.ordered and list(count.names) == ["1", "2", "3"]
    )
    assert opening.kind_of(PROMPTS[0]) == "greet a"
