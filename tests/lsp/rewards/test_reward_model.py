"""The classifier reward: scores by hand, cut conversations, models that are no reward models."""

import shutil

import pytest
import torch

from lsp.contracts import BuildContext
from lsp.rewards.reward_model import ClassifierReward

CPU = BuildContext(None, torch.device("cpu"))


def settings_of(folder, **more):
    values = {"name": str(folder), "revision": None, "trust_remote_code": False,
              "dtype": "float32", "date_string": "1 Jan"}  # fmt: skip
    return ClassifierReward(**{**values, "max_length": 400, "max_tokens": 120, **more})


def test_classifier_scores_do_not_depend_on_batching(classifier_folder, llama3_tokenizer):
    scorer = settings_of(classifier_folder).build(CPU)
    queries = ["write a poem", "sea", "write a poem about the sea and the sea", "sea"]
    answers = ["the sea", "user <|eot_id|>", "a", "user <|eot_id|>"]
    together = scorer(queries, answers)
    alone = [scorer([q], [a])[0] for q, a in zip(queries, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3 and together[1] == together[3]
    (ids,) = scorer.chat.encode([[("user", queries[0]), ("assistant", answers[0])]])
    # By hand, the score of the very last token, the end of the turn, which a padding id that is
    # the end token would hide.
    with torch.no_grad():
        hidden = scorer.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        expected = scorer.model.score(hidden).item()
    assert ids[-1] == llama3_tokenizer.eos_token_id
    assert together[0] == pytest.approx(expected, abs=1e-5)
    assert settings_of(classifier_folder).range is None


def test_long_conversations_are_cut_and_counted(classifier_folder):
    scorer = settings_of(classifier_folder, max_length=60).build(CPU)
    scorer(["sea", "sea " * 60], ["a", "b"])
    assert scorer.details() == {"truncated": [0, 1]}
    scorer(["sea " * 60, "sea", "sea " * 60], ["a"] * 3)
    assert scorer.details() == {"truncated": [1, 0, 1]}


def test_a_pass_holds_no_more_padded_tokens_than_asked_for(classifier_folder):
    scorer = settings_of(classifier_folder, max_tokens=500).build(CPU)
    queries = ["sea " * n for n in (30, 0, 9, 2, 60, 1, 5)]
    lengths = [
        len(r) for r in scorer.chat.encode([[("user", q), ("assistant", "a")] for q in queries])
    ]
    passes = []
    scorer.model.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].shape))
    scorer(queries, ["a"] * len(queries))
    # By hand: the longest first, as many rows as fit at the width of the first of them.
    left, expected = sorted(lengths, reverse=True), []
    while left:
        rows = min(len(left), 500 // left[0])
        expected.append((rows, left[0]))
        left = left[rows:]
    assert [tuple(shape) for shape in passes] == expected and 1 < len(passes) < len(queries)
    assert all(rows * width <= 500 for rows, width in passes)


def test_classifier_in_bfloat16_on_request(classifier_folder):
    exact = settings_of(classifier_folder).build(CPU)
    rounded = settings_of(classifier_folder, dtype="bfloat16").build(CPU)
    assert rounded.model.dtype == torch.bfloat16
    pairs = ["write a poem", "sea"], ["the sea", "a"]
    assert rounded(*pairs) == pytest.approx(exact(*pairs), rel=0.05, abs=0.05)


def test_a_causal_model_is_no_reward_model(llama_folder, tmp_path):
    with pytest.raises(ValueError, match="is no reward model: its files hold no"):
        settings_of(llama_folder).build(CPU)
    with pytest.raises(ValueError, match="cannot be loaded"):
        settings_of(tmp_path / "gone").build(CPU)


def test_a_classifier_with_two_outputs_is_refused(llama3_tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(llama3_tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, num_labels=2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    llama3_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 outputs, and a reward is one number"):
        settings_of(tmp_path).build(CPU)


def test_a_classifier_without_chat_template_reads_a_pair(deberta_folder):
    scorer = settings_of(deberta_folder, date_string=None).build(CPU)
    queries = ["write a poem", "sea", "write a poem about the sea and the sea", "sea"]
    answers = ["the sea", "user [SEP] a", "a", "user [SEP] a"]
    together = scorer(queries, answers)
    alone = [scorer([q], [a])[0] for q, a in zip(queries, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3 and together[1] == together[3]
    # By hand: [CLS] query [SEP] answer [SEP], the two texts told apart by their types.
    inputs = scorer.tokenizer(queries[0], answers[0], return_tensors="pt")
    with torch.no_grad():
        expected = scorer.model(**inputs).logits.item()
        inputs["token_type_ids"].zero_()
        untyped = scorer.model(**inputs).logits.item()
    assert together[0] == pytest.approx(expected, abs=1e-5)
    assert abs(untyped - expected) > 1e-3
    assert scorer([], []) == []


def test_an_answer_that_spells_a_separator_stays_one_text(deberta_folder):
    scorer = settings_of(deberta_folder).build(CPU)
    (plain, spelled), _ = scorer._encode([("sea", "a"), ("sea [CLS]", "[SEP] a[SEP][MASK]")])
    marks = {scorer.tokenizer.cls_token_id, scorer.tokenizer.sep_token_id}
    marks |= {scorer.tokenizer.mask_token_id}
    assert [[token for token in row if token in marks] for row in (plain, spelled)] == [
        [scorer.tokenizer.cls_token_id, *[scorer.tokenizer.sep_token_id] * 2]
    ] * 2


def test_what_exceeds_the_classifiers_context_is_cut_and_counted(deberta_folder):
    scorer = settings_of(deberta_folder, max_length=400).build(CPU)
    assert scorer.max_length == 64  # of its config
    scorer(["sea", "sea " * 80], ["a", "b"])
    assert scorer.details() == {"truncated": [0, 1]}


def test_a_classifier_that_cannot_tell_query_and_answer_apart_is_refused(
    classifier_folder, llama3_tokenizer, tmp_path
):
    shutil.copytree(classifier_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template and puts nothing between a pair"):
        settings_of(tmp_path).build(CPU)
