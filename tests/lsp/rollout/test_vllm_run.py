"""Whole runs whose rollouts come from a vLLM server on loopback (tests/vllm_stub.py)."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from advice import commands, execute, refused

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.rollout.vllm import POLICY
from lsp.run.folder import read_run
from lsp.settings.compose import compose
from lsp.settings.rules import warnings
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.usefixtures("without_pictures")
ROOT = Path(__file__).parents[3]
SMALL = ["num_queries=2", "group_size=2", "eval=none", "tracker=none", "rollout.temperature=3"]
GRPO = [*SMALL, "method=grpo", "reward=pocket", "optim.lr=1e-2", "optim.warmup_steps=0"]


def asks(*servers):
    return ["rollout.engine=vllm", f"rollout.url=[{','.join(server.url for server in servers)}]"]


def rows_of(folder):
    columns = ("step", "query", "answer", "reward")
    return [[row[name] for name in columns] for row in read_trace(folder)]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_learns_from_rows_of_servers_and_repeats_itself(vllm_stub, tmp_path, rank):
    names = [POLICY if rank == 0 else "reference"] * 2
    more = [*GRPO, f"model.lora.rank={rank}", "num_steps=3"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        servers = [vllm_stub(name=name) for name in names]
        start([*more, *asks(*servers), f"run_dir={folder}"])
        assert all(server.bodies for server in servers)
    assert rows_of(folders[0]) == rows_of(folders[1])
    lines = read_metrics(folders[0])
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert max(line["rollout/logprob_mismatch"] for line in lines) < 1e-4
    assert lines[-1]["kl/solver/k2"] > 1e-4  # the weights that were sampled from have moved


def test_the_challenger_asks_and_is_evaluated_through_the_server(vllm_stub, tmp_path):
    """The policy's evaluation after the last update is that of the pushed weights."""
    server, folder = vllm_stub(), tmp_path / "run"
    small = ["eval.every=1", "eval.dev_per_cell=1", "eval.test_per_cell=1", "eval.exact=false"]
    lsp = ["num_steps=1", *SMALL[:2], "tracker=none", "optim.lr=1e-2", "optim.warmup_steps=0"]
    summary = start([*lsp, *small, "eval.challenger_samples=2", *asks(server), f"run_dir={folder}"])
    assert server.calls.count("/resume") == 2  # before step 1 and after it
    assert summary["last/eval/pocket/greedy_accuracy"] >= 0
    assert {body["model"] for body in server.bodies} == {POLICY}


def test_rows_asked_ahead_are_of_the_weights_before_the_last_update(vllm_stub, tmp_path):
    """Steps 1 and 2 play the start's weights, step 3 those after step 1; a checkpoint is not
    asked across, so that what goes on from it plays the same."""
    ahead = [*GRPO, "num_steps=4", "rollout.lag=1", "checkpoint.every=3"]
    server, folder = vllm_stub(), tmp_path / "ahead"
    start([*ahead, *asks(server), f"run_dir={folder}"])
    lines = read_metrics(folder)
    assert [line["rollout/lag"] for line in lines] == [0, 1, 1, 0]
    apart = [line["rollout/logprob_mismatch"] for line in lines]
    assert max(apart[0], apart[3]) < 1e-4 < min(apart[1:3])
    assert all(line["rollout/solver/mismatch/max"] > 1e-4 for line in lines[1:3])
    assert server.calls.count("/resume") == 4  # before each step
    cut = tmp_path / "cut"
    start([*ahead, *asks(vllm_stub()), f"run_dir={cut}", "num_steps=3"])
    start([f"resume={cut}", "num_steps=4", f"rollout.url={vllm_stub().url}"])
    assert rows_of(cut) == rows_of(folder)


@pytest.mark.slow
def test_the_challengers_rows_too_are_asked_ahead_and_evaluations_wait(vllm_stub, tmp_path):
    server, folder = vllm_stub(), tmp_path / "run"
    small = ["eval.every=1", "eval.dev_per_cell=1", "eval.test_per_cell=1", "eval.exact=false"]
    lsp = ["num_steps=3", *SMALL[:2], "tracker=none", "optim.lr=1e-2", "optim.warmup_steps=0"]
    more = ["eval.challenger_samples=2", "rollout.lag=1"]
    start([*lsp, *small, *more, *asks(server), f"run_dir={folder}"])
    lines = read_metrics(folder)
    played = [line for line in lines if "rollout/lag" in line]
    assert [line["rollout/lag"] for line in played] == [0, 1, 1]
    assert played[2]["rollout/challenger/mismatch/max"] > 1e-4
    assert server.calls.count("/resume") == 4  # evaluated after each update


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_share_the_servers_and_write_the_rows_of_one(
    vllm_stub, tmp_path, parallel, lag
):
    """The first one pushes; under FSDP what it pushes is whole."""
    more = [*GRPO, "num_steps=3", "hardware=cpu", "runtime.threads=1", f"rollout.lag={lag}"]
    alone, server = vllm_stub(), vllm_stub()
    start([*more, *asks(alone), f"run_dir={tmp_path / 'one'}"])
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    two = [*more, *asks(server), f"hardware.parallel={parallel}", f"run_dir={tmp_path / 'two'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = {"ddp": "run.py", "fsdp": "tests/fsdp_on_cpu.py"}[parallel]
    subprocess.run([*words, program, *two], check=True, cwd=ROOT, env=environment)
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
    assert server.calls.count("/resume") == alone.calls.count("/resume") == 3
    assert len(server.bodies) == len(alone.bodies) == 3 * 4


def test_a_server_that_is_gone_ends_the_run_which_goes_on_at_another_address(
    vllm_stub, tmp_path, monkeypatch
):
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)
    server, folder = vllm_stub(), tmp_path / "run"
    more = ["checkpoint.every=1", "num_steps=3", "rollout.engine.max_tries=2"]
    whole = tmp_path / "whole"
    start([*GRPO, *more, *asks(server), f"run_dir={whole}"])
    sound = server.complete

    def dies(body):
        if len(server.bodies) >= 3 * 4 + 2 * 4:  # in the third step of the second run
            server.always = "cut"
        return sound(body)

    server.complete = dies
    with pytest.raises(RunError, match=f"(?s){server.url} gave no row in 2 tries.*go on with: "):
        start([*GRPO, *more, *asks(server), f"run_dir={folder}"])
    run = read_run(folder)
    assert run["status"] == "failed" and "gave no row in 2 tries" in run["reason"]
    other = vllm_stub()
    start([f"resume={folder}", f"rollout.url={other.url}"])
    assert rows_of(folder) == rows_of(whole)


