"""Settings and texts go in, those that fit the model's context (or an error) come out."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel

from lsp.model.chat import ChatFormat
from lsp.settings.config import Config


def check_context(
    model: PreTrainedModel, chat: ChatFormat, config: Config, queries: Sequence[str]
) -> tuple[list[str], int]:
    """A data set's queries that fit into the model's context with an answer and, where it reads
    them, the judge's prompt; and how many do not. Raises ValueError where none does, or where the
    longest query of a Challenger with its answer, or what the judge reads of them, cannot fit."""
    prompts, rollout, method = config.prompts, config.rollout, config.method
    challenged = method.queries == "challenger"
    needed = answer_tokens(chat, config, rollout.max_query_tokens if challenged else 0)
    if not method.scores_quality:
        del needed["the judge"]
    if challenged:
        (prompt,) = chat.encode([prompts.longest_challenger_messages()])
        needed = {"the Challenger": len(prompt) + rollout.max_query_tokens, **needed}
        for who, tokens in beyond_context(model, needed).items():
            raise ValueError(
                f"{who} may need {tokens} tokens, its prompt included, and the model's context has"
                f" {model.config.max_position_embeddings}; lower"
                f" rollout.max_query_tokens={rollout.max_query_tokens} or"
                f" rollout.max_new_tokens={rollout.max_new_tokens}"
            )
        return [], 0
    context = context_of(model)
    longest = context - max(needed.values())
    lengths = [len(ids) for ids in chat.encode_text(queries)]
    fitting = [q for q, n in zip(queries, lengths, strict=True) if n <= longest]
    if not fitting:
        raise ValueError(
            f"no query of the data set fits: the shortest has {min(lengths)} tokens, and beside an"
            f" answer and the prompts the model's context of {context} leaves {longest}; lower"
            f" rollout.max_new_tokens={rollout.max_new_tokens}"
        )
    return fitting, len(queries) - len(fitting)


def answer_tokens(chat: ChatFormat, config: Config, query_tokens: int) -> dict[str, int]:
    """The most tokens, prompts included, that Solver and self-judge need for a query of so many."""
    prompts, answered = config.prompts, query_tokens + config.rollout.max_new_tokens
    solver, judge = chat.encode([prompts.solver_messages(""), prompts.judge_messages("", "")])
    return {
        "the Solver": len(solver) + answered,
        "the judge": len(judge) + answered + config.self_reward.written_tokens,
    }


def beyond_context(model: PreTrainedModel, needed: dict[str, int]) -> dict[str, int]:
    """Those of ``needed`` that exceed the model's context; none where its limit is not known."""
    return {who: n for who, n in needed.items() if n > context_of(model)}


def context_of(model: PreTrainedModel) -> float:
    """Tokens that it can read at most; infinite where that is not known."""
    return getattr(model.config, "max_position_embeddings", None) or math.inf
