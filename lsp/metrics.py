"""What a play is recorded as: queries and their play go in, scalars by path and role come out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lsp.types import Play, Query


def play_metrics(queries: Sequence[Query], play: Play) -> dict[str, float]:
    """Scalars of one play. ``_frac`` are shares in [0, 1]; lengths are tokens."""
    answers = [answer for group in play.answers for answer in group]
    count = len(queries)
    values = {
        "rollout/played_query_frac": len(play.queries) / count,
        "rollout/distinct_query_frac": len({query.text for query in queries}) / count,
    }
    for status in ("length", "empty", "malformed", "illegal"):
        values[f"rollout/query_{status}_frac"] = sum(q.status == status for q in queries) / count
    lengths = [len(q.completion.ids) for q in queries if q.completion is not None]
    if lengths:
        values["rollout/query_length/mean"] = sum(lengths) / len(lengths)
    if not play.queries:
        return values
    truncated = sum(answer.finish_reason == "length" for answer in answers)
    flat_Q = play.solver_reward_QG.std(dim=1) < 1e-6
    values |= {
        "rollout/answer_length/mean": sum(len(a.ids) for a in answers) / len(answers),
        "rollout/answer_truncated_frac": truncated / len(answers),
        **spread("reward/external", play.reward_QG),
    }
    for name, detail_QG in play.reward_details.items():
        values |= spread(f"reward/external/{name}", detail_QG)
    values |= spread("reward/solver", play.solver_reward_QG)
    values |= spread("advantage/solver", play.solver_advantage_QG)
    values["reward/solver/zero_variance_frac"] = flat_Q.float().mean().item()
    own = [i for i, query in enumerate(play.queries) if query.completion is not None]
    if own:
        values |= spread("reward/challenger", play.challenger_reward_Q[own])
        values |= spread("advantage/challenger", play.challenger_advantage_Q[own])
    if play.invalid:
        values["reward/challenger/invalid"] = play.invalid_reward
    if play.quality_text:
        values |= quality_metrics(play)
    return values


def quality_metrics(play: Play) -> dict[str, float]:
    """The self-reward: its mean (0..7), the share unread, its weight w, and w std(R_Q) / std(R),
    which says how loud it is beside the external reward."""
    weight = play.self_reward_weight
    read = play.quality_QG[~play.quality_QG.isnan()]
    values = {"quality/unparsed_frac": 1 - read.numel() / play.quality_QG.numel()}
    if weight is not None:
        values["quality/weight"] = weight
    if read.numel():
        values["quality/mean"] = read.mean().item()
    if read.numel() > 1:
        values["quality/std"] = read.std().item()
        reward_std = play.reward_QG.std().item()
        if reward_std > 0 and weight is not None:
            ratio = weight * values["quality/std"] / reward_std
            values["quality/weighted_std_ratio"] = ratio
    return values


def spread(name: str, tensor: Tensor) -> dict[str, float]:
    """Mean and standard deviation (ddof 1; 0 of a single value) of all values of a tensor."""
    std = tensor.std().item() if tensor.numel() > 1 else 0.0
    return {f"{name}/mean": tensor.mean().item(), f"{name}/std": std}


def empty_play(weight: float | None = None) -> Play:
    """The play of a step in which no query could be played; ``weight``: the self-reward's."""
    none = torch.zeros(0, 1)
    return Play([], [], [], none, {}, none, [], none, none, *(torch.zeros(0),) * 3, weight)