@pytest.mark.advice("lsp/rollout/vllm_api.py")
def test_a_start_is_refused_where_no_server_listens(tmp_path, capsys):
    """And told what prints the command of the server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    folder = tmp_path / "run"
    settings = [*SMALL, "rollout.engine=vllm", f"rollout.url={url}", f"run_dir={folder}"]
    said = refused(*settings)
    assert f"the server {url} gives no answer (" in said and "see that it runs" in said
    assert not folder.exists()
    (command,) = commands(said)
    execute(command.replace("<the run's settings>", shlex.join(settings)))
    assert f"--port {url.rpartition(':')[2]}" in capsys.readouterr().out


def test_a_start_is_refused_where_the_server_serves_something_else(vllm_stub, tmp_path):
    server, folder = vllm_stub(name="llama"), f"run_dir={tmp_path / 'run'}"
    with pytest.raises(RunError, match=f"{server.url} serves llama, and no 'policy'.*lsp.serve"):
        start([*SMALL, *asks(server), folder])
    with pytest.raises(RunError, match="serves llama, and no 'reference'"):
        start([*SMALL, *asks(server), "model.lora.rank=4", folder])
    short = vllm_stub(max_model_len=20)
    with pytest.raises(RunError, match="rows of 20 tokens at most, and a row may have .*max-model"):
        start([*SMALL, *asks(short), folder])
    odd = vllm_stub()
    odd.pushes = {"/v1/models": '{"data": [{"id": 3}]}'}
    with pytest.raises(RunError, match=r"answers /v1/models with data.0.id: .*valid string"):
        start([*SMALL, *asks(odd), folder])


def test_a_push_that_fails_ends_the_run_before_any_row(vllm_stub, tmp_path):
    server, folder = vllm_stub(), tmp_path / "run"
    server.pushes = {"/collective_rpc": "404"}
    said = f"(?s)the server {server.url} refuses /collective_rpc: HTTP 404.*go on with"
    with pytest.raises(RunError, match=said):
        start([*SMALL, *asks(server), f"run_dir={folder}", "num_steps=1"])
    assert read_run(folder)["status"] == "failed" and not server.bodies


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rollout.engine=vllm"], "does not know its servers. Say rollout.url=http"),
        (["rollout.lag=1"], "so that nothing can be written meanwhile. Say rollout.engine=vllm"),
        (["rollout.url=http://h:1"], "asks no server, and rollout.url names one. Say rollout.eng"),
        (["rollout.engine=vllm", "rollout.url=h:1"], "rollout.url is no address of a server"),
        (["rollout.engine=vllm", "rollout.url=http://h:1/v1"], "ends in /v1. Leave that out"),
        (
            ["rollout.engine=vllm", "rollout.url=http://h:1", "rollout.top_p=0.9"],
            "samples from rollout.top_p=0.9 of the probability .* Say rollout.top_p=1",
        ),
        (
            ["rollout.engine=vllm", "rollout.url=http://h:1", "rollout.engine.folder=/no/such"],
            "folder=/no/such is no folder here",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        compose(settings)


def test_slashes_at_the_end_of_an_address_are_no_part_of_it():
    config = compose(["rollout.engine=vllm", "rollout.url=http://h:1/"])
    assert config.rollout.urls == ("http://h:1",)


def test_who_writes_in_this_process_all_the_same_is_said_at_the_start():
    vllm = ["rollout.engine=vllm", "rollout.url=http://h:1"]
    generate = ["method=lsp", "self_reward.mode=generate", "self_reward.max_new_tokens=8"]
    asked = ["method=lsp_zero", "method.challenger=reference", "method.challenger_weight=0"]

    def said(*more):
        texts = warnings(compose([*vllm, "eval=none", *more]))
        return [text.rpartition(": ")[2] for text in texts if "rollout.engine=vllm" in text]

    assert said(*generate) == ["the judge's texts"] and said(*asked) == ["the reference's queries"]
    assert not said() and not said("model.lora.rank=4", *generate)
    assert not said("model.lora.rank=4", *asked)
    assert said("method=pool") == ["earlier Challengers"]
    assert said("eval=pocket", *asked) == ["the reference's queries, answers of the base"]
    assert not said("eval=pocket", "model.lora.rank=4")


def test_a_lag_without_a_correction_is_warned_of():
    settings = ["rollout.engine=vllm", "rollout.url=http://h:1", "rollout.lag=1"]
    said = "rollout.lag=1 with loss.rollout_correction=none"
    assert not any(said in text for text in warnings(compose(settings)))
    uncorrected = compose([*settings, "loss.rollout_correction=none"])
    assert any(said in text for text in warnings(uncorrected))
