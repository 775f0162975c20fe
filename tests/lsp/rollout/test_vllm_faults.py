"""What a vLLM server can do wrong, and what a run makes of it: rows that are none, pushes that fail
or did not arrive (tests/vllm_stub.py)."""

import pytest
from vllm_engines import KEY, changed, engine_of, prompts_of, with_adapters

from lsp.model.processes import ALONE


@pytest.fixture
def quick(monkeypatch):
    """The waits between tries are not slept."""
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)


ROW_FAULTS = {
    "500": "HTTP 500 no",
    "429": "HTTP 429",
    "slow": "no answer in 0.3 s",
    "cut": "RemoteProtocolError",
    "<html>": "no JSON",
    "{}": "choices: Field required",
    "[1]": "all of it: ",
    "two rows": "1 row was asked for, and 2 came",
    "no rows": "1 row was asked for, and 0 came",
    "no log-probabilities": "choices.0.logprobs: ",
    "one is null": "token_logprobs.0: Input should be a valid number",
    "one too few": "tokens came with",
    "above zero": "a log-probability of 0.5 came",
    "no ids": "token_ids: Field required",
    "strange ids": "a token came that is none of 86",
    "none at all": "0 tokens came, of 1 to 6",
    "another prompt": "follows another prompt",
    "aborted": "finish_reason: ",
    "stops early": "stopped without an end token",
}


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_a_row_that_is_none_is_asked_for_again_and_given_up_with_one_message(
    players, vllm_stub, quick, fault
):
    server = vllm_stub()
    seconds = 0.3 if fault == "slow" else 60
    more = [f"rollout.engine.timeout_seconds={seconds}", "rollout.engine.max_tries=3"]
    engine = engine_of(players, server, more=more)
    prompts = prompts_of(players, "copy bca")
    if fault != "slow":  # which a busy machine may meet without being asked to
        server.faults = [fault, fault]
        assert engine.generate(players.policy, prompts, 1, 6, 1.0, KEY)
        assert len(server.bodies) == 3
    server.always = fault
    said = f"(?s)the server {server.url} gave no row in 3 tries, the last: .*{ROW_FAULTS[fault]}"
    with pytest.raises(ValueError, match=said + ".*see that it runs.*python -m lsp.serve"):
        engine.generate(players.policy, prompts, 1, 6, 1.0, KEY)


def test_what_a_server_refuses_is_final(players, vllm_stub):
    server = vllm_stub(name="something")
    engine = engine_of(players, server)
    said = f"the server {server.url} refuses: HTTP 404 .*`policy` does not exist.*lsp.serve"
    with pytest.raises(ValueError, match=said):
        engine.generate(players.policy, prompts_of(players, "copy bca"), 1, 6, 1.0, KEY)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("adapters", [False, True])
def test_a_push_that_did_not_arrive_is_caught_by_the_first_rows(players, vllm_stub, adapters):
    """The server says success and samples from the old weights, as vLLM 0.32 does where embeddings
    are tied."""
    server = vllm_stub(name="reference" if adapters else "policy")
    policy = with_adapters(players) if adapters else players.policy
    more = ["model.lora.rank=4"] if adapters else []
    engine = engine_of(players, server, policy=policy, more=more)
    prompts = prompts_of(players, "copy bca", "sort cab")
    engine.generate(policy, prompts, 2, 8, 3.0, KEY)
    server.pushes = dict.fromkeys(("/collective_rpc", "/v1/load_lora_adapter"), "spoiled")
    policy = with_adapters(players, by=0.1) if adapters else changed(policy, by=0.05)
    engine.sync(policy, 1, ALONE)
    said = f"{server.url} does not sample from this run's weights: .* nats at most from the trainer"
    with pytest.raises(ValueError, match=said):
        engine.generate(policy, prompts, 2, 8, 3.0, KEY)


def test_the_second_server_is_not_believed_because_the_first_is_right(players, vllm_stub):
    first, second = vllm_stub(), vllm_stub()
    second.pushes = {"/collective_rpc": "spoiled"}
    policy = changed(players.policy)
    engine = engine_of(players, first, second, policy=policy)
    with pytest.raises(ValueError, match=f"the server {second.url} does not sample"):
        engine.generate(policy, prompts_of(players, "copy bca"), 4, 8, 3.0, KEY)


def test_in_bfloat16_the_mean_is_held_to_a_wider_tolerance(players, vllm_stub):
    """A hundredth of the weights' spread is within bfloat16's rounding, and not in float32's."""
    server = vllm_stub()
    server.pushes = {"/collective_rpc": "spoiled"}
    policy, prompts = changed(players.policy, by=0.01), prompts_of(players, "copy bca")
    with pytest.raises(
        ValueError, match="nats at most from the trainer's, where 0.001 is rounding"
    ):
        engine_of(players, server, policy=policy).generate(policy, prompts, 2, 8, 3.0, KEY)
    more = ["rollout.engine.dtype=bfloat16"]
    engine = engine_of(players, server, policy=policy, more=more)
    assert engine.generate(policy, prompts, 2, 8, 3.0, KEY)
    engine = engine_of(
        players, server, policy=policy, more=[*more, "rollout.engine.tolerance=1e-9"]
    )
    with pytest.raises(ValueError, match="nats on average from the trainer's, where 1e-09"):
        engine.generate(policy, prompts, 2, 8, 3.0, KEY)


def test_a_server_that_was_started_anew_is_caught(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server)
    prompts = prompts_of(players, "copy bca")
    assert engine.generate(players.policy, prompts, 1, 8, 1.0, KEY)
    server.version = "default"
    with pytest.raises(ValueError, match=r"has other weights \(default\).*started anew"):
        engine.generate(players.policy, prompts, 1, 8, 1.0, KEY)


PUSH_FAULTS = {
    "/pause?mode=wait": ("500", "refuses /pause.*HTTP 500 the engine is broken"),
    "/collective_rpc": ("404", "refuses /collective_rpc: HTTP 404"),
    "/reset_prefix_cache": ('{"success": false}', "kept the keys and values of its old weights"),
    "/update_weight_version": ("500", "refuses /update_weight_version"),
    "/resume": ("500", "refuses /resume"),
}


@pytest.mark.parametrize("path", PUSH_FAULTS)
def test_a_push_that_fails_is_final(players, vllm_stub, path):
    server = vllm_stub()
    answer, said = PUSH_FAULTS[path]
    server.pushes = {path: answer}
    with pytest.raises(ValueError, match=said):
        engine_of(players, server)
    assert server.calls.count(path) == 1 and server.calls[-1] == path


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"results": [{"tensors": 3}]}', r"took \[3\] tensors of .* and not 20.*folder"),
        ('{"results": []}', r"took \[\] tensors"),
        ('{"results": [null]}', "answers /collective_rpc with results.0: .*lsp.serve"),
        ("", "answers /collective_rpc with an empty answer"),
    ],
)
def test_a_server_that_did_not_take_every_tensor_is_refused(players, vllm_stub, answer, said):
    server = vllm_stub()
    server.pushes = {"/collective_rpc": answer or " "}
    with pytest.raises(ValueError, match=said):
        engine_of(players, server)


def test_adapters_that_a_server_does_not_take_are_final(players, vllm_stub):
    server = vllm_stub(name="reference")
    server.pushes = {"/v1/load_lora_adapter": "404"}
    policy = with_adapters(players)
    with pytest.raises(ValueError, match="refuses /v1/load_lora_adapter: HTTP 404"):
        engine_of(players, server, policy=policy, more=["model.lora.rank=4"])
