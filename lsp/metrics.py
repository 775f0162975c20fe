"""What a step is recorded as: scalars by path and role, and one row a (query, answer) pair."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp.learner import UpdateStats
from lsp.types import Completion, Play, Query


def play_metrics(queries: Sequence[Query], play: Play, self_reward_weight: float) -> dict:
    """Scalars of one play. ``_frac`` are shares in [0, 1]; lengths are tokens."""
    answers = [answer for group in play.answers for answer in group]
    count = len(queries)
    values = {
        "rollout/played_query_frac": len(play.queries) / count,
        "rollout/distinct_query_frac": len({query.text for query in queries}) / count,
        **{
            f"rollout/query_{status}_frac": sum(q.status == status for q in queries) / count
            for status in ("length", "empty", "invalid")
        },
    }
    lengths = [len(q.completion.ids) for q in queries if q.completion is not None]
    if lengths:
        values["rollout/query_length/mean"] = sum(lengths) / len(lengths)
    if not play.queries:
        return values
    values |= {
        "rollout/answer_length/mean": sum(len(a.ids) for a in answers) / len(answers),
        "rollout/answer_truncated_frac": sum(a.finish_reason == "length" for a in answers)
        / len(answers),
        **spread("reward/external", play.reward_QG),
        **{
            key: value
            for name, tensor in play.reward_details.items()
            for key, value in spread(f"reward/external/{name}", tensor).items()
        },
        **spread("reward/solver", play.solver_reward_QG),
        **spread("advantage/solver", play.solver_advantage_QG),
        "reward/solver/zero_variance_frac": (play.solver_reward_QG.std(dim=1) < 1e-6)
        .float()
        .mean()
        .item(),
    }
    if play.queries[0].completion is not None:
        values |= spread("reward/challenger", play.challenger_reward_Q)
        values |= spread("advantage/challenger", play.challenger_advantage_Q)
    if play.quality_text:
        values |= quality_metrics(play, self_reward_weight)
    return values


def quality_metrics(play: Play, self_reward_weight: float) -> dict[str, float]:
    """The self-reward: its mean (0..7), the share unread, and w std(R_Q) / std(R), which says
    how loud it is beside the external reward."""
    read = play.quality_QG[~play.quality_QG.isnan()]
    values = {"quality/unparsed_frac": 1 - read.numel() / play.quality_QG.numel()}
    if read.numel():
        values["quality/mean"] = read.mean().item()
    if read.numel() > 1:
        values["quality/std"] = read.std().item()
        reward_std = play.reward_QG.std().item()
        if reward_std > 0:
            ratio = self_reward_weight * values["quality/std"] / reward_std
            values["quality/weighted_std_ratio"] = ratio
    return values


def spread(name: str, tensor: Tensor) -> dict[str, float]:
    """Mean and standard deviation (ddof 1; 0 of a single value) of all values of a tensor."""
    std = tensor.std().item() if tensor.numel() > 1 else 0.0
    return {f"{name}/mean": tensor.mean().item(), f"{name}/std": std}


def trace_rows(
    run_id: str, step: int, queries: Sequence[Query], play: Play, stats: UpdateStats
) -> list[dict[str, Any]]:
    """Every (query, answer) pair of the step, and one row for each query that was not played,
    its answer's columns null. Nothing is left out: ``query_finish_reason`` says why a query was
    not played."""
    position = {query.query_id: i for i, query in enumerate(play.queries)}
    value, challenger_reward, challenger_advantage = (
        tensor.tolist()
        for tensor in (play.query_value_Q, play.challenger_reward_Q, play.challenger_advantage_Q)
    )
    reward, quality, solver_reward, solver_advantage = (
        tensor.tolist()
        for tensor in (
            play.reward_QG,
            play.quality_QG,
            play.solver_reward_QG,
            play.solver_advantage_QG,
        )
    )
    details = {name: tensor.tolist() for name, tensor in play.reward_details.items()}
    scored = bool(play.quality_text)
    rows = []
    for query in queries:
        own = _completion_columns("query", "challenger", query.prompt_ids, query.completion, stats)
        common = {
            "run_id": run_id,
            "step": step,
            "query_id": query.query_id,
            "source": "dataset" if query.status == "dataset" else "challenger",
            "query": query.text,
            "query_finish_reason": "stop" if query.status == "dataset" else query.status,
            **own,
        }
        i = position.get(query.query_id)
        if i is None:
            rows.append(common)
            continue
        common["query_value"] = value[i]
        if query.completion is not None:
            common["challenger_reward"] = challenger_reward[i]
            common["challenger_advantage"] = challenger_advantage[i]
        for j, answer in enumerate(play.answers[i]):
            read = scored and not math.isnan(quality[i][j])
            prompt = play.solver_prompt_ids[i]
            told = {name: values[i][j] for name, values in details.items()}
            rows.append(
                {
                    **common,
                    "answer_id": f"{query.query_id}-a{j:03d}",
                    "answer": answer.text,
                    "answer_finish_reason": answer.finish_reason,
                    "reward": reward[i][j],
                    "reward_details": json.dumps(told) if told else None,
                    "quality": quality[i][j] if read else None,
                    "quality_text": play.quality_text[i][j] if scored else None,
                    "quality_status": ("read" if read else "unread") if scored else "not scored",
                    "solver_reward": solver_reward[i][j],
                    "solver_advantage": solver_advantage[i][j],
                    **_completion_columns("answer", "solver", prompt, answer, stats),
                }
            )
    return rows


def _completion_columns(
    name: str, role: str, prompt_ids: tuple, completion: Completion | None, stats: UpdateStats
) -> dict[str, Any]:
    """Token count, mean KL (k2) to the reference and mean entropy of one completion; null where
    it took no part in the update."""
    if completion is None:
        return {}
    kl, entropy = stats.row.get((role, prompt_ids, completion.ids), (None, None))
    return {f"{name}_tokens": len(completion.ids), f"{name}_kl": kl, f"{name}_entropy": entropy}


def empty_play() -> Play:
    """The play of a step in which no query could be played."""
    none = torch.zeros(0, 1)
    return Play([], [], [], none, {}, none, [], none, none, *(torch.zeros(0),) * 3)
