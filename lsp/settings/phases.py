"""The phases of a run and of a step, by one name each in metrics, plans and messages. No torch."""

from typing import NamedTuple


class Phase(NamedTuple):
    """``words``: what is done in it; ``memory_settings``: what its peak memory follows from, the
    strongest first."""

    words: str
    memory_settings: tuple[str, ...]


DECODING = ("rollout.max_rows", "rollout.max_tokens")
STEP_PHASES = {
    "queries": Phase("generation of the queries", (*DECODING, "rollout.max_query_tokens")),
    "answers": Phase("generation of the answers", (*DECODING, "rollout.max_new_tokens")),
    "reward": Phase(
        "the external reward",
        ("reward.max_tokens", "reward.max_length", "reward.dtype", "group_size", "num_queries"),
    ),
    "quality": Phase("the quality self-reward", (*DECODING, "rollout.max_new_tokens")),
    "update": Phase(
        "the update",
        ("optim.micro_batch_tokens", "optim.gradient_checkpointing", "model.lora.rank"),
    ),
}
"""In the order of a step; their seconds are the metrics ``time/<phase>``."""
PHASES = {
    "loading": Phase("loading the models", ("model.dtype", "reward.dtype", "model.name")),
    **STEP_PHASES,
    "evaluation": Phase("the evaluation", (*DECODING, "rollout.max_new_tokens")),
}
"""All phases of a run in which memory can end."""
