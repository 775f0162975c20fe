"""Settings as a new user gets them wrong: every mistake at once, each with a way out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lsp.errors import ConfigError, Problem
from lsp.plan.text import plan
from lsp.settings.compose import CONF, compose, written
from lsp.settings.rules import from_tree
from lsp.settings.schema import flat, to_tree

SHORT = ["rollout.max_new_tokens=8", "rollout.max_query_tokens=8"]
TO_BE_GIVEN = {"http": ["reward.url=http://host/r"], "callable": ["reward.path=math.dist"]}
METHODS = ["lsp", "lsp_zero", "grpo", "untrained_challenger", "frozen_challenger"]


def problems_of(*overrides):
    with pytest.raises(ConfigError) as raised:
        compose(overrides)
    return {problem.key: str(problem) for problem in raised.value.problems}


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "overrides",
    [
        *[[f"world={world}", f"method={m}"] for world in choices("world") for m in METHODS],
        *[[f"init={init}", "init.run=x"] for init in ("grpo", "checkpoint")],
        *[[f"tracker={tracker}"] for tracker in choices("tracker")],
        *[[f"eval={name}"] for name in choices("eval")],
        *[[f"reward={name}", *TO_BE_GIVEN.get(name, [])] for name in choices("reward")],
        ["world=paper", *[f"{g}={n}" for g, n in (("data", "alpaca"), ("prompts", "paper"))]],
    ],
    ids=" ".join,
)
def test_every_yaml_composes_into_a_valid_config(overrides):
    config = compose(overrides)
    assert from_tree(to_tree(config), written(overrides)) == config


def test_a_world_picks_model_prompts_data_reward_and_evaluation_together():
    pocket, paper = compose([]), compose(["world=paper"])
    assert (pocket.model.name, pocket.world) == ("pocket", "pocket")
    assert paper.model.name == "meta-llama/Llama-3.2-3B-Instruct"
    assert paper.reward.name == "Skywork/Skywork-Reward-V2-Llama-3.2-3B"
    assert paper.data.path == "tatsu-lab/alpaca"
    assert paper.eval is None and pocket.eval is not None
    assert compose(["world=paper", "model=pocket", "model.name=x"]).model.name == "x"


def test_lsp_zero_is_lsp_with_one_line_changed():
    lsp, zero = flat(compose(["method=lsp"])), flat(compose(["method=lsp_zero"]))
    assert {k for k in lsp if lsp[k] != zero[k]} == {"method.self_reward_weight"}
    assert zero["method.self_reward_weight"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_method_file_bears_the_name_of_what_it_does(method):
    assert compose([f"method={method}"]).method.label == method


def test_the_command_line_wins_over_every_file():
    config = compose(["world=paper", "num_steps=7", "optim.lr=0.5", "rollout.max_rows=3"])
    assert (config.num_steps, config.optim.lr, config.rollout.max_rows) == (7, 0.5, 3)


@pytest.mark.parametrize("world", choices("world"))
def test_what_a_world_file_sets_is_what_runs(world):
    """With ``_self_`` in the wrong place Hydra would silently keep the root's value."""
    written = yaml.safe_load((CONF / "world" / f"{world}.yaml").read_text())
    written.pop("defaults")
    composed = flat(compose([f"world={world}"]))

    def leaves(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    for key, value in leaves(written):
        assert composed[key] == value, key


def test_all_mistakes_are_reported_together():
    found = problems_of(
        "method=lps", "group_size=1.5", "num_generations=4", "+bogus=3", "optim.lrr=1", "seed=x"
    )
    assert set(found) == {"method", "group_size", "num_generations", "bogus", "optim.lrr", "seed"}


def test_a_wrong_leaf_hides_no_rule_between_settings():
    found = problems_of(
        "group_size=1", "num_queries=1", "method.beta=-1", "seed=x", "model.name=./nowhere"
    )
    assert set(found) == {"group_size", "num_queries", "method.beta", "seed", "model.name"}


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["method=lps"], "method", "there is no conf/method/lps.yaml. Did you mean method=lsp"),
        (["world=papr"], "world", "Did you mean world=paper"),
        (["tracker=mlflow"], "tracker", "Choose one of none, wandb"),
        (["group_size=1"], "group_size", "one answer learns nothing. Choose group_size=2 or more"),
        (["num_queries=1"], "num_queries", "against the mean over the step's queries"),
        (["method.beta=-0.1"], "method.beta", "must be at least 0"),
        (["optim.lr=0"], "optim.lr", "must be above 0"),
        (["optim.lr=fast"], "optim.lr", "must be a number"),
        (["optim.lr=inf"], "optim.lr", "must be finite"),
        (["num_steps=two"], "num_steps", "must be a whole number"),
        (["num_steps=true"], "num_steps", "must be a whole number"),
        (["num_steps=null"], "num_steps", "must be a whole number"),
        (["dry_run=1"], "dry_run", "must be true or false"),
        (["model.name=5"], "model.name", "must be text"),
        (["prompts.template_tags=x"], "prompts.template_tags", "must be a list of text"),
        (["method.kl_estimator=k4"], "method.kl_estimator", "Choose one of k1, k2, k3, exact"),
        (["rollout.top_p=1.5"], "rollout.top_p", "must be at most 1"),
        (["rollout.stop=x"], "rollout.stop", "must be a list of text"),
        (["method.self_reward_weight=0"], "method.self_reward_weight", "Say method=lsp_zero"),
        (["method=lsp", "method.self_reward_weight=0"], "method.self_reward_weight", "LSP-Zero"),
        (["method=grpo", "method.challenger_weight=1"], "method.challenger_weight", "data set"),
        (["method.challenger=reference"], "method.challenger_weight", "frozen reference writes"),
        (["init=checkpoint"], "init.run", "Give init.run="),
        (["init.run=x"], "init.run", "init=base starts from model.name"),
        (["runtime.device=gpu"], "runtime.device", "Choose auto, cpu or cuda"),
        (["optim.beta1=1"], "optim.beta1, optim.beta2", "lie below 1"),
        (["world=paper", "model=pocket", *SHORT], "model.name", "Choose another model"),
        (["rollout.max_new_tokens=500"], "rollout.max_new_tokens", "a context of 128 tokens"),
        (["prompts.challenger='{foo}'"], "prompts.challenger", "{foo} has no value"),
        (["seed=99999999999"], "seed", "must be at most 4294967295"),
        (["model.name=./nowhere"], "model.name", "there is no model in that folder"),
        (["world=paper", "eval=pocket"], "eval", "Choose eval=none"),
        (["eval=none", "eval.every=5"], "eval.every", "no such setting"),
        (["world=paper", "method.challenger_reward=band"], "method.challenger_reward", "range"),
        (["~optim.lr"], "~optim.lr", "cannot be deleted"),
        (["seed=[1"], "seed=[1", "Write key=value"),
        (["=5"], "=5", "names no setting"),
        (["seed=0,1"], "seed", "is several values. Add -m for a run of each"),
        (["init.run=${nothing}"], "command line", "nothing"),
        (["method={beta: 1}"], "method", "there is no conf/method"),
        (["optim=5"], "optim", "is one value"),
        (["reward._target_=os.system"], "reward._target_", "is no dataclass with build()"),
        (["reward._target_=no.such.thing"], "reward._target_", "cannot be imported"),
        (["optim=null"], "optim", "is one value"),
        (["+optim.lrr=1"], "optim.lrr", "Did you mean optim.lr"),
        (["+seed.x=1"], "seed.x", "no such setting"),
        (["reward=pocket", "reward.credit=half"], "reward.credit", "Choose one of partial, exact"),
        (
            ["method=grpo", "world=paper", "data.path=gone.jsonl"],
            "data",
            "there is no file gone.jsonl",
        ),
    ],
)  # fmt: skip
def test_one_mistake_one_message(overrides, key, says):
    found = problems_of(*overrides)
    assert list(found) == [key] and says in found[key]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("num_generations", "group_size"),
        ("max_steps", "num_steps"),
        ("output_dir", "run_dir"),
        ("kl_coef", "method.beta"),
        ("alpha", "method.challenger_weight"),
        ("lr", "optim.lr"),
        ("batch_size", "num_queries × group_size"),
        ("beta", "method.beta"),
        ("optim.learning_rate", "optim.lr"),
    ],
)
def test_names_from_elsewhere_are_translated_and_refused(theirs, ours):
    for plus in ("", "+"):
        (message,) = problems_of(f"{plus}{theirs}=8").values()
        assert "another trainer's name" in message and ours in message


