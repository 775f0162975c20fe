"""Held-out prompts of the instructions world, written for this project: forms x topics x rules.

No Challenger and no data set of this project sees them. Dev topics choose settings, test topics
report; ``held_out_kinds`` are test topics under rules of kinds that no run trains on.
"""

from collections.abc import Sequence

from lsp.instructions.rules import HELD_OUT, TRAIN, Rule, seeds

FORMS = (
    "Write a short story about {}.",
    "Write a poem about {}.",
    "Write a letter to a friend about {}.",
    "Tell a child about {}.",
    "Give some advice about {}.",
    "Describe {}.",
    "Write a dialogue between two people about {}.",
    "Write a news report about {}.",
    "Write an entry of a blog about {}.",
    "Write an e-mail to a colleague about {}.",
)
DEV = (
    *("a lost umbrella", "the first day at a new school", "a small bakery", "honey"),
    *("an old bridge", "the night train", "a broken clock", "learning to swim"),
    *("a garden on a roof", "winter coats", "a rainy weekend"),
)
TEST = (
    *("a lighthouse", "the last bus home", "a family of foxes", "cheese", "a paper map"),
    *("moving to another city", "a chess club", "a very long queue", "growing tomatoes"),
    *("a museum of sounds", "the smell of rain", "a borrowed bicycle", "keeping a diary"),
    *("a visit to the dentist", "a power cut", "an island without cars", "saving money"),
    *("a choir of strangers", "a lost dog"),
)
SPLITS: dict[str, tuple[Sequence[str], Sequence[Rule], int]] = {
    "dev": (DEV, TRAIN, 5),
    "test": (TEST, TRAIN, 10),
    "held_out_kinds": (TEST, HELD_OUT, 12),
}
"""Name -> topics, rules, and prompts of each rule."""


def prompts(split: str) -> list[str]:
    """Steps through forms and topics have no divisor in common with their numbers, so that a rule
    meets different ones."""
    topics, rules, count = SPLITS[split]
    return [
        f"{FORMS[(i + i // count) % len(FORMS)].format(topics[(3 * i + 1) % len(topics)])} {seed}"
        for i, seed in enumerate(seeds(rules, count))
    ]
