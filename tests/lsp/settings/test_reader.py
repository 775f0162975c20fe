"""A tree of plain values becomes settings, or one report with every problem."""

from copy import deepcopy

import pytest

from lsp.errors import ConfigError, Problem
from lsp.settings.compose import compose, written
from lsp.settings.reader import unknown_key
from lsp.settings.rules import from_tree
from lsp.settings.schema import to_tree

DEFAULT = to_tree(compose([]))


def tree_with(**changes):
    """The default settings as plain values; ``changes`` by dotted keys with ``__`` for a dot."""
    tree = deepcopy(DEFAULT)
    for key, value in changes.items():
        *groups, name = key.split("__")
        node = tree
        for group in groups:
            node = node[group]
        node[name] = value
    return tree


def refused(tree, trusted=None):
    with pytest.raises(ConfigError) as raised:
        from_tree(tree, trusted or {})
    return {problem.key: str(problem) for problem in raised.value.problems}


def problems_of(*texts):
    """Of settings as they are typed, put over the default ones."""
    values = written(texts)
    changes = {key.replace(".", "__"): value for key, value in values.items()}
    return refused(tree_with(**changes), values)


def test_a_problem_reads_as_key_value_reason_way_out():
    assert str(Problem("a.b", 3, "is odd", "choose 4")) == "a.b=3: is odd. Choose 4."


BEYOND = {
    "num_queries=1000000000": "num_queries=1000000000: must be at most 65536. Choose"
    " num_queries=65536 or less.",
    "runtime.threads=100000": "runtime.threads=100000: must be at most 1024. Choose"
    " runtime.threads=1024 or less.",
    "optim.lr=1e9": "optim.lr=1000000000.0: must be at most 10. Choose optim.lr=10 or less.",
    "rollout.temperature=1e-9": "rollout.temperature=1e-09: must be at least 0.01. Choose"
    " rollout.temperature=0.01 or more.",
    "rollout.top_p=1e-12": "rollout.top_p=1e-12: must be at least 0.01. Choose"
    " rollout.top_p=0.01 or more.",
    "collapse.max_unparsed_frac=1e9": "collapse.max_unparsed_frac=1000000000.0: must be at most 1."
    " Choose collapse.max_unparsed_frac=1 or less.",
    "collapse.similarity=50": "collapse.similarity=50: must be at most 1. Choose"
    " collapse.similarity=1 or less.",
    f"tracker.finish_seconds={10**26}": f"tracker.finish_seconds={10**26}: must be at most 86400."
    " Choose tracker.finish_seconds=86400 or less.",
    "seed=99999999999": "seed=99999999999: must be at most 4294967295. Choose seed=4294967295 or"
    " less.",
    "method.beta=-0.1": "method.beta=-0.1: must be at least 0. Choose method.beta=0 or more.",
    "optim.weight_decay=-1": "optim.weight_decay=-1: must be at least 0. Choose"
    " optim.weight_decay=0 or more.",
    "optim.max_grad_norm=0": "optim.max_grad_norm=0: must be at least 1e-06. Choose"
    " optim.max_grad_norm=1e-06 or more.",
    "optim.beta1=1": "optim.beta1=1: must be below 1. Choose a value below 1.",
    "optim.beta2=1.5": "optim.beta2=1.5: must be below 1. Choose a value below 1.",
    "rollout.max_new_tokens=0": "rollout.max_new_tokens=0: must be at least 1. Choose"
    " rollout.max_new_tokens=1 or more.",
}


def test_values_beyond_what_anybody_means_are_refused_all_in_one_report():
    """Key, value, reason and way out of each, word for word; none hides another."""
    found = problems_of(*BEYOND)
    assert found == {text.partition("=")[0]: message for text, message in BEYOND.items()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optim.lr=0", "must be at least 1e-12. Choose optim.lr=1e-12 or more"),
        ("method.self_reward_weight=-1", "must be at least 0. Choose method.self_reward_weight=0"),
        ("method.self_reward_weight=2e6", "must be at most 1000000. Choose"),
        ("method.self_reward_weight=x", "must be a number or auto. Write"),
        ("model.name='a\0b'", "model.name='a\\x00b': holds a character that no file or path can"),
        ("optim.lr=fast", "optim.lr=fast: must be a number. Write optim.lr=<float>"),
        ("optim.lr=true", "must be a number. Write optim.lr=<float>"),
        ("optim.lr=inf", "must be finite. Write a plain number"),
        ("optim.lr=nan", "must be finite. Write a plain number"),
        ("num_steps=two", "num_steps=two: must be a whole number. Write num_steps=<int>"),
        ("num_steps=1.0", "must be a whole number. Write num_steps=<int>"),
        ("num_steps=true", "must be a whole number. Write num_steps=<int>"),
        ("num_steps=null", "num_steps=null: must be a whole number. Write num_steps=<int>"),
        ("dry_run=1", "must be true or false. Write dry_run=<bool>"),
        ("model.name=5", "must be text. Write model.name=<str>"),
        ("run_dir=5", "must be text. Write run_dir=<str>"),
        ("prompts.template_tags=x", "must be a list of texts. Write prompts.template_tags=[…]"),
        ("prompts.template_tags=[1]", "must be a list of texts. Write prompts.template_tags=[…]"),
        ("rollout.stop=x", "must be a list of texts. Write rollout.stop=[…]"),
        ("rollout.top_p=1.5", "must be at most 1. Choose rollout.top_p=1 or less"),
        ("method.kl_estimator=k4", "is no choice here. Choose one of k1, k2, k3, exact"),
        ("reward.credit=half", "is no choice here. Choose one of partial, exact"),
        ("optim=5", "optim=5: is one value. It is a group: optim.<setting>=…"),
        ("optim=null", "optim: is one value. It is a group: optim.<setting>=…"),
        ("optim.lrr=1", "optim.lrr=1: no such setting. Did you mean optim.lr"),
    ],
)
def test_one_value_that_does_not_fit_one_message(text, says):
    (found,) = problems_of(text).items()
    assert found[0] == text.partition("=")[0] and says in found[1]


