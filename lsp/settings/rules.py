"""What settings demand of each other: a ``Config`` goes in, its problems come out.

Rules look at settings and at a local model's config.json; this module imports no torch.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lsp.errors import Problem
from lsp.settings.config import EXACT_KL_VOCABULARY, Config, local_model_folder
from lsp.settings.gpus import GPUS
from lsp.settings.reader import check_tree
from lsp.settings.schema import flat
from lsp.tools.secrets import scrub


def from_tree(tree: Mapping[str, Any], trusted: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """A composed, resolved tree -> Config, or one ConfigError with every problem.

    ``trusted``: dotted key -> value of what the user wrote on the command line.
    """
    return check_tree(Config, tree, trusted, config_rules)


def config_rules(config: Config) -> list[Problem]:
    """Every problem between settings of a run that are each right by themselves."""
    problems = [
        Problem(key, value, reason, fix)
        for broken, key, value, reason, fix in _rules(config)
        if broken
    ]
    for key, value in flat(config).items():
        if isinstance(value, str) and scrub(value) != value:
            fix = "keys come from environment variables, never from settings"
            problems.append(Problem(key, scrub(value), "holds what looks like a secret", fix))
    try:
        config.prompts.challenger_messages()
    except ValueError as error:
        fix = "use {task} and {template} alone"
        problems.append(Problem("prompts.challenger", None, str(error), fix))
    problems += [Problem(key, None, *why) for key, *why in config.world.problems(config)]
    problems += _model_problems(config)
    parts = {
        "data": config.data,
        "reward": config.reward,
        "self_reward": config.self_reward,
        "rollout.engine": config.rollout.engine,
        "tracker": config.tracker,
        **({"eval": config.eval} if config.eval is not None else {}),
    }
    for key, part in parts.items():
        problems += [Problem(key, None, reason, fix) for reason, fix in part.problems(config)]
    return problems


def _rules(config: Config) -> list[tuple[bool, str, Any, str, str]]:
    """(whether it is broken, key, value, reason, way out)."""
    method, init, hardware = config.method, config.init, config.hardware
    device = config.runtime.device
    return [
        (
            config.group_size < 2,
            "group_size",
            config.group_size,
            "an answer is rewarded against the mean of its group, so one answer learns nothing",
            "choose group_size=2 or more",
        ),
        (
            method.trains_challenger and config.num_queries < 2,
            "num_queries",
            config.num_queries,
            "the Challenger is rewarded against the mean over the step's queries",
            "choose num_queries=2 or more, or method.challenger_weight=0",
        ),
        (
            method.challenger == "reference" and method.challenger_weight > 0,
            "method.challenger_weight",
            method.challenger_weight,
            "the frozen reference writes the queries, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.challenger=policy",
        ),
        (
            method.queries == "dataset" and method.challenger_weight > 0,
            "method.challenger_weight",
            method.challenger_weight,
            "the queries come from a data set, so there is no Challenger to train",
            "choose method.challenger_weight=0 or method.queries=challenger",
        ),
        (
            method.challenger_reward != "negative_value" and config.reward.range is None,
            "method.challenger_reward",
            method.challenger_reward,
            "needs a reward with a known range, and this one has none",
            "choose method.challenger_reward=negative_value",
        ),
        (
            init.source == "checkpoint" and init.run is None,
            "init.run",
            None,
            "init=checkpoint does not say which",
            "give init.run=<run folder, run id or model folder>",
        ),
        (
            init.source == "base" and init.run is not None,
            "init.run",
            init.run,
            "init=base starts from model.name and reads no run",
            "say init=checkpoint (or init=grpo) with it",
        ),
        (
            hardware.parallel == "fsdp" and config.model.lora.rank > 0,
            "hardware.parallel",
            "fsdp",
            "shards what is trained, and under LoRA that is small adapters beside whole weights",
            "choose hardware.parallel=ddp, or model.lora.rank=0",
        ),
        (
            device not in ("auto", "cpu") and not device.startswith("cuda"),
            "runtime.device",
            device,
            "is no device",
            "choose auto, cpu or cuda",
        ),
        (
            hardware.gpu is not None and hardware.gpu not in GPUS,
            "hardware.gpu",
            hardware.gpu,
            "is no GPU of lsp/settings/gpus.py",
            f"choose one of {', '.join(GPUS)}, or null",
        ),
    ]


def _model_problems(config: Config) -> list[Problem]:
    """What a local model's config.json already tells; a Hub's is seen when it loads."""
    name = config.model.name
    folder = local_model_folder(name)
    if folder is None:
        return []
    try:
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = model["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        fix = "give a folder written by save_pretrained, a Hub id, or model.name=pocket"
        return [Problem("model.name", name, "there is no model in that folder", fix)]
    problems = []
    context = model.get("max_position_embeddings")
    for key in ("max_new_tokens", "max_query_tokens"):
        value = getattr(config.rollout, key)
        if context is not None and value >= context:
            fix = f"choose less than {context}, prompts included"
            reason = f"the {kind} model has a context of {context} tokens"
            problems.append(Problem(f"rollout.{key}", value, reason, fix))
    vocabulary = model.get("vocab_size", 0)
    if config.method.kl_estimator == "exact" and vocabulary > EXACT_KL_VOCABULARY:
        reason = f"keeps whole distributions over {vocabulary:,} tokens, and is for at most"
        reason += f" {EXACT_KL_VOCABULARY:,}"
        fix = "choose k2, whose expected gradient is the same"
        problems.append(Problem("method.kl_estimator", "exact", reason, fix))
    return problems


def warnings(config: Config) -> list[str]:
    """What is allowed and probably not meant."""
    texts = []
    if config.rollout.top_p < 1:
        texts.append(
            "rollout.top_p below 1: what is sampled is not what the loss takes log-probabilities"
            " of, so updates are off-policy; 1 is meant for training"
        )
    if config.method.kl_estimator == "k1" and config.method.beta > 0:
        texts.append(
            "method.kl_estimator=k1: its expected gradient is zero on-policy, since"
            " E[grad log pi] = 0; it adds noise and holds nothing back. k2 is the penalty meant"
        )
    return texts
