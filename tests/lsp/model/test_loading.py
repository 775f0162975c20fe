"""What a new user meets when a model does not load: one message, with the way out, and no run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from eval.__main__ import evaluate
from eval.settings import read_settings
from lsp.contracts import BuildContext
from lsp.errors import ConfigError, RunError
from lsp.loop.launch import start
from lsp.model.language_model import load_model
from lsp.rewards.reward_model import ClassifierReward
from lsp.settings.compose import compose

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("without_pictures")


def edited(folder, name, **values):
    """A JSON file of a model's folder with other entries; None takes one away."""
    path = folder / name
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def copy(llama_folder, tmp_path):
    return shutil.copytree(llama_folder, tmp_path / "copy")


@pytest.fixture
def run_of(copy, tmp_path):
    """Starts a run of the copied model, as a user does."""
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"instruction": f"Name {i}."}) for i in range(3)))

    def run(*settings):
        return start([
            f"model.name={copy}", "data=alpaca", f"data.path={data}", "method=grpo", "eval=none",
            "tracker=none", "num_steps=1", "num_queries=2", "group_size=2", "objective=null",
            "rollout.max_new_tokens=4", f"run_dir={tmp_path / 'run'}", *settings,
        ])  # fmt: skip

    return run


CODE = """
from pathlib import Path
Path({marker!r}).write_text("it ran")
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnClassifier(LlamaForSequenceClassification):
    pass
"""


def with_code(folder, marker, file="config.json", **values):
    """Make a model folder ask to run a Python file that leaves a marker."""
    (folder / "modeling_own.py").write_text(CODE.format(marker=str(marker)))
    edited(folder, file, **values)


OWN = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Where transformers would put code that it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.advice("lsp/model/loading.py:_refuse_files")
def test_code_that_came_with_a_model_runs_only_where_the_user_says_so(
    copy, run_of, tmp_path, modules
):
    marker = tmp_path / "marker"
    with_code(copy, marker, model_type="own", auto_map=OWN)
    with pytest.raises(RunError) as refused:
        run_of()
    message = str(refused.value)
    assert "asks to run Python code of its own ('auto_map' in config.json)" in message
    assert "write model.trust_remote_code=true on run.py's command line" in message
    assert not marker.exists() and not (tmp_path / "run").exists()
    run_of("model.trust_remote_code=true")
    assert marker.read_text() == "it ran"
    # A resumed run takes no consent from its files.
    marker.unlink()
    with pytest.raises(RunError, match="a config file cannot consent"):
        start([f"resume={tmp_path / 'run'}", "num_steps=2"])
    assert not marker.exists()
    start([f"resume={tmp_path / 'run'}", "num_steps=2", "model.trust_remote_code=true"])
    # Nor does an evaluation.
    marker.unlink()
    evaluation = [f"run={tmp_path / 'run'}", f"runs_root={tmp_path}", "benchmark=pocket",
                  "dtype=float32", "benchmark.max_new_tokens=2"]  # fmt: skip
    with pytest.raises(RunError, match=r"\(trust_remote_code=true on python -m eval's\)"):
        evaluate(read_settings(evaluation))
    assert not marker.exists()
    evaluate(read_settings([*evaluation, "trust_remote_code=true"]))
    assert marker.read_text() == "it ran"


def test_a_tokenizer_that_asks_to_run_code_is_refused(copy, run_of, tmp_path, modules):
    auto_map = {"AutoTokenizer": ["modeling_own.OwnTokenizer", None]}
    with_code(copy, tmp_path / "marker", "tokenizer_config.json", auto_map=auto_map)
    with pytest.raises(RunError, match="'auto_map' in tokenizer_config.json"):
        run_of()
    assert not (tmp_path / "marker").exists()


def test_a_known_architecture_that_asks_to_run_code_is_refused_too(copy, run_of):
    edited(copy, "config.json", auto_map={"AutoModelForCausalLM": "gone.Gone"})
    with pytest.raises(RunError, match="asks to run Python code of its own"):
        run_of()


