"""Settings of one update each go in; gradients, metrics and weights go to a file. For torchrun:
``updates_worker.py results.pt '[[rows, [setting, …]], …]'``."""

import json
import sys
from dataclasses import replace

import torch

import tests.fsdp_on_cpu  # noqa: F401
from lsp.algorithm import Clock, play_queries
from lsp.batch import training_rows
from lsp.learner import Learner
from lsp.model.distribution import full
from lsp.model.processes import Processes, end_process
from lsp.players import load_players
from lsp.run.init import resolve_init
from lsp.settings.compose import compose


def updated(processes, kept, settings):
    config = compose(["tracker=none", "hardware=cpu", "optim.role_gradients_every=1", "seed=3",
                      "num_queries=4", "optim.micro_batch_tokens=60", *settings])  # fmt: skip
    torch.manual_seed(config.seed)  # as every process of a run does: adapters begin at random
    alone = load_players(config, resolve_init(config), None)
    with torch.no_grad():  # so that KL is not zero
        for parameter in alone.policy.parameters():
            parameter.mul_(1.01)
    queries = alone.step_queries(1)
    play = play_queries(alone, config, queries, 1, Clock())
    rows = training_rows(play, config.method, 4, 24, 12)[:kept]
    learner = Learner(replace(alone, processes=processes), config)
    learner.optimizer.zero_grad = lambda set_to_none: None  # gradients are looked at afterwards
    stats = learner.update(rows, 1)
    return {
        "gradients": [full(t.grad) for t in learner.trained],
        "metrics": stats.metrics(),
        "rows": stats.row,
        "weights": [full(p.detach()) for p in alone.policy.parameters()],
    }


def main(path, cases):
    processes = Processes.from_environment()
    processes.start()
    results = []
    for kept, settings in cases:
        results.append(updated(processes, kept, settings))
        everybody = processes.all_gather(results[-1]["weights"])
        assert all(
            torch.equal(a, b) for one in everybody for a, b in zip(one, everybody[0], strict=True)
        )
    if processes.is_first:
        torch.save(results, path)
    processes.leave()
    end_process(0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
