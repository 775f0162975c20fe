"""Earlier Challengers: which one asks in a step, and a run half of whose queries they ask."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from lsp.errors import Interrupted
from lsp.loop.launch import start
from lsp.loop.progress import Progress
from lsp.players import load_players
from lsp.queries.pool import EarlierChallengers
from lsp.run.checkpoint import checkpoint_folders, checkpoint_step
from lsp.run.resume import find_resumed
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace
from lsp.types import DrawKey

pytestmark = pytest.mark.usefixtures("without_pictures")
SEED = 3  # of which step 3 and step 5 draw the checkpoint of step 2
RUN = ["num_queries=4", "group_size=3", "num_steps=5", "eval=none", "tracker=none",
       "objective=null", "checkpoint.every=2", "checkpoint.keep=2", "optim.lr=0.01",
       "optim.warmup_steps=0", f"seed={SEED}"]  # fmt: skip


def pool(every=2):
    """A pool whose checkpoints are their folders' names, and what it loads, in that order."""
    loaded = []

    def load(path):
        loaded.append(path.name)
        return path.name

    return EarlierChallengers(Path("checkpoints"), every, "reference", load), loaded


def test_who_asks_follows_from_seed_and_step():
    forwards, backwards = pool()[0], pool()[0]
    steps = range(1, 30)
    drawn = {step: forwards.drawn_for(step, 7) for step in steps}
    assert {step: backwards.drawn_for(step, 7) for step in reversed(steps)} == drawn
    assert {step: pool()[0].drawn_for(step, 8) for step in steps} != drawn


def test_the_reference_asks_until_the_first_checkpoint_is_there():
    for seed in range(50):
        assert {pool(every=4)[0].drawn_for(step, seed) for step in (1, 2, 3, 4)} == {"reference"}
    assert "step-000004" in {pool(every=4)[0].drawn_for(5, seed) for seed in range(50)}


def test_reference_and_checkpoints_are_as_likely_as_one_another():
    drawn = [pool()[0].drawn_for(7, seed) for seed in range(2000)]
    for name in ("reference", "step-000002", "step-000004", "step-000006"):
        assert drawn.count(name) == pytest.approx(500, abs=80)  # deviation 19
    assert len(set(drawn)) == 4


def test_one_checkpoint_is_held_and_not_loaded_again_in_a_row():
    earlier, loaded = pool(every=1)
    drawn = [earlier.drawn_for(step, 0) for step in range(1, 40)]
    asked = [name for name in drawn if name != "reference"]
    changes = [name for i, name in enumerate(asked) if i == 0 or asked[i - 1] != name]
    assert loaded == changes and len(set(loaded)) > 5