def test_a_reward_model_that_asks_to_run_code(classifier_folder, tmp_path, modules):
    folder = shutil.copytree(classifier_folder, tmp_path / "classifier")
    auto_map = {"AutoModelForSequenceClassification": "modeling_own.OwnClassifier"}
    with_code(folder, tmp_path / "marker", auto_map=auto_map)
    settings = {"name": str(folder), "revision": None, "dtype": "float32", "date_string": "1 Jan",
                "max_length": 100, "max_tokens": 200}  # fmt: skip
    with pytest.raises(ValueError, match="write reward.trust_remote_code=true"):
        ClassifierReward(trust_remote_code=False, **settings).build(BuildContext(compose([]), CPU))
    assert not (tmp_path / "marker").exists()
    scorer = ClassifierReward(trust_remote_code=True, **settings).build(
        BuildContext(compose([]), CPU)
    )
    assert len(scorer(["sea"], ["a"])) == 1 and (tmp_path / "marker").exists()


@pytest.mark.parametrize("key", ["model.trust_remote_code", "reward.trust_remote_code"])
def test_consent_is_given_on_the_command_line_alone(key, monkeypatch, tmp_path):
    assert compose(["world=paper", f"{key}=true"])
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    group = key.partition(".")[0]
    path = conf / group / {"model": "llama_3b.yaml", "reward": "skywork.yaml"}[group]
    path.write_text(path.read_text().replace("code: false", "code: true"))
    monkeypatch.setattr("lsp.settings.compose.CONF", conf)
    with pytest.raises(ConfigError, match=f"{key}=true: a config file cannot consent"):
        compose(["world=paper"])
    assert compose(["world=paper", f"{key}=false"])


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "model").glob("*.yaml")))
def test_no_shipped_model_runs_code(path):
    model = yaml.safe_load(path.read_text())
    for base in model.get("defaults", ()):
        model = yaml.safe_load((path.parent / f"{base}.yaml").read_text()) | model
    assert model["trust_remote_code"] is False


