"""From a command line to settings: files compose, the command line wins, mistakes are told."""

import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from lsp.errors import ConfigError
from lsp.settings.compose import CONF, compose, written
from lsp.settings.rules import from_tree
from lsp.settings.schema import flat, to_tree

NEEDED = {
    "http": ["reward.url=http://host/r"],
    "vllm": ["rollout.url=[http://host:8000,http://other:8000]"],
    "callable": ["reward.path=math.dist"],
    "judge": ["reward.model=j", "reward.api_key_env=null"],
    "judge_pairwise": [
        "reward.model=j",
        "reward.api_key_env=null",
        "reward.opponent.model=o",
        "reward.opponent.api_key_env=null",
    ],
    "pool": ["checkpoint.keep=3"],
    "instructions": ["world=instructions", "model=smollm2_135m"],
}
METHODS = ["lsp", "lsp_zero", "grpo", "untrained_challenger", "frozen_challenger"]
RULES = {
    "anchored_challenger": {"challenger_reward": "none"},
    "absolute_zero": {
        "challenger_reward": "learnable",
        "query_gate": "legal",
        "invalid_query": "penalty",
        "invalid_query_penalty": 0.5,
    },
    "r_zero": {
        "challenger_reward": "band",
        "repetition_penalty": 1.0,
        "query_gate": "legal",
        "invalid_query": "lowest",
    },
    "spice": {"challenger_reward": "variance"},
    "spiral": {"challenger_baseline": "moving"},
    "open_sir": {"challenger_reward": "solvable", "novelty_weight": 1.0},
    "self_questioning": {"challenger_reward": "undecided"},
    "gated": {"query_gate": "legal"},
    "gated_penalised": {"query_gate": "legal", "invalid_query": "penalty"},
    "pool": {"earlier_challengers": 0.5},
}
"""Method -> what it has that LSP-Zero has not."""


def problems_of(*overrides):
    with pytest.raises(ConfigError) as raised:
        compose(overrides)
    return {problem.key: str(problem) for problem in raised.value.problems}


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "overrides",
    [
        *[
            [f"world={world}", *NEEDED.get(world, []), f"method={method}"]
            for world in choices("world")
            for method in METHODS
        ],
        *[[f"method={name}", *NEEDED.get(name, [])] for name in choices("method")],
        *[[f"init={init}", "init.run=x"] for init in ("grpo", "checkpoint")],
        *[[f"tracker={tracker}"] for tracker in choices("tracker")],
        *[[f"eval={name}", *NEEDED.get(name, [])] for name in choices("eval")],
        *[[f"self_reward={name}"] for name in choices("self_reward")],
        *[[f"rollout.engine={n}", *NEEDED.get(n, [])] for n in choices("rollout/engine")],
        *[[f"reward={name}", *NEEDED.get(name, [])] for name in choices("reward")],
        ["world=paper", *[f"{g}={n}" for g, n in (("data", "alpaca"), ("prompts", "paper"))]],
    ],
    ids=" ".join,
)
def test_every_yaml_composes_into_a_valid_config(overrides):
    config = compose(overrides)
    assert from_tree(to_tree(config), written(overrides)) == config


def test_a_world_picks_model_prompts_data_reward_and_evaluation_together():
    pocket, paper = compose([]), compose(["world=paper"])
    assert (pocket.model.name, pocket.world.name) == ("pocket", "pocket")
    assert paper.world.name == "paper"
    assert paper.model.name == "meta-llama/Llama-3.2-3B-Instruct"
    assert paper.reward.name == "Skywork/Skywork-Reward-V2-Llama-3.2-3B"
    assert paper.data.path == "tatsu-lab/alpaca"
    assert paper.eval is None and pocket.eval is not None
    assert compose(["world=paper", "model=pocket", "model.name=x"]).model.name == "x"


def test_lsp_zero_is_lsp_with_one_line_changed():
    lsp, zero = flat(compose(["method=lsp"])), flat(compose(["method=lsp_zero"]))
    assert {k for k in lsp if lsp[k] != zero[k]} == {"method.self_reward_weight"}
    assert zero["method.self_reward_weight"] == 0


@pytest.mark.parametrize("method", RULES)
def test_rules_of_others_are_lsp_zero_but_for_what_they_say(method):
    zero = vars(compose(["method=lsp_zero"]).method)
    own = vars(compose([f"method={method}", *NEEDED.get(method, [])]).method)
    assert {key: value for key, value in own.items() if value != zero[key]} == RULES[method]


def test_every_method_is_one_of_the_papers_a_control_or_a_rule_of_others():
    assert choices("method") == sorted([*METHODS, *RULES])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_file_bears_the_name_of_what_it_does(method):
    assert compose([f"method={method}"]).method.label == method


def test_the_command_line_wins_over_every_file():
    config = compose(["world=paper", "num_steps=7", "optim.lr=0.5", "rollout.max_rows=3"])
    assert (config.num_steps, config.optim.lr, config.rollout.max_rows) == (7, 0.5, 3)


