"""What settings demand of each other, what is probably not meant, and secrets in them."""

import random
import subprocess

import pytest
from planted import FORMATS, draw

from lsp.errors import ConfigError
from lsp.settings.compose import compose
from lsp.settings.rules import warnings

SHORT = ["rollout.max_new_tokens=8", "rollout.max_query_tokens=8"]


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["group_size=1"], "group_size", "one answer learns nothing. Choose group_size=2 or more"),
        (["num_queries=1"], "num_queries", "against the mean over the step's queries. Choose"
         " num_queries=2 or more, or method.challenger_weight=0"),
        (["method=grpo", "method.challenger_weight=1"], "method.challenger_weight",
         "data set, so there is no Challenger to train. Choose method.challenger_weight=0"),
        (["method.challenger=reference"], "method.challenger_weight", "frozen reference writes the"
         " queries, so there is no Challenger to train. Choose method.challenger_weight=0"),
        (["world=paper", "method.challenger_reward=band"], "method.challenger_reward",
         "needs a reward with a known range, and this one has none. Choose"),
        (["world=paper", "method=absolute_zero"], "method.challenger_reward",
         "none. Choose method.challenger_reward=negative_value"),
        (["method=grpo", "method.earlier_challengers=0.5"], "method.earlier_challengers",
         "asks earlier Challengers, and this run has none that learns. Choose 0"),
        (["method=frozen_challenger", "method.earlier_challengers=1"], "method.earlier_challengers",
         "this run has none that learns. Choose 0"),
        (["method=pool", "checkpoint.every=0"], "method.earlier_challengers",
         "are the run's checkpoints, and it saves none on the way. Choose checkpoint.every=50"),
        (["method.earlier_challengers=1.5"], "method.earlier_challengers", "must be at most 1"),
        (["init=checkpoint"], "init.run", "does not say which. Give init.run="),
        (["init.run=x"], "init.run", "init=base starts from model.name and reads no run. Say"),
        (["hardware.parallel=fsdp", "model.lora.rank=4"], "hardware.parallel",
         "small adapters beside whole weights. Choose hardware.parallel=ddp, or model.lora.rank=0"),
        (["runtime.device=gpu"], "runtime.device", "is no device. Choose auto, cpu or cuda"),
        (["hardware.gpu=b17"], "hardware.gpu", "Choose one of rtx4080, rtx4090, a100, h100, h200"),
        (["hardware.gpu=h100", "hardware.tokens_per_second=9"], "hardware.tokens_per_second",
         "is a CPU's, and the hours are those of hardware.gpu=h100. Set one of the two to null"),
        (["world=paper", "model=pocket", *SHORT], "model.name", "Choose another model"),
        (["rollout.max_new_tokens=500"], "rollout.max_new_tokens",
         "the llama model has a context of 128 tokens. Choose less than 128, prompts included"),
        (["prompts.challenger='{foo}'"], "prompts.challenger", "{foo} has no value"),
        (["model.name=./nowhere"], "model.name", "there is no model in that folder. Give a folder"),
        (["world=paper", "eval=pocket"], "eval", "of the pocket world. Choose eval=none"),
        (["method=grpo", "world=paper", "data.path=gone.jsonl"], "data",
         "there is no file gone.jsonl. Give data.path="),
        (["tracker.project=team/proj"], "tracker.project", "holds the entity too. Write"
         " tracker.entity=team tracker.project=proj"),
        (["tracker.project='50%'"], "tracker.project", "holds %, which no W&B project has in its"),
        ([r"rollout.stop=['\n\n']"], "rollout.stop", "a backslash and a letter: Hydra reads no"
         """ escapes, so it never matches. Write $'rollout.stop=["\\n"]' in bash, or "\\n" in"""),
        ([r"prompts.challenger_stop=['a\t']"], "prompts.challenger_stop", "it never matches"),
    ],
)  # fmt: skip
def test_one_broken_rule_one_message(overrides, key, says):
    with pytest.raises(ConfigError) as raised:
        compose(overrides)
    (problem,) = raised.value.problems
    assert problem.key == key and says in str(problem)


