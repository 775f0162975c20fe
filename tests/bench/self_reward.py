"""The two modes of the self-reward on the same rows of the pocket world: agreement and cost.

    python -m tests.bench.self_reward

400 queries of the base, four answers each, at temperature 1; repeated pairs are judged once. The
true rubric (``lsp.pocket.language.form_rubric``) stands beside both.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from lsp.players import load_players
from lsp.pocket.language import form_rubric
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.types import DrawKey


def main() -> None:
    torch.set_num_threads(1)
    scores, asked, given, true = {}, [], [], np.zeros(0)
    for mode in ("expected", "generate"):
        config = compose([f"self_reward.mode={mode}"])
        players = load_players(config, resolve_init(config))
        if not asked:
            asked = players.ask(players.policy, 400, DrawKey(0, 1, "challenger"))
            queries = [query for query in asked if query.played]
            prompts = players.chat.encode(
                [players.prompts.solver_messages(q.text) for q in queries]
            )
            answers = players.engine.generate(
                players.policy, prompts, 4, 12, 1.0, DrawKey(0, 1, "solver")
            )
            asked = [query.text for query in queries for _ in range(4)]
            given = [answer.text for group in answers for answer in group]
            true = np.array([form_rubric(*pair) for pair in zip(asked, given, strict=True)], float)
        started = time.process_time()
        found, _ = players.self_judge.score(asked, given, DrawKey(0, 1, "judge"))
        seconds = time.process_time() - started
        scores[mode] = np.array(found)
        read = ~np.isnan(scores[mode])
        near = np.abs(scores[mode][read] - true[read])
        print(
            f"{mode:<9} {seconds:.3f} CPU-s for {len(set(zip(asked, given, strict=True)))} distinct"
            f" pairs, {1 - read.mean():.1%} unread; against the true rubric: within half a point"
            f" {(near <= 0.5).mean():.1%}, mean error {near.mean():.3f}"
        )
    both = ~np.isnan(scores["expected"]) & ~np.isnan(scores["generate"])
    one, other = scores["expected"][both], scores["generate"][both]
    print(
        f"the two agree within half a point on {(np.abs(one - other) <= 0.5).mean():.1%} of"
        f" {both.sum()} rows, correlation {np.corrcoef(one, other)[0, 1]:.3f}"
    )


if __name__ == "__main__":
    main()
