"""What a table of the exact game costs: ``python -m tests.bench.exact`` -> CPU-seconds of each.

The shipped base; set OMP_NUM_THREADS=1 for one core. docs/game.md has the figures.
"""

import statistics
import time
from functools import partial

import torch

from lsp.players import load_players
from lsp.pocket.tables import answered_table, asked_table, read_script
from lsp.run.init import resolve_init
from lsp.settings.compose import compose

REPEATS = 3


def main() -> None:
    torch.set_num_threads(1)
    config = compose(["tracker=none", "runtime.device=cpu"])
    players = load_players(config, resolve_init(config))
    script = read_script(players.chat, players.prompts)
    tables = {
        "asked": partial(asked_table, players.policy, script),
        "answered": partial(answered_table, players.policy, script),
        "answered, with the judge": partial(answered_table, players.policy, script, judges=True),
    }
    for name, table in tables.items():
        seconds = []
        for _ in range(REPEATS):
            started = time.process_time()
            table()
            seconds.append(time.process_time() - started)
        print(f"{name:<26}{statistics.median(seconds):.1f} CPU-seconds", flush=True)


if __name__ == "__main__":
    main()
