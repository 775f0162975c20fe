"""What settings demand of each other: a ``Config`` goes in, its problems come out.

Rules look at settings and at a local model's config.json; this module imports no torch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from lsp.errors import Problem
from lsp.settings.config import (
    EXACT_KL_VOCABULARY,
    NO_MODEL,
    Config,
    local_model_folder,
    may_be_hub_id,
)
from lsp.settings.gpus import GPUS
from lsp.settings.reader import check_tree
from lsp.settings.schema import flat
from lsp.tools.secrets import findings

BAD_IN_PROJECT = "/\\#?%:"
"""Of wandb's own settings (``wandb/sdk/wandb_settings.py``, 0.31)."""
MOST_ANSWERS = 2**20
"""Of a step: a thousand times the paper's."""

MAY_NOT_BE_EMPTY = (
    *("run_dir", "runs_root", "run_name", "resume", "objective"),
    *("init.run", "model.name", "model.revision"),
)

SMOLLM2_FOLDER = "./outputs/models/smollm2-135m"
"""``model.name`` of conf/model/smollm2_135m_pypi.yaml."""


def from_tree(tree: Mapping[str, Any], trusted: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """A composed, resolved tree -> Config, or one ConfigError with every problem. ``trusted``:
    dotted key -> value of what the user wrote on the command line."""
    return check_tree(Config, tree, trusted, config_rules)


def config_rules(config: Config) -> list[Problem]:
    """Every problem between settings of a run that are each right by themselves."""
    values = flat(config)
    problems = [*secret_problems(config), *_escaped_stops(config)]
    if isinstance(project := values.get("tracker.project"), str) and "tracker.entity" in values:
        problems += _project_problems(project)
    known = {problem.key for problem in problems}
    broken = (*_broken_rules(config), *_model_problems(config))
    problems += [Problem(k, values[k], why, fix) for k, why, fix in broken if k not in known]
    try:
        config.prompts.challenger_messages()
    except ValueError as error:
        fix = "use {task}, {template}, {seed}, {examples} and {number} alone"
        problems.append(Problem("prompts.challenger", None, str(error), fix))
    for name, reason, fix in config.prompts.problems():
        key = f"prompts.{name}"
        problems.append(Problem(key, values.get(key), reason, fix))
    for key, reason, fix in config.world.problems(config):
        problems.append(Problem(key, None, reason, fix))
    for key in ("data", "reward", "self_reward", "rollout.engine", "tracker", "eval"):
        if (part := attrgetter(key)(config)) is not None:
            problems += [Problem(key, None, reason, fix) for reason, fix in part.problems(config)]
    return problems


def secret_problems(config: Any) -> list[Problem]:
    """A problem for each setting that holds what looks like a secret, which it does not show."""
    problems = []
    for key, value in flat(config).items():
        if isinstance(value, str) and (found := findings(f"{key}={value}")):
            kinds = ", ".join(dict.fromkeys(finding.kind for finding in found))
            fix = f"keys come from environment variables, never from settings (found: {kinds})"
            problems.append(Problem(key, None, "holds what looks like a secret", fix))
    return problems


ESCAPE = re.compile(r"\\[nrt](?![a-z])")
"""A newline, return or tab as it is spelled in code; ``\\neq`` and ``\\text`` are LaTeX."""


def _escaped_stops(config: Config) -> Iterator[Problem]:
    """Stop strings in which an escape was meant: Hydra takes a backslash for itself."""
    stops = {
        "rollout.stop": config.rollout.stop,
        "prompts.challenger_stop": config.prompts.challenger_stop,
    }
    for key, texts in stops.items():
        if any(map(ESCAPE.search, texts)):
            reason = "holds a backslash and a letter: Hydra reads no escapes, so it never matches"
            fix = f"""write $'{key}=["\\n"]' in bash, or "\\n" in a YAML file, for a newline"""
            yield Problem(key, list(texts), reason, fix)


def _project_problems(project: str) -> Iterator[Problem]:
    """Of a W&B project's name, which the client refuses too, as if W&B could not be reached."""
    entity, _, name = project.partition("/")
    if entity and name and "/" not in name:
        fix = f"write tracker.entity={entity} tracker.project={name}"
        yield Problem("tracker.project", project, "holds the entity too", fix)
    elif bad := sorted(set(project) & set(BAD_IN_PROJECT)):
        reason = f"holds {' '.join(bad)}, which no W&B project has in its name"
        yield Problem("tracker.project", project, reason, "choose letters, digits, - and _")


def _broken_rules(config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, reason, way out) of each rule that the settings break."""
    method, init, hardware = config.method, config.init, config.hardware
    for key in MAY_NOT_BE_EMPTY:
        if attrgetter(key)(config) == "":
            yield key, "is empty", "write what is meant, null for none, or leave it out"
    for key in ("rollout.stop", "prompts.challenger_stop"):
        if "" in attrgetter(key)(config):
            yield key, "holds an empty text, which would end every completion", "take it out"
    if config.num_queries * config.group_size > MOST_ANSWERS:
        reason = f"makes, times group_size={config.group_size}, more than {MOST_ANSWERS:,} answers"
        fix = "their texts are held until the update"
        yield "num_queries", f"{reason} a step, and {fix}", "lower one of the two"
    if config.accept_gap and not config.resume:
        yield "accept_gap", "there is no record yet that could have a gap", "say resume=<run> too"
    if config.group_size < 2:
        reason = "an answer is rewarded against the mean of its group, so one answer learns nothing"
        yield "group_size", reason, "choose group_size=2 or more"
    if method.trains_challenger and config.num_queries < 2:
        reason = "the Challenger is rewarded against the mean over the step's queries"
        yield "num_queries", reason, "choose num_queries=2 or more, or method.challenger_weight=0"
    if method.challenger == "reference" and method.challenger_weight > 0:
        reason = "the frozen reference writes the queries, so there is no Challenger to train"
        fix = "choose method.challenger_weight=0 or method.challenger=policy"
        yield "method.challenger_weight", reason, fix
    if method.queries == "dataset" and method.challenger_weight > 0:
        reason = "the queries come from a data set, so there is no Challenger to train"
        fix = "choose method.challenger_weight=0 or method.queries=challenger"
        yield "method.challenger_weight", reason, fix
    if method.challenger_beta is not None and not method.trains_challenger:
        reason = "is the Challenger's, and no Challenger is trained"
        yield "method.challenger_beta", reason, "leave it out, or choose null"
    if method.earlier_challengers:
        if method.queries == "dataset" or method.challenger == "reference":
            reason = "asks earlier Challengers, and this run has none that learns"
            yield "method.earlier_challengers", reason, "choose 0"
        elif config.checkpoint.every == 0:
            reason = "are the run's checkpoints, and it saves none on the way"
            yield "method.earlier_challengers", reason, "choose checkpoint.every=50"
    shaped = method.challenger_reward not in ("negative_value", "none")
    if shaped and config.reward.range is None:
        reason = "needs a reward with a known range, and this one has none"
        fix = "choose method.challenger_reward=negative_value"
        yield "method.challenger_reward", reason, fix
    if init.source == "checkpoint" and init.run is None:
        fix = "give init.run=<run folder, run id or model folder>"
        yield "init.run", "init=checkpoint does not say which", fix
    if init.source == "base" and init.run is not None:
        reason = "init=base starts from model.name and reads no run"
        yield "init.run", reason, "say init=checkpoint (or init=grpo) with it"
    if hardware.parallel == "fsdp" and config.model.lora.rank > 0:
        reason = (
            "shards what is trained, and under LoRA that is small adapters beside whole weights"
        )
        yield "hardware.parallel", reason, "choose hardware.parallel=ddp, or model.lora.rank=0"
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", config.runtime.device):
        yield "runtime.device", "is no device", "choose auto, cpu or cuda"
    if hardware.gpu is not None and hardware.gpu not in GPUS:
        fix = f"choose one of {', '.join(GPUS)}, or null"
        yield "hardware.gpu", "is no GPU of lsp/settings/gpus.py", fix
    if hardware.gpu is not None and hardware.tokens_per_second is not None:
        reason = f"is a CPU's, and the hours are those of hardware.gpu={hardware.gpu}"
        yield "hardware.tokens_per_second", reason, "set one of the two to null"


def _model_problems(config: Config) -> Iterator[tuple[str, str, str]]:
    """What a local model's config.json already tells; a Hub's is seen when it loads."""
    folder = local_model_folder(config.model.name)
    if folder is None:
        if not may_be_hub_id(config.model.name):
            yield "model.name", NO_MODEL, "write a path, <owner>/<name>, or pocket"
        return
    try:
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = model["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        fix = "give a folder written by save_pretrained, a Hub id, or model.name=pocket"
        if config.model.name == SMOLLM2_FOLDER:
            fix = "make it there, once, with `python -m lsp.model.smollm2`, or take the Hub's,"
            fix += " model=smollm2_135m"
        if (folder / "adapter_config.json").is_file():
            fix = "it is an adapter; give its base as model.name, and the adapter with"
            fix += f" init=checkpoint init.run={folder}"
        yield "model.name", "there is no model in that folder", fix
        return
    context = model.get("max_position_embeddings")
    for key in ("max_new_tokens", "max_query_tokens"):
        if isinstance(context, int) and getattr(config.rollout, key) >= context:
            reason = f"the {kind} model has a context of {context} tokens"
            yield f"rollout.{key}", reason, f"choose less than {context}, prompts included"
    vocabulary = model.get("vocab_size")
    if config.method.kl_estimator != "exact" or not isinstance(vocabulary, int):
        return
    if vocabulary > EXACT_KL_VOCABULARY:
        reason = f"keeps whole distributions over {vocabulary:,} tokens, and is for at most"
        fix = "choose k2, whose expected gradient is the same"
        yield "method.kl_estimator", f"{reason} {EXACT_KL_VOCABULARY:,}", fix


def warnings(config: Config) -> list[str]:
    """What is allowed and probably not meant."""
    texts = list(config.rollout.engine.warnings(config))
    if config.rollout.top_p < 1:
        texts.append(
            "rollout.top_p below 1: what is sampled is not what the loss takes log-probabilities"
            " of, so updates are off-policy; 1 is meant for training"
        )
    betas = [config.method.beta_of(role) for role in ("solver", "challenger")]
    if config.method.kl_estimator == "k1" and any(betas):
        texts.append(
            "method.kl_estimator=k1: its expected gradient is zero on-policy, since"
            " E[grad log pi] = 0; it adds noise and holds nothing back. k2 is the penalty meant"
        )
    return texts