class OneOf:
    """The exchanges of one process of some, which gathers nothing: its own part is seen."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def part_of(self, count):
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def all_gather_lists(self, items):
        return items


@pytest.mark.parametrize(("share", "others"), [(0.25, 2), (0.5, 4), (1.0, 8)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_out_the_same_queries(players, share, others, size):
    """The last of a step's numbers are those of an earlier Challenger, whoever writes them."""
    config = compose(["method=lsp", f"method.earlier_challengers={share}", "num_queries=8",
                      "checkpoint.keep=9"])  # fmt: skip
    earlier = EarlierChallengers(Path("checkpoints"), 2, players.reference, None)
    alone = replace(players, config=config, earlier=earlier)
    whole = alone.step_queries(1)
    assert [query.query_id[-1] for query in whole] == list("01234567")
    assert [query.completion is None for query in whole] == [False] * (8 - others) + [True] * others
    parts = [replace(alone, processes=OneOf(rank, size)).step_queries(1) for rank in range(size)]

    def written(queries):  # log-probabilities may be rounded in another way
        return [(q.query_id, q.text, q.completion and q.completion.ids) for q in queries]

    assert written(query for part in parts for query in part) == written(whole)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder of a run of five steps, folder of one that was stopped after the third and went on)
    with method=pool."""
    root, shown = tmp_path_factory.mktemp("pool"), Progress.step

    def show_and_signal(progress, step, metrics):
        shown(progress, step, metrics)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.report.curves.save_curves", lambda record, path: None)
        patch.setattr("lsp.report.page.write_report", lambda records, path: path)
        start([*RUN, "method=pool", f"run_dir={root / 'whole'}"])
        with patch.context() as stopping, pytest.raises(Interrupted):
            stopping.setattr(Progress, "step", show_and_signal)
            start([*RUN, "method=pool", f"run_dir={root / 'stopped'}"])
        start([f"resume={root / 'stopped'}"])
    return root / "whole", root / "stopped"


def others_of(rows, step):
    """Query id -> text of those that an earlier Challenger is to ask: the last two of four."""
    queries = {row["query_id"]: row["query"] for row in rows if row["step"] == step}
    return {name: text for name, text in queries.items() if name[-3:] in ("002", "003")}


def test_a_run_that_was_stopped_goes_on_with_the_same_pool(runs):
    whole, stopped = runs
    rows, again = ([{**row, "run_id": None} for row in read_trace(run)] for run in runs)
    assert again == rows
    lines, resumed = read_metrics(whole), read_metrics(stopped)
    for line, other in zip(lines, resumed, strict=True):
        for key in line:
            assert key.startswith(("time/", "runtime/")) or other[key] == line[key], key


def test_a_checkpoint_of_an_interruption_displaces_none_that_may_ask(runs):
    """checkpoint.keep=2, and step 3 was saved between 2 and 4: step 2 asks in step 5."""
    kept = [[checkpoint_step(path) for path in checkpoint_folders(run)] for run in runs]
    assert kept == [[2, 4, 5], [2, 4, 5]]
    assert pool()[0].drawn_for(5, SEED) == "step-000002"


def test_they_ask_in_the_first_steps_as_the_reference_does(runs, train_in_memory):
    _, frozen = train_in_memory([*RUN, "num_steps=2", "method=frozen_challenger"])
    rows = read_trace(runs[0])
    for step in (1, 2):
        assert others_of(rows, step) == others_of(frozen, step) and others_of(rows, step)


def test_later_a_checkpoint_of_the_run_asks(runs):
    spec = find_resumed(compose([f"resume={runs[0]}"]), []).spec
    checkpoint = runs[0] / "checkpoints" / "step-000002"
    players = load_players(spec.config, spec.init, checkpoint)
    for step in (3, 5):
        key = DrawKey(SEED, step, "challenger", range(2, 4))
        asked = players.ask(players.policy, 2, key)
        found = others_of(read_trace(runs[0]), step)
        assert found == {query.query_id: query.text for query in asked}
        by_reference = players.ask(players.reference, 2, key)
        assert [query.text for query in by_reference] != list(found.values())


def test_their_queries_are_answered_and_bear_no_challengers_loss(runs):
    rows, lines = read_trace(runs[0]), read_metrics(runs[0])
    own = [row for row in rows if row["query_id"][-3:] in ("000", "001")]
    others = [row for row in rows if row not in own]
    of_challenger = ("query_tokens", "query_kl", "query_entropy", "challenger_reward",
                     "challenger_advantage")  # fmt: skip
    assert {row[name] for row in others for name in of_challenger} == {None}
    assert all(row["query_tokens"] is not None for row in own)
    answered = [row for row in others if row["answer"] is not None]
    assert len(answered) > 15 and all(row["answer_kl"] is not None for row in answered)
    for line in lines:
        of_step = [row for row in rows if row["step"] == line["step"]]
        played = {row["query_id"] for row in of_step if row["answer"] and row in own}
        answers = [row for row in of_step if row["answer"] is not None]
        assert line["batch/rows"] == len(answers) + len(played)
    assert {len(others_of(rows, step)) for step in range(1, 6)} == {2}


def test_one_of_theirs_that_cannot_be_played_earns_nothing(tmp_path):
    """Cut queries of the Challenger bear loss under invalid_query=lowest, an earlier one's none."""
    folder = tmp_path / "run"
    start([*RUN, "num_steps=1", "num_queries=16", "rollout.max_query_tokens=8", "method=pool",
           "method.invalid_query=lowest", f"run_dir={folder}"])  # fmt: skip
    cut = {row["query_id"]: row for row in read_trace(folder) if row["answer"] is None}
    own = [row for name, row in cut.items() if int(name[-3:]) < 8]
    others = [row for name, row in cut.items() if int(name[-3:]) >= 8]
    assert own and others
    assert None not in {row["challenger_reward"] for row in own}
    assert {row["challenger_reward"] for row in others} == {None}
    assert {row["challenger_advantage"] for row in others} == {None}
