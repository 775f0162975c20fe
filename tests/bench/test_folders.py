"""Benchmarks that take a model's folder, on a tiny one."""

import argparse

import pytest

from tests.bench import rollout, step


def test_a_step_of_ours_on_a_models_folder(llama_folder):
    result = step.ours(str(llama_folder), "model", True, False, False)
    assert result["tokens"] > 0 and result["cpu_seconds"] > 0
    assert {"generation", "update"} <= result["phases"].keys()
    assert sum(result["phases"].values()) == pytest.approx(result["cpu_seconds"])


def test_rounds_of_the_engine_that_the_settings_name(llama_folder, monkeypatch):
    monkeypatch.setattr(rollout, "TOKENS", 4)
    options = argparse.Namespace(model=llama_folder, lora=False, vllm=None, overrides=[])
    rounds = rollout.measure(rollout.settings(options), None)
    assert len(rounds) == rollout.ROUNDS
    for one in rounds:  # the weights have moved before each, and the engine decodes on them
        assert 0 < one.tokens <= 4 * rollout.QUERIES * rollout.SAMPLES
        assert one.mean <= one.largest < 1e-4


def test_a_servers_url_and_further_settings_are_settings_of_the_run(llama_folder):
    options = argparse.Namespace(
        model=llama_folder, lora=True, vllm="http://127.0.0.1:1", overrides=["seed=3"]
    )
    words = rollout.settings(options)
    assert {"rollout.engine=vllm", "rollout.url=http://127.0.0.1:1"} < set(words)
    assert words[-1] == "seed=3"
