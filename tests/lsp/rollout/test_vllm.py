"""Rollouts by vLLM, against a server on loopback that samples from a real model and can misbehave
(tests/vllm_stub.py); test_vllm_server.py has a real one."""

import pytest
import torch
from safetensors import SafetensorError
from vllm_engines import KEY, changed, engine_of, prompts_of, rows_of, with_adapters

from lsp.contracts import BuildContext
from lsp.model.processes import ALONE
from lsp.rollout.settings import challenger_engine, unrestricted
from lsp.rollout.vllm import Held, save, seed_of
from lsp.rollout.vllm_api import Room, room_in
from lsp.settings.compose import compose
from lsp.types import DrawKey


def test_the_likeliest_rows_are_those_of_the_engine_in_process(players, vllm_stub):
    engine = engine_of(players, vllm_stub())
    prompts = prompts_of(players, "copy bca", "sort cab", "add 3 4")
    ours = players.engine.generate(players.policy, prompts, 2, 12, 0.0, KEY)
    theirs = engine.generate(players.policy, prompts, 2, 12, 0.0, KEY)
    assert [[c.ids for c in group] for group in theirs] == [[c.ids for c in g] for g in ours]
    for one, other in zip(rows_of(ours), rows_of(theirs), strict=True):
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_row_is_the_same_whatever_stands_beside_it_and_whoever_writes_it(players, vllm_stub):
    first, second = vllm_stub(), vllm_stub()
    engine = engine_of(players, first, second)
    prompts = prompts_of(players, "copy bca", "sort cab", "add 3 4")
    together = rows_of(engine.generate(players.policy, prompts, 4, 8, 3.0, KEY))
    again = rows_of(engine.generate(players.policy, prompts, 4, 8, 3.0, KEY))
    assert [row.ids for row in together] == [row.ids for row in again]
    assert len({row.ids for row in together[:4]}) > 1  # samples of one prompt differ
    key = DrawKey(3, 7, "solver", range(6, 8))
    ((one, other),) = engine.generate(players.policy, prompts[1:2], 2, 8, 3.0, key)
    assert [one.ids, other.ids] == [row.ids for row in together[6:8]]
    assert len(first.bodies) == len(second.bodies) == 13  # 12 twice and 2, shared


def test_no_two_rows_share_their_noise():
    keys = [DrawKey(s, t, role) for s in (0, 1) for t in (1, 2) for role in ("solver", "judge")]
    seeds = {seed_of(key, row) for key in keys for row in range(100)}
    assert len(seeds) == 800 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(DrawKey(0, 1, "solver", range(5, 9)), 0) == seed_of(DrawKey(0, 1, "solver"), 5)


def test_a_request_says_everything_that_a_server_could_take_from_elsewhere(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server)
    ((prompt,),) = [prompts_of(players, "copy bca")]
    engine.generate(players.policy, [prompt], 1, 8, 0.7, KEY)
    (body,) = server.bodies
    assert body == {
        "model": "policy",
        "prompt": prompt,
        "n": 1,
        "seed": seed_of(KEY, 0),
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 8,
        "logprobs": 0,
        "ignore_eos": True,
        "stop_token_ids": sorted(players.engine.stop_ids.tolist()),
        "stop": [],
        "skip_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def test_rows_come_from_the_weights_of_the_last_sync(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server)
    prompts = prompts_of(players, "copy bca", "sort cab")
    before = engine.generate(players.policy, prompts, 1, 12, 0.0, KEY)
    other = changed(players.policy)
    engine.sync(other, 1, ALONE)
    after = engine.generate(other, prompts, 1, 12, 0.0, KEY)
    assert after != before
    ours = players.engine.generate(other, prompts, 1, 12, 0.0, KEY)
    assert [[c.ids for c in group] for group in after] == [[c.ids for c in g] for g in ours]
    push = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache"]
    push += ["/update_weight_version", "/resume"]
    assert [call for call in server.calls if call in push] == push * 2
    calls = len(server.calls)
    engine.sync(other, 1, ALONE)  # an evaluation after the update, then the next step
    assert len(server.calls) == calls


def test_rows_that_are_begun_are_those_of_the_weights_before_the_next_sync(players, vllm_stub):
    """What is compared is compared at once; the sync waits for the others."""
    first, second = vllm_stub(), vllm_stub()
    engine = engine_of(players, first, second)
    prompts = prompts_of(players, "copy bca", "sort cab", "add 3 4")
    whole = engine_of(players, vllm_stub()).generate(players.policy, prompts, 8, 6, 1.0, KEY)
    begun = engine.begin(players.policy, prompts, 8, 6, 1.0, KEY)
    assert engine.held.compared == {("policy", 0), ("policy", 1)}
    engine.sync(changed(players.policy), 1, ALONE)
    assert len(first.bodies) == len(second.bodies) == 12 and not engine.held.begun
    written = begun()
    assert [row.ids for row in rows_of(written)] == [row.ids for row in rows_of(whole)]


def test_one_call_at_a_time_fills_a_server(players, vllm_stub):
    server = vllm_stub(room=64)
    engine = engine_of(players, server)
    prompts = prompts_of(players, "copy bca")
    calls = [engine.begin(players.policy, prompts, 12, 12, 1.0, KEY) for _ in range(2)]
    rows = [rows_of(call()) for call in calls]
    assert server.most_busy <= 2 and [r.ids for r in rows[0]] == [r.ids for r in rows[1]]


def test_what_fails_in_rows_that_were_begun_is_told_to_who_asked_for_them(
    players, vllm_stub, monkeypatch
):
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)
    server = vllm_stub()
    engine = engine_of(players, server, more=["rollout.engine.max_tries=2"])
    prompts = prompts_of(players, "copy bca")
    engine.generate(players.policy, prompts, 1, 4, 1.0, KEY)
    server.always = "cut"
    begun = engine.begin(players.policy, prompts, 4, 4, 1.0, KEY)
    engine.sync(players.policy, 1, ALONE)
    with pytest.raises(ValueError, match="gave no row in 2 tries"):
        begun()


