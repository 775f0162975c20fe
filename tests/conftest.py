"""Shared by all tests: no network, one thread, the shipped pocket model, small runs made once."""

import copy
import importlib.util
import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.pop("WANDB_API_KEY", None)

import pytest
import torch

torch.set_num_threads(1)
# What a test sends must arrive, here and in the processes of tests, though nohup started them all.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from lsp.algorithm import Recorder, train  # noqa: E402
from lsp.errors import Interrupted  # noqa: E402
from lsp.loop.launch import load, start  # noqa: E402
from lsp.loop.progress import Progress  # noqa: E402
from lsp.model.processes import ALONE  # noqa: E402
from lsp.players import load_players  # noqa: E402
from lsp.run.init import resolve_init  # noqa: E402
from lsp.run.spec import RunSpec  # noqa: E402
from lsp.settings import compose as composing  # noqa: E402
from lsp.settings.compose import compose  # noqa: E402

SMALL = [
    "num_steps=3",
    "num_queries=4",
    "group_size=3",
    "eval.every=2",
    "eval.dev_per_cell=2",
    "eval.test_per_cell=2",
    "eval.challenger_samples=8",
    "eval.exact=false",
    "checkpoint.every=2",
]


@pytest.fixture
def small():
    """Overrides of the smallest run in which every part still works."""
    return list(SMALL)


@pytest.fixture(scope="session")
def players():
    """The shipped base as policy and reference."""
    config = compose(["tracker=none"])
    return load_players(config, resolve_init(config))


@pytest.fixture(scope="session", autouse=True)
def files_are_composed_once():
    """Hydra would read the same files of conf/ a thousand times, a tenth of a second each: what a
    command line comes to is kept. What is read is checked anew each time."""
    real, kept = composing._compose, {}

    def compose_once(root, overrides, problems):
        if root != composing.CONF:
            return real(root, overrides, problems)
        key = (str(root), *overrides)
        if key not in kept:
            count = len(problems)
            tree = real(root, overrides, problems)
            if len(problems) > count:
                return tree
            kept[key] = tree
        return copy.deepcopy(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "_compose", compose_once)
        yield


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs end without curves.png and report.html, which take longer than three steps; for tests
    of a run that do not look at them."""
    monkeypatch.setattr("lsp.report.curves.save_curves", lambda record, path: None)
    monkeypatch.setattr("lsp.report.page.write_report", lambda records, path: path)


class InMemory(Recorder):
    """What ``train`` records to, kept: ``lines`` of metrics, one a step, and trace ``rows``."""

    def __init__(self):
        self.lines, self.rows = [], []

    def begin(self):
        """Nothing to evaluate."""

    def record(self, step, queries, play, metrics, make_rows):
        self.lines.append({"step": step, **metrics})
        self.rows += make_rows()
        return False

    def interrupt(self, step):
        raise AssertionError("nobody asks it to stop")

    def end(self):
        return {}


@pytest.fixture(scope="session")
def train_in_memory():
    """``(lines, rows) = train_in_memory(overrides)`` trains as a run does, without a folder, an
    evaluation, pictures and a report: for tests that ask what is trained and logged."""

    def made(overrides):
        config = compose(overrides)
        spec = RunSpec(config, "in memory", resolve_init(config))
        players, learner, _ = load(spec, ALONE)
        recorder = InMemory()
        train(spec, players, learner, recorder)
        return recorder.lines, recorder.rows

    return made


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory):
    """(folder, what it said) of a run that SIGTERM stopped after the second of five steps; nothing
    was evaluated, and its only checkpoint is that of step 2."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    shown = Progress.step

    def show_and_signal(progress, step, metrics):
        shown(progress, step, metrics)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted) as raised:
        patch.setattr(Progress, "step", show_and_signal)
        start([*SMALL[1:3], "num_steps=5", "eval=none", "tracker=none", "objective=null",
               "checkpoint.every=0", f"run_dir={folder}"])  # fmt: skip
    return folder, str(raised.value)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """(folder, summary) of a finished LSP run of three steps, tracked by W&B offline."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    summary = start([*SMALL, f"run_dir={folder}", "method=lsp"])
    return folder, summary


LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = 'today' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string }}<|eot_id|>"
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def llama3_tokenizer():
    """A byte-level BPE with Llama 3's special tokens and the shape of its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(
        ["write a poem about the sea\n\nuser assistant system"] * 8, trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special[0],
        eos_token=special[1],
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = LLAMA3_TEMPLATE
    return tokenizer


def llama_config(vocabulary: int, **more):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        **more,
    )


@pytest.fixture(scope="session")
def llama_folder(llama3_tokenizer, tmp_path_factory):
    """A random Llama with grouped-query attention, as ``from_pretrained`` loads it."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(llama_config(len(llama3_tokenizer))).save_pretrained(folder)
    llama3_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(llama3_tokenizer, tmp_path_factory):
    """A random reward model: a Llama sequence classifier with one output."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("classifier")
    config = llama_config(len(llama3_tokenizer), num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    llama3_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def deberta_folder(tmp_path_factory):
    """A random DeBERTa-v2 reward classifier: a Unigram tokenizer that encodes pairs, no chat
    template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    backend.train_from_iterator(["write a poem about the sea user assistant [SEP]"] * 8, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("deberta")
    config = DebertaV2Config(
        vocab_size=64,  # more than the tokenizer's, as in DeBERTa-v3
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        type_vocab_size=2,
        initializer_range=0.3,
        num_labels=1,
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _load(name):
    """A module beside this file; importlib mode keeps tests/ off the path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load("advice")  # which the tests of that name import
_load("planted")  # which the tests of secrets import
_load("bad_answers")
_load("browser")
from browser import chromium, visit  # noqa: E402, F401, fixtures of tests that look at pages

_load("odd_commands")
_load("vllm_engines")


@pytest.fixture
def wandb_stub():
    """A W&B server on loopback."""
    _load("wandb_artifacts")  # which wandb_stub imports
    with _load("wandb_stub").WandbStub() as stub:
        yield stub
        assert not stub.unknown + stub.errors


@pytest.fixture
def hub_stub():
    """Makes a Hub on loopback: ``hub_stub({"owner/name": folder}, gated=("owner/other",))``."""
    servers = []

    def make(repos, gated=()):
        servers.append(_load("hub_stub").HubStub(repos, gated))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        assert not server.unknown


@pytest.fixture
def judge_server():
    """Makes judges on loopback: ``judge_server(fault_rate=0.3)``; ``judge_server("Grading")``: one
    of ``reward=judge``."""
    servers = []

    def make(kind="Judge", **settings):
        servers.append(getattr(_load("judge_server"), f"{kind}Server")(**settings))
        return servers[-1]

    yield make
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture
def vllm_stub(players):
    """Makes vLLM servers on loopback that sample from the shipped base: ``vllm_stub(name=…)``."""
    servers = []

    def make(**settings):
        servers.append(_load("vllm_stub").VllmStub(players.policy, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
