"""Which self-judge separates what, on a real small model; the table of docs/prompts.md.

    python -m lsp.model.smollm2 && python -m tests.bench.self_judges [model.name=<folder>]

Pairs of known quality (lsp/paper/known_pairs.py, by which no judge was tuned): a good answer beside
the next query's, none, and its words in disorder; and sampled answers, the likeliest of the model's
own beside one at temperature 1.5, which is worse more often than not. One thread.
"""

from __future__ import annotations

import sys
import time

import torch

from lsp.paper.known_pairs import KNOWN_PAIRS
from lsp.players import load_players
from lsp.preflight import BAD, judge_known
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.types import DrawKey

JUDGES = {
    "expected, the paper's rubric": ["prompts=paper", "self_reward=paper"],
    "generate, the paper's rubric": [
        "prompts=paper",
        "self_reward=paper",
        "self_reward.mode=generate",
    ],
    "expected, few-shot rubric": ["prompts=few_shot", "self_reward=paper"],
    "generate, few-shot rubric": [
        *("prompts=few_shot", "self_reward=paper", "self_reward.mode=generate"),
        "self_reward.max_new_tokens=8",
    ],
    "likelihood, contrast 0": ["self_reward=likelihood", "self_reward.likelihood_contrast=0"],
    "likelihood, contrast 1": ["self_reward=likelihood", "self_reward.likelihood_contrast=1"],
    "likelihood, contrast 6": ["self_reward=likelihood"],
}


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    queries = [query for query, _ in KNOWN_PAIRS]
    likely: list[str] = []
    hot: list[str] = []
    for name, overrides in JUDGES.items():
        run = ["experiment=laptop/lsp", "method.self_reward_weight=1", *words, *overrides]
        config = compose(run)
        players = load_players(config, resolve_init(config))
        if not likely:
            prompts = players.chat.encode([players.prompts.solver_messages(q) for q in queries])
            likely = [c.text for c in players.greedy(players.policy, prompts, 64)]
            key = DrawKey(0, 1, "hot")
            written = players.engine.generate(players.policy, prompts, 1, 64, 1.5, key)
            hot = [completion.text for (completion,) in written]
        started = time.process_time()
        known = judge_known(players, KNOWN_PAIRS)
        seconds = time.process_time() - started
        scores, _ = players.qualities(queries * 2, [*likely, *hot], 1)
        half = len(queries)
        above = sum(a > b for a, b in zip(scores[:half], scores[half:], strict=True))
        read = 1 - known.unread / (half * (1 + len(BAD)))
        wins = " | ".join(str(known.wins[kind]) for kind in BAD)
        print(f"| {name} | {read:.0%} | {wins} | {above} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