def test_a_missing_setting_and_a_foreign_target_in_a_saved_config_are_refused():
    tree = to_tree(compose([]))
    del tree["seed"]
    tree["reward"]["_target_"] = "subprocess.Popen"
    with pytest.raises(ConfigError) as raised:
        from_tree(tree)
    text = str(raised.value)
    assert "seed: is missing" in text
    assert "is not run from a config file. Write reward._target_=subprocess.Popen on the" in text


def test_a_problem_reads_as_key_value_reason_way_out():
    assert str(Problem("a.b", 3, "is odd", "choose 4")) == "a.b=3: is odd. Choose 4."


def test_validation_loads_no_torch_and_is_quick():
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from lsp.settings.compose import compose\n"
        "from lsp.settings.config import ConfigError\n"
        "try: compose(['method=lps'])\n"
        "except ConfigError as e: print(e)\n"
        "compose(['world=paper', 'method=grpo'])\n"
        "compose(['reward=weighted'])\n"
        "compose(['reward=http', 'reward.url=http://host/r'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print(time.perf_counter() - start)"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert "Did you mean method=lsp" in result.stdout


def test_dry_run_says_what_a_config_comes_to(tmp_path):
    config = replace(compose(["num_steps=10"]), runs_root=str(tmp_path))
    text = plan(config)
    # 24 x 8 answers of at most 12 tokens and 24 queries of at most 24: 2,880 a step.
    assert "24 queries × 8 answers; 216 rows in the loss, 192 judged" in text
    assert "at most 2,880 sampled tokens" in text and "1,920 answers" in text
    assert "pocket (llama, 0.5 MB of weights)" in text
    grpo = replace(compose(["init=grpo"]), runs_root=str(tmp_path))
    assert "a run of method=grpo, made first" in plan(grpo)
    paper = replace(compose(["init=grpo", "world=paper"]), runs_root=str(tmp_path))
    assert "missing: init=grpo: there is no finished run of method=grpo" in plan(paper)