def test_stop_strings_are_as_the_advice_has_them():
    """The words of the message, read by bash; a backslash of LaTeX is not an escape."""
    said = subprocess.run(
        ["bash", "-c", r"""printf %s $'rollout.stop=["\n"]'"""], capture_output=True
    )
    assert compose([said.stdout.decode()]).rollout.stop == ("\n",)
    latex = (r"\neq", r"\text{", r"\end")
    assert compose([r"rollout.stop=['\neq','\text{','\end']"]).rollout.stop == latex


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=pool", "checkpoint.every=50", "checkpoint.keep=1"],  # all that may ask are kept
        ["world=paper", "method=anchored_challenger"],  # rewarded for nothing, of whatever range
        ["world=paper", "method=spiral"],
        ["world=paper", "method=gated_penalised"],
    ],
    ids=" ".join,
)
def test_what_a_rule_does_not_concern_is_allowed(overrides):
    compose(overrides)


def test_all_broken_rules_come_together():
    with pytest.raises(ConfigError) as raised:
        compose(["group_size=1", "num_queries=1", "init=checkpoint", "runtime.device=gpu"])
    text = str(raised.value)
    assert text.startswith("4 problems in the settings\n")
    for key in ("group_size=1", "num_queries=1", "init.run", "runtime.device=gpu"):
        assert f"\n  {key}: " in text


SECRET = draw(FORMATS["Groq"], random.Random(1))


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("run_name={}", "key of a known beginning"),
        ("tracker.project={}", "key of a known beginning"),
        ("model.name=https://me:{}@host/m", "credentials in an address"),
        ("reward.url='https://host/r?key={}'", "key of a known beginning"),
        ("reward.url='https://host/r?key=my-own'", "key in an address"),
        ("reward.url=https://host/{}/r", "key of a known beginning"),
    ],
)
def test_a_setting_that_holds_a_secret_is_refused_without_showing_it(setting, kind):
    with pytest.raises(ConfigError, match="looks like a secret. Keys come from") as raised:
        compose(["reward=http", "reward.url=http://host/r", setting.format(SECRET)])
    assert f"(found: {kind})" in str(raised.value) and SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "setting",
    ["reward.urll=https://host/{}", "reward.api_key={}", "num_steps={}", "method={}", "{}",
     "run_name=[{}", "method.{}=1", "reward._target_=my.{}"],
)  # fmt: skip
def test_no_other_message_shows_a_secret_in_a_wrong_place(setting):
    with pytest.raises(ConfigError) as raised:
        compose(["reward=http", "reward.url=http://host/r", setting.format(SECRET)])
    assert SECRET not in str(raised.value) and SECRET[10:] not in repr(raised.value.problems)


def test_a_folder_that_a_variable_of_keys_names_may_be_a_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_DIR", str(tmp_path))
    assert compose([f"run_dir={tmp_path}/run"]).run_dir == f"{tmp_path}/run"
    monkeypatch.setenv("JUDGE_KEY", "my-very-own-words")
    with pytest.raises(ConfigError, match=r"run_name: .* \(found: value of JUDGE_KEY\)"):
        compose(["run_name=my-very-own-words"])


def test_what_is_allowed_and_probably_not_meant_is_warned_of():
    assert warnings(compose([])) == []
    (text,) = warnings(compose(["rollout.top_p=0.9"]))
    assert text.startswith("rollout.top_p below 1: ") and "updates are off-policy" in text
    (text,) = warnings(compose(["method.kl_estimator=k1"]))
    assert text.startswith("method.kl_estimator=k1: ") and "k2 is the penalty meant" in text
    assert warnings(compose(["method.kl_estimator=k1", "method.beta=0"])) == []