def test_whole_numbers_stand_for_numbers_and_nothing_else_is_converted():
    assert from_tree(tree_with(optim__lr=1)).optim.lr == 1.0
    assert problems_of("run_name=3", "optim.lr='0.1'").keys() == {"run_name", "optim.lr"}


def test_a_wrong_leaf_hides_no_rule_between_settings():
    found = problems_of(
        "group_size=1", "num_queries=1", "method.beta=-1", "seed=x", "model.name=./nowhere"
    )
    assert set(found) == {"group_size", "num_queries", "method.beta", "seed", "model.name"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reward._target_=os.system", "is no class of settings (lsp.settings.schema.settings)."
         " Mend the class; lsp/contracts.py says what RewardSettings must have"),
        ("reward._target_=no.such.thing", "cannot be imported (No module named 'no'). Correct the"
         " path"),
        ("reward._target_=lsp.rewards.http.Gone", "cannot be imported (module 'lsp.rewards.http'"
         " has no attribute 'Gone'). Correct the path"),
        ("reward._target_=lsp.tracking.trackers.LocalOnly", "does not inherit"
         " lsp.contracts.RewardSettings. Mend the class"),
        ("world._target_=lsp.pocket.verifier.PocketVerifier", "does not inherit"
         " lsp.contracts.World. Mend the class; lsp/contracts.py says what World must have"),
        ("rollout.engine._target_=lsp.pocket.world.PocketWorld", "does not inherit"
         " lsp.contracts.EngineSettings"),
    ],
)  # fmt: skip
def test_a_target_that_is_no_such_part(text, says):
    (found,) = problems_of(text).items()
    assert found[0] == text.partition("=")[0] and says in found[1]


def test_what_a_saved_config_lacks_or_has_too_much_is_told():
    tree = tree_with(optim__qqqq=1)
    del tree["seed"], tree["method"]["beta"]
    found = refused(tree)
    assert found["seed"] == "seed: is missing. Give seed=…."
    assert found["method.beta"] == "method.beta: is missing. Give method.beta=…."
    assert found["optim.qqqq"].startswith("optim.qqqq=1: no such setting. ")
    assert len(found) == 3


def test_a_config_file_runs_no_code_of_others():
    """A foreign target and a consent must stand on the command line, under that very key."""
    tree = tree_with(reward={"_target_": "subprocess.Popen"}, model__trust_remote_code=True)
    assert refused(tree) == {
        "reward._target_": "reward._target_=subprocess.Popen: code outside lsp and eval is not run"
        " from a config file. Write reward._target_=subprocess.Popen on the command line if you"
        " trust it.",
        "model.trust_remote_code": "model.trust_remote_code=true: a config file cannot consent to"
        " run the code that came with a model. Write model.trust_remote_code=true on the command"
        " line if you have read that code and trust it.",
    }
    elsewhere = {"run_name": "subprocess.Popen", "model.name": True, "reward._target_": "os.system"}
    assert refused(tree, elsewhere).keys() == {"reward._target_", "model.trust_remote_code"}
    allowed = {"model.trust_remote_code": True, "reward._target_": "subprocess.Popen"}
    found = refused(tree, allowed)
    assert found.keys() == {"reward._target_"} and "is no class of settings" in str(found)


def test_a_part_without_a_target_says_which_file_to_choose():
    found = refused(tree_with(reward={"credit": "exact"}, rollout__engine=5, tracker=None))
    assert "is no component. Choose a file of conf/reward: reward=<name>" in found["reward"]
    assert "Choose a file of conf/rollout/engine" in found["rollout.engine"]
    assert "Choose a file of conf/tracker: tracker=<name>" in found["tracker"]


def test_an_unknown_key_is_told_with_the_best_way_out():
    known = ["optim.lr", "optim.beta1", "seed"]
    assert unknown_key("optim.lrr", 1, known).fix == "did you mean optim.lr"
    assert unknown_key("unheard_of", 1, known).fix == "known here: seed"
    translated = unknown_key("kl_coef", 0.1, known)
    assert (translated.reason, translated.fix) == (
        "is another trainer's name",
        "its name here is method.beta: write method.beta=0.1",
    )
