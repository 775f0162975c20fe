"""Players and servers on loopback go in; engines that ask those, and policies of several kinds,
come out, for the tests of rollouts by vLLM."""

import copy

import torch

from lsp.contracts import BuildContext
from lsp.model.lora import add_lora
from lsp.model.processes import ALONE
from lsp.settings.compose import compose
from lsp.types import DrawKey

KEY = DrawKey(3, 7, "solver")


def engine_of(players, *servers, policy=None, more=()):
    """An engine that has told the servers who the policy is."""
    urls = ",".join(server.url for server in servers)
    config = compose(["rollout.engine=vllm", f"rollout.url=[{urls}]", *more])
    context = BuildContext(
        config,
        chat=players.chat,
        end_ids=frozenset(players.engine.stop_ids.tolist()),
        reference=players.reference,
    )
    engine = config.rollout.engine.build(context)
    engine.sync(players.policy if policy is None else policy, 0, ALONE)
    return engine


def prompts_of(players, *queries):
    return players.chat.encode([[("user", query)] for query in queries])


def rows_of(groups):
    return [row for group in groups for row in group]


def changed(policy, by=0.3):
    """A copy whose weights are others."""
    other = copy.deepcopy(policy)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += by * parameter.std() * torch.randn_like(parameter)
    return other


def with_adapters(players, by=0.05):
    policy = copy.deepcopy(players.policy)
    add_lora(policy, compose(["model.lora.rank=4"]).model.lora)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter += by * torch.randn_like(parameter)
    return policy
