"""Rules that need more than one setting of a run: what cannot work, and what is probably not meant.

They look at settings and at a local model's config.json; this module imports no torch.
"""

from __future__ import annotations

import json
from typing import Any

from lsp.cards import CARDS
from lsp.config import EXACT_KL_VOCABULARY, Config, local_model_folder
from lsp.schema import Problem, flat
from lsp.scrub import scrub


def cross_checks(config: Config) -> list[Problem]:
    """Rules that need more than one setting."""
    problems: list[Problem] = []
    method = config.method

    def problem(key: str, value: Any, reason: str, fix: str) -> None:
        problems.append(Problem(key, value, reason, fix))

    if config.group_size < 2:
        problem(
            "group_size",
            config.group_size,
            "an answer is rewarded against the mean of its group, so one answer learns nothing",
            "choose group_size=2 or more",
        )
    if method.trains_challenger and config.num_queries < 2:
        problem(
            "num_queries",
            config.num_queries,
            "the Challenger is rewarded against the mean over the step's queries",
            "choose num_queries=2 or more, or method.challenger_weight=0",
        )
    if method.challenger == "reference" and method.challenger_weight > 0:
        problem(
            "method.challenger_weight",
            method.challenger_weight,
            "the frozen reference writes the queries, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.challenger=policy",
        )
    if method.queries == "dataset" and method.challenger_weight > 0:
        problem(
            "method.challenger_weight",
            method.challenger_weight,
            "the queries come from a data set, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.queries=challenger",
        )
    bounded = getattr(config.reward, "range", None)
    if method.challenger_reward != "negative_value" and bounded is None:
        problem(
            "method.challenger_reward",
            method.challenger_reward,
            "needs a reward with a known range, and this one has none",
            "choose method.challenger_reward=negative_value",
        )
    if config.optim.beta1 >= 1 or config.optim.beta2 >= 1:
        problem(
            "optim.beta1, optim.beta2",
            f"{config.optim.beta1}, {config.optim.beta2}",
            "AdamW's decay rates lie below 1",
            "choose for instance 0.9 and 0.95",
        )
    if config.init.source == "checkpoint" and config.init.run is None:
        problem(
            "init.run",
            None,
            "init=checkpoint does not say which",
            "give init.run=<run folder, run id or model folder>",
        )
    if config.init.source == "base" and config.init.run is not None:
        problem(
            "init.run",
            config.init.run,
            "init=base starts from model.name and reads no run",
            "say init=checkpoint (or init=grpo) with it",
        )
    if config.hardware.parallel == "fsdp" and config.model.lora.rank:
        problem(
            "hardware.parallel",
            "fsdp",
            "shards what is trained, and under LoRA that is small adapters beside whole weights",
            "choose hardware.parallel=ddp, or model.lora.rank=0",
        )
    device = config.runtime.device
    if device != "auto" and device != "cpu" and not device.startswith("cuda"):
        problem("runtime.device", device, "is no device", "choose auto, cpu or cuda")
    card = config.hardware.gpu
    if card is not None and card not in CARDS:
        fix = f"choose one of {', '.join(CARDS)}, or null"
        problem("hardware.gpu", card, "is no card of lsp/cards.py", fix)
    if config.model.name == "pocket" and config.world == "paper":
        problem(
            "model.name",
            "pocket",
            "the pocket model was schooled on the pocket world's prompts alone",
            "choose another model, or world=pocket",
        )
    for key, value in flat(config).items():
        if isinstance(value, str) and scrub(value) != value:
            fix = "keys come from environment variables, never from settings"
            problem(key, scrub(value), "holds what looks like a secret", fix)
    try:
        config.prompts.challenger_messages()
    except ValueError as error:
        problem("prompts.challenger", None, str(error), "use {task} and {template} alone")
    problems += _model_problems(config)
    for key, component in (("data", config.data), ("reward", config.reward), ("eval", config.eval)):
        for reason, fix in getattr(component, "problems", lambda c: [])(config):
            problem(key, None, reason, fix)
    return problems


def _model_problems(config: Config) -> list[Problem]:
    """What a local model's config.json already tells; a Hub's is seen when it loads."""
    name = config.model.name
    folder = local_model_folder(name)
    if folder is None:
        return []
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = told["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        fix = "give a folder written by save_pretrained, a Hub id, or model.name=pocket"
        return [Problem("model.name", name, "there is no model in that folder", fix)]
    problems = []
    context = told.get("max_position_embeddings")
    for key in ("max_new_tokens", "max_query_tokens"):
        value = getattr(config.rollout, key)
        if context is not None and value >= context:
            fix = f"choose less than {context}, prompts included"
            reason = f"the {kind} model has a context of {context} tokens"
            problems.append(Problem(f"rollout.{key}", value, reason, fix))
    vocabulary = told.get("vocab_size", 0)
    if config.method.kl_estimator == "exact" and vocabulary > EXACT_KL_VOCABULARY:
        reason = f"keeps whole distributions over {vocabulary:,} tokens, and is for at most"
        reason += f" {EXACT_KL_VOCABULARY:,}"
        fix = "choose k2, whose expected gradient is the same"
        problems.append(Problem("method.kl_estimator", "exact", reason, fix))
    return problems


def warnings(config: Config) -> list[str]:
    """What is allowed and probably not meant."""
    found = []
    if config.rollout.top_p < 1:
        found.append(
            "rollout.top_p below 1: what is sampled is not what the loss takes log-probabilities"
            " of, so updates are off-policy; 1 is meant for training"
        )
    if config.method.kl_estimator == "k1" and config.method.beta > 0:
        found.append(
            "method.kl_estimator=k1: its expected gradient is zero on-policy, since"
            " E[grad log pi] = 0; it adds noise and holds nothing back. k2 is the penalty meant"
        )
    return found