def test_a_reward_model_as_policy_is_refused(run_of, classifier_folder, copy, tmp_path):
    with pytest.raises(RunError, match=r"no causal language model.*give it as reward\.name"):
        run_of(f"model.name={classifier_folder}")
    # The same weights under a config that says nothing: the head would be random.
    folder = shutil.copytree(classifier_folder, tmp_path / "silent")
    edited(folder, "config.json", architectures=None)
    with pytest.raises(RunError, match="hold no lm_head.weight and hold score.weight"):
        run_of(f"model.name={folder}")
    # With a tied head nothing is missing, so that transformers would only warn of the rest.
    edited(folder, "config.json", tie_word_embeddings=True)
    with pytest.raises(RunError, match="they hold score.weight, which it does not have"):
        run_of(f"model.name={folder}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "hold no model.layers.0.mlp.up_proj.weight;"),
        ("unexpected", "hold model.layers.7.mlp.up_proj.weight, which it does not have"),
        ("shape", "cannot be loaded"),
        ("cut", "a file of its weights is damaged or was not fetched whole"),
        ("header", "a file of its weights is damaged or was not fetched whole"),
        ("absent", "weights as safetensors"),
        ("nan", "not finite"),
    ],
)
def test_weights_that_are_damaged_or_do_not_fit_are_refused(copy, run_of, capfd, change, message):
    file, name = copy / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    weights = load_file(file)
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["model.layers.7.mlp.up_proj.weight"] = weights[name].clone()
    elif change == "shape":
        weights[name] = weights[name][:, :5].contiguous()
    elif change == "nan":
        weights[name][0, 0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    if change == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif change == "header":
        file.write_bytes(b"\xff" * 64)
    elif change == "absent":
        file.unlink()
    capfd.readouterr()
    with pytest.raises(RunError, match=message):
        run_of()
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_a_tokenizer_larger_than_the_embeddings_is_refused(copy, run_of, llama3_tokenizer):
    weights = load_file(copy / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:-3].contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    size = len(llama3_tokenizer)
    edited(copy, "config.json", vocab_size=size - 3)
    with pytest.raises(RunError, match=f"knows {size} tokens, .* embeddings for {size - 3}:"):
        run_of()


def test_a_tokenizer_without_chat_template_is_one_message(copy, run_of):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(RunError, match="has no chat template, so roles cannot be told apart"):
        run_of()


def test_an_adapter_is_no_model(copy, run_of):
    (copy / "config.json").rename(copy / "adapter_config.json")
    with pytest.raises((ConfigError, RunError), match="there is no model in that folder"):
        run_of()
    with pytest.raises(ValueError, match=r"it is an adapter; give its base as model\.name"):
        load_model(copy, "float32", CPU)


def test_queries_beyond_the_context_are_left_out_and_counted(run_of, tmp_path, capfd):
    data = tmp_path / "long.jsonl"
    texts = ["Name one.", "word " * 700, "Name two."]
    data.write_text("\n".join(json.dumps({"instruction": text}) for text in texts))
    run_of(f"data.path={data}")
    assert "warning: 1 of 3 queries of the data set are too long" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["queries_left_out"] == 1
    data.write_text(json.dumps({"instruction": "word " * 700}))
    with pytest.raises(RunError, match="no query of the data set fits: the shortest has .* tokens"):
        run_of(f"data.path={data}", f"run_dir={tmp_path / 'other'}")


@pytest.mark.parametrize("judged", [False, True])
def test_the_longest_query_that_is_kept_just_fits(run_of, tmp_path, judged):
    """A z is a token here, so that some query fills the context to the last one."""
    from lsp.model.context import answer_tokens
    from lsp.players import load_players

    data = tmp_path / "edge.jsonl"
    texts = ["z" * n for n in range(400, 490)]
    data.write_text("\n".join(json.dumps({"instruction": text}) for text in texts))
    kept = []

    def loaded(*arguments):
        players = load_players(*arguments)
        kept.extend(players.dataset)
        for query, fits in ((max(kept, key=len), True), (max(kept, key=len) + "z", False)):
            needed = answer_tokens(players.chat, players.config, len(query))
            assert (max(needed[who] for who in readers) <= 512) == fits
        return players

    readers = ["the Solver", "the judge"] if judged else ["the Solver"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.players.load_players", loaded)
        run_of(f"data.path={data}", "num_queries=90", "rollout.max_new_tokens=8",
               "prompts.judge=rate", f"method.log_quality={str(judged).lower()}")  # fmt: skip
    assert 0 < len(kept) < len(texts)


LOADS = """
import json, resource, signal, sys
from lsp.model.language_model import load_model
import torch
messages = []
for name, revision in json.loads(sys.argv[1]):
    if name == "some/large":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        load_model(name, "float32", torch.device("cpu"), revision)
        messages.append("loaded")
    except ValueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


@pytest.mark.slow
def test_what_the_hub_answers_is_told_with_the_way_out(hub_stub, llama_folder, tmp_path):
    """The Hub's own answers, from a server on loopback; a file-size limit stands in for the full
    disk."""
    hub = hub_stub({"some/one": llama_folder, "some/large": llama_folder}, gated=("some/gated",))
    expected = {
        ("some/one", None): "loaded",
        ("some/one", "nope"): "it has no revision 'nope'; give a branch, tag or commit",
        ("some/gated", None): "it is gated, and no token was found. Ask for access at",
        ("no/body", None): "the Hub has no such model, or it is private; check the name",
        ("some/large", None): "there is no space left for its files",
    }
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}

    def run(*command, **variables):
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment | variables, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip

    result = run("-c", LOADS, json.dumps(list(expected)))
    assert result.returncode == 0, result.stderr
    for message, part in zip(json.loads(result.stdout), expected.values(), strict=True):
        assert part in message and "Traceback" not in message
    assert "Traceback" not in result.stderr
    # As a user starts it, with a token that was not granted access.
    result = run(
        "run.py", "world=paper", "model.name=some/gated", "method=lsp_zero", "tracker=none",
        "reward=callable", "reward.path=math.sqrt", f"run_dir={tmp_path / 'run'}", HF_TOKEN="hf_x",
    )  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "is gated, and the token in use was not granted it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_offline_without_a_cache_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set, and it is not whole in the cache"):
        load_model("some/one", "float32", CPU)