def test_under_lora_adapters_travel_and_the_reference_is_what_they_lie_beside(players, vllm_stub):
    server = vllm_stub(name="reference")
    policy = with_adapters(players)
    engine = engine_of(players, server, policy=policy, more=["model.lora.rank=4"])
    prompts = prompts_of(players, "copy bca", "sort cab")
    for model in (policy, players.reference):
        ours = players.engine.generate(model, prompts, 1, 12, 0.0, KEY)
        theirs = engine.generate(model, prompts, 1, 12, 0.0, KEY)
        assert [[c.ids for c in group] for group in theirs] == [[c.ids for c in g] for g in ours]
    names = {body["model"] for body in server.bodies}
    assert names == {"reference", f"policy-{engine.held.version}"}
    first = engine.held.adapter.name
    engine.sync(policy, 1, ALONE)
    assert sorted(server.models) == [f"policy-{engine.held.version}", "reference"]
    assert engine.held.adapter.name != first  # a new path, since vLLM knows adapters by it
    assert "/collective_rpc" not in server.calls


def test_a_model_that_no_server_has_writes_in_this_process(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server)
    prompts = prompts_of(players, "copy bca")
    ours = players.engine.generate(players.reference, prompts, 3, 8, 1.0, KEY)
    assert engine.generate(players.reference, prompts, 3, 8, 1.0, KEY) == ours
    engine.held.policy = None  # a look at a run, which has no step and pushes nothing
    assert engine.generate(players.policy, prompts, 3, 8, 1.0, KEY) == ours
    assert not server.bodies


def test_engines_that_stop_elsewhere_know_the_same_servers(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server, more=["prompts.challenger_stop=[a]"])
    stop = ["rollout.engine=vllm", f"rollout.url={server.url}", "prompts.challenger_stop=[a]"]
    context = BuildContext(compose(stop), chat=players.chat, engine=engine)
    asking = challenger_engine(context, engine)
    judge = context.config.rollout.engine.build(unrestricted(context))
    assert asking.held is judge.held is engine.held and asking.own.stop_strings == ("a",)
    asking.sync(players.policy, 0, ALONE)
    assert server.calls.count("/resume") == 1
    assert isinstance(
        context.config.rollout.engine.build(BuildContext(compose(stop), chat=players.chat)).held,
        Held,
    )


def test_stop_strings_are_sent_and_cut_off(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server, more=["rollout.stop=[c]"])
    ((one,),) = engine.generate(players.policy, prompts_of(players, "copy bca"), 1, 8, 0.0, KEY)
    assert server.bodies[0]["stop"] == ["c"] and one.text == "b"


def test_no_more_rows_are_in_flight_than_is_allowed_or_there_is_room_for(players, vllm_stub):
    prompts = prompts_of(players, "copy bca")
    server = vllm_stub()
    engine = engine_of(players, server, more=["rollout.engine.concurrency=3"])
    engine.generate(players.policy, prompts, 16, 4, 1.0, KEY)
    assert server.most_busy <= 3
    small = vllm_stub(room=64)  # two blocks of 16 tokens a row: two rows
    assert 16 < len(prompts[0]) + 12 <= 32
    engine = engine_of(players, small)
    engine.generate(players.policy, prompts, 16, 12, 1.0, KEY)
    assert small.most_busy <= 2
    tiny = vllm_stub(room=16)
    said = f"{tiny.url} has room for keys and values of 16 tokens, and a row may have"
    with pytest.raises(ValueError, match=said):
        engine_of(players, tiny).generate(players.policy, prompts, 1, 12, 1.0, KEY)
    silent = vllm_stub(room=None)
    engine = engine_of(players, silent, more=["rollout.engine.concurrency=5"])
    engine.generate(players.policy, prompts, 16, 12, 1.0, KEY)
    assert silent.most_busy <= 5


def test_room_is_counted_in_blocks_and_is_that_of_the_smallest_engine():
    line = 'vllm:cache_config_info{{block_size="16",kv_cache_size_tokens="{}",x="None"}} 1.0'
    assert room_in("\n".join(["a 1", line.format(640), line.format(320)])) == Room(320, 16)
    assert Room(320, 16).rows(17) == 10 and Room(320, 16).rows(321) == 0
    assert room_in('vllm:cache_config_info{block_size="None"} 1.0') is None is room_in("")


def test_processes_share_what_a_server_may_have_at_once(players, vllm_stub):
    server = vllm_stub()
    engine = engine_of(players, server, more=["rollout.engine.concurrency=8"])
    engine.held.processes = 4
    engine.generate(players.policy, prompts_of(players, "copy bca"), 16, 4, 1.0, KEY)
    assert server.most_busy <= 2


def test_a_full_disk_is_an_error_of_the_disk(monkeypatch, tmp_path):
    def full(*unused):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        save({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