@pytest.mark.parametrize("world", choices("world"))
def test_what_a_world_file_sets_is_what_runs(world):
    """With ``_self_`` in the wrong place Hydra would silently keep the root's value."""
    tree = yaml.safe_load((CONF / "world" / f"{world}.yaml").read_text())
    tree.pop("defaults")
    composed = flat(compose([f"world={world}", *NEEDED.get(world, [])]))

    def leaves(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    assert {key: composed[key] for key, _ in leaves(tree)} == dict(leaves(tree))


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["method=lps"], "method", "there is no conf/method/lps.yaml. Did you mean method=lsp"),
        (["world=papr"], "world", "Did you mean world=paper"),
        (["tracker=mlflow"], "tracker", "Choose one of none, wandb"),
        (["rollout.engine=sglang"], "rollout/engine", "Choose one of in_process, vllm"),
        (["method={beta: 1}"], "method", "there is no conf/method"),
        (["method.self_reward_weight=0"], "method.self_reward_weight", "Say method=lsp_zero"),
        (["method=lsp", "method.self_reward_weight=0"], "method.self_reward_weight", "LSP-Zero"),
        (["~optim.lr"], "~optim.lr", "cannot be deleted"),
        (["seed=[1"], "seed=[1", "Write key=value"),
        (["=5"], "=5", "names no setting"),
        (["seed=0,1"], "seed", "is several values. Add -m for a run of each"),
        (["init.run=${nothing}"], "command line", "nothing"),
        (["eval=none", "eval.every=5"], "eval.every", "no such setting"),
        (["+seed.x=1"], "seed.x", "no such setting"),
    ],
)
def test_one_mistake_of_a_command_line_one_message(overrides, key, says):
    found = problems_of(*overrides)
    assert list(found) == [key] and says in found[key]


def test_mistakes_of_words_groups_and_values_are_reported_together():
    found = problems_of(
        "method=lps", "group_size=1.5", "num_generations=4", "+bogus=3", "optim.lrr=1", "seed=x"
    )
    assert set(found) == {"method", "group_size", "num_generations", "bogus", "optim.lrr", "seed"}


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


def test_composing_and_refusing_load_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "from lsp.errors import ConfigError\n"
        "from lsp.settings.compose import compose\n"
        "for wrong in (['method=lps'], ['num_queries=1000000000', 'reward._target_=os.system']):\n"
        "    try: compose(wrong)\n"
        "    except ConfigError as error: print(error)\n"
        "    else: raise SystemExit('not refused')\n"
        "for right in ([], ['world=paper', 'method=grpo'], ['reward=weighted'],\n"
        "              ['reward=http', 'reward.url=http://host/r'], ['tracker=none']):\n"
        "    compose(right)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr
    assert "Did you mean method=lsp" in result.stdout
    assert "num_queries=1000000000: must be at most 65536" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("word", "key", "first"),
    [
        ("method=glob(*)", "method.label", "lsp_zero"),  # absolute_zero, by name
        ("method=glob([l*,g*],exclude=[lsp,gated*])", "method.label", "grpo"),
        ("rollout/engine=glob(in*)", "seed", 0),
        ("seed=range(4,8)", "seed", 4),
        ("method.beta=range(0.5,1,0.25)", "method.beta", 0.5),
        ("seed=choice(7,5)", "seed", 7),
        ("seed=sort(7,5,6)", "seed", 5),
        ("seed=shuffle(5,5)", "seed", 5),
        ("seed=shuffle(range(5,6))", "seed", 5),
        ("run_name='a,b',c", "run_name", "a,b"),
        ("rollout.stop=[a,b],[c]", "rollout.stop", ("a", "b")),
    ],
)
def test_a_multirun_takes_what_hydras_sweeper_lists(word, key, first):
    """The first job stands for all; each is composed again when its turn comes."""
    value = attrgetter(key)(compose([word], multirun=True))
    assert value == first
    with pytest.raises(ConfigError, match="is several values. Add -m for a run of each"):
        compose([word])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("method=glob(zz*)", "has no value: no file fits, or the range is empty. List them, a,b,c"),
        ("seed=glob(*)", "has no value"),
        ("rollout.engine=glob(*)", "has no value"),
        ("seed=range(3,1)", "has no value"),
        ("seed=range(1,3,0)", "cannot be listed (range() arg 3 must not be zero)"),
        ("method.beta=range(0.5,1,0.0)", "cannot be listed (Invalid range values"),
        ("method.beta=range(0.0,nan)", "cannot be listed"),
        ("method.beta=range(0.0,inf)", "has more than 10,000 values"),
        ("method.beta=interval(0,1)", "is an interval, of which only a sweeper that optimises can"),
        ("seed=extend_list(1)", "Unknown function"),
        ("seed=range(1,b)", "write key=value"),
    ],
)
def test_what_no_multirun_can_list_is_one_line(word, says):
    with pytest.raises(ConfigError) as raised:
        compose([word], multirun=True)
    (problem,) = raised.value.problems
    assert problem.key == word and says in str(problem).replace("Write", "write")


def test_an_interval_is_left_to_a_sweeper_that_draws():
    words = ["hydra/sweeper=optuna", "method.beta=interval(0.25,1)", "hydra.sweep.dir=a,b"]
    assert compose(words, multirun=True).method.beta == 0.25
