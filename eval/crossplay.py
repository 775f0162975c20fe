"""``lsp crossplay RUN [RUN …]``: runs in, each Challenger's queries to each Solver out.

    lsp crossplay outputs/<run id> queries=64 samples=4
    lsp crossplay outputs/lsp-0 outputs/lsp-1 last_only=true folder=outputs/cross

Players are the base model and the kept checkpoints of the runs; ``data`` asks what the data set
holds. Two models are never held at once: each writes its queries, then each answers all of them.
Every Challenger's queries and every cell are a file, so a command that was killed goes on where it
was. Draws are keyed by (seed, role) alone, so no cell depends on which others are played.

<folder>/queries/<challenger>.json            its queries
<folder>/cells/<challenger>__<solver>.json    answers, rewards, probabilities
<folder>/crossplay.{csv,svg}                  the matrix
"""

import gc
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from lsp.cli.main import run as run_command
from lsp.contracts import BuildContext, Reward, build_part
from lsp.errors import RunError
from lsp.files import write_csv, write_json
from lsp.judging.cache import content_key
from lsp.queries.dataset import step_queries
from lsp.report.matrix import Cell, draw_matrix, matrix_text, read_matrix
from lsp.run.checkpoint import checkpoint_folders, verified
from lsp.run.folder import find_run, lock_run, read_run, weights_identity
from lsp.run.resume import saved_config
from lsp.settings.command import consent, read_command
from lsp.settings.config import Config
from lsp.settings.schema import flat, setting, settings
from lsp.tools.heartbeat import Heartbeat, enter, say
from lsp.tracking.reader import DamagedFile, read_json

BASE, DATA = "base", "data"
ALIKE = (
    *("world", "prompts", "data", "reward", "rollout"),
    *("model.dtype", "model.date_string", "model.template_kwargs"),
)
"""Settings, or groups of them, that all runs of a matrix share."""
Rows = list[dict[str, Any]]


class _Kept(TypedDict):
    key: str
    queries: list[dict[str, Any]]


KEPT = TypeAdapter(_Kept)


@settings
class CrossPlaySettings:
    """Who plays, and how much."""

    queries: int = setting("of each Challenger", default=64, ge=1, le=100_000)
    samples: int = setting("answers to each query", default=4, ge=1, le=10_000)
    seed: int = setting("of all draws", default=0, ge=0, le=2**32 - 1)
    last_only: bool = setting("the newest checkpoint of each run alone", default=False)
    data: bool = setting("the data set asks too", default=True)
    runs_root: str = setting("where run ids are looked up", default="outputs")
    folder: str | None = setting("where it writes; null: crossplay/ of the first run", default=None)
    trust: tuple[str, ...] = setting(
        "code that the runs' command lines named: trust=[reward.path=mine.reward]", default=()
    )


@dataclass(frozen=True)
class Player:
    """A model of the matrix, ``identity`` its weights by hash; ``checkpoint`` is None for the base
    and for the data set, which only asks."""

    name: str
    checkpoint: Path | None
    identity: str


def main(arguments: Sequence[str]) -> None:
    try:
        names, settings = read_command(CrossPlaySettings, arguments)
        print(cross_play(names, settings))
    except RunError as error:
        sys.exit(f"error: {error}")


def cross_play(names: Sequence[str], settings: CrossPlaySettings) -> str:
    """Play what is missing and write the matrix; the text is for the reader. Raises RunError."""
    if not names:
        raise RunError("name the runs: lsp crossplay RUN [RUN …] queries=64 samples=4")
    runs = [find_run(name, settings.runs_root) for name in names]
    config = common_config(runs, consent(settings.trust))
    players = players_of(runs, settings.last_only)
    folder = Path(settings.folder or runs[0] / "crossplay")
    table, picture = folder / "crossplay.csv", folder / "crossplay.svg"
    try:
        for place in ("queries", "cells"):
            (folder / place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"folder={folder} cannot be made: {error}; name another folder") from error
    with lock_run(folder), Heartbeat("cross-play"):
        try:
            write_csv(table, CrossPlay(config, players, settings, folder).cells())
        except ValueError as error:
            raise RunError(str(error)) from error
        rows = read_matrix(folder)
        draw_matrix(rows).savefig(picture)
    return f"{matrix_text(rows)}\n{table}\n{picture}"


def common_config(runs: Sequence[Path], trusted: Mapping[str, Any]) -> Config:
    """The first run's settings. Raises RunError where another run has another base, or differs in
    what its players see, write or are rewarded for."""
    configs = [saved_config(run, trusted) for run in runs]
    bases = [{"base": read_run(run)["base"]} for run in runs]
    first, *others = (a | shared_settings(b) for a, b in zip(bases, configs, strict=True))
    for run, other in zip(runs[1:], others, strict=True):
        keys = dict.fromkeys((*first, *other))
        if differ := [key for key in keys if first.get(key) != other.get(key)]:
            values = f"{first.get(differ[0])!r} and {other.get(differ[0])!r}"
            more = f" (they differ in {', '.join(differ)})" if differ[1:] else ""
            problem = f"cannot stand in one matrix: {differ[0]} is {values}{more}"
            advice = "name runs of one base and world, each other group in a command of its own"
            raise RunError(f"{runs[0]} and {run} {problem}; {advice}")
    return configs[0]


def shared_settings(config: Config) -> dict[str, Any]:
    """Dotted key -> value of all that queries, answers and rewards depend on beside weights."""
    groups = tuple(f"{key}." for key in ALIKE)
    return {key: value for key, value in flat(config).items() if f"{key}.".startswith(groups)}


def players_of(runs: Sequence[Path], last_only: bool) -> list[Player]:
    """The base, then each run's checkpoints, the oldest first. With several runs their names begin
    with the run's id. Raises RunError for a run without a checkpoint and for one named twice."""
    ids = [read_run(run)["id"] for run in runs]
    players = [Player(BASE, None, read_run(runs[0])["base"])]
    for run, run_id in zip(runs, ids, strict=True):
        if ids.count(run_id) > 1:
            raise RunError(f"the run {run_id} is named twice; name each run once")
        checkpoints = checkpoint_folders(run)
        if not checkpoints:
            advice = "let it reach one (checkpoint.every says how often), or leave it out"
            raise RunError(f"the run {run} has no checkpoint, so none of it can play; {advice}")
        for checkpoint in checkpoints[-1:] if last_only else checkpoints:
            name = checkpoint.name if len(runs) == 1 else f"{run_id}/{checkpoint.name}"
            players.append(Player(name, checkpoint, weights_identity(checkpoint)))
    return players


@dataclass
class CrossPlay:
    """One matrix: what is kept is read, what is not is ``played`` and written."""

    config: Config
    players: Sequence[Player]
    settings: CrossPlaySettings
    folder: Path
    played: int = 0

    @cached_property
    def reward(self) -> Reward:
        """The run's external reward, built only where a cell is to be played."""
        from lsp.model.device import choose_device

        context = BuildContext(self.config, choose_device(self.config.runtime.device))
        return build_part(self.config.reward, context)

    def cells(self) -> list[Cell]:
        """By Challenger. Raises ValueError where a part does not load, RunError for a bad file."""
        samples, seed = self.settings.samples, self.settings.seed
        data = [Player(DATA, None, DATA)] if self.settings.data else []
        queries = {}
        for asker in (*self.players, *data):
            enter(f"queries of {asker.name}")
            key = (asker.identity, self.settings.queries, seed)
            queries[asker.name] = self.kept("queries", asker.name, key, partial(self.ask, asker))
        cells: dict[tuple[str, str], Cell] = {}
        for solver in self.players:
            load = cache(partial(load_player, solver, self.config))
            for challenger, lines in queries.items():
                texts = [query["text"] for query in lines if query["legal"]]
                number = f"{len(cells) + 1} of {len(self.players) * len(queries)}"
                enter(f"cell {number}: {challenger} asks {solver.name}")
                pair, key = (challenger, solver.name), (solver.identity, samples, seed, texts)
                rows = self.kept("cells", "__".join(pair), key, partial(self.answer, load, texts))
                rewards = mean_and_error([mean(row["rewards"]) for row in rows])
                exact = [row["probability"] for row in rows if row["probability"] is not None]
                counts = len(lines), len(rows), 1 - len(rows) / len(lines)
                cells[pair] = Cell(*pair, *counts, *rewards, *mean_and_error(exact))
        print(f"{len(cells) - self.played} of {len(cells)} cells from the cache", flush=True)
        return [cells[name, player.name] for name in queries for player in self.players]

    def kept(self, place: str, name: str, key_parts: tuple, make: Callable[[], Rows]) -> Rows:
        """What a file holds or, where it is not there or of another key, what ``make`` gives, which
        is then written there. Raises RunError for a file that cannot be read."""
        path = self.folder / place / f"{name.replace('/', '--')}.json"
        key = content_key({"settings": shared_settings(self.config), "parts": key_parts})
        if path.exists():
            try:
                content = read_json(path, KEPT)
            except DamagedFile as error:
                raise RunError(f"{error}; remove it, and it is played again") from error
            if content["key"] == key:
                return content["queries"]
        rows = make()
        write_json(path, {"key": key, "queries": rows})
        return rows

    def ask(self, player: Player) -> Rows:
        """Queries of a model, or of the data set: ``text``, ``status``, whether it is ``legal``."""
        from lsp.queries.challenger import challenger_queries
        from lsp.types import DrawKey, Query

        config, count, seed = self.config, self.settings.queries, self.settings.seed
        if player.name == DATA:
            try:
                texts = build_part(config.data, BuildContext(config))
            except ValueError as error:
                raise RunError(f"{error}; data=false plays without the data set") from error
            queries = [Query("", t, "dataset") for t in step_queries(texts, count, seed, 0)]
        else:
            model, chat, _, engine = load_player(player, config)
            key, rollout = DrawKey(seed, 0, "cross-play challenger"), config.rollout
            queries = challenger_queries(model, engine, chat, config.prompts, rollout, count, key)
        is_legal = config.world.is_legal
        return [
            {"text": q.text, "status": q.status, "legal": q.played and is_legal(q.text)}
            for q in queries
        ]

    def answer(self, load: Callable[[], tuple], texts: Sequence[str]) -> Rows:
        """Per query its ``answers``, their ``rewards`` and the ``probability`` of the right one
        (None where the world knows none). Nothing is loaded where there is no query."""
        from lsp.model.probability import completion_probability
        from lsp.types import DrawKey

        self.played += 1
        if not texts:
            return []
        model, chat, engine, _ = load()
        samples, config = self.settings.samples, self.config
        prompts = chat.encode([config.prompts.solver_messages(text) for text in texts])
        key = DrawKey(self.settings.seed, 0, "cross-play solver")
        limit, temperature = config.rollout.max_new_tokens, config.rollout.temperature_of("solver")
        groups = engine.generate(model, prompts, samples, limit, temperature, key)
        rows = [
            {"text": text, "answers": [chat.answer_of(completion.text) for completion in group]}
            for text, group in zip(texts, groups, strict=True)
        ]
        pairs = [(row["text"], answer) for row in rows for answer in row["answers"]]
        rewards = self.reward(*map(list, zip(*pairs, strict=True)))
        right = {i: config.world.right_answer(text) for i, text in enumerate(texts)}
        right = {i: answer for i, answer in right.items() if answer is not None}
        solvable, tokens = [prompts[i] for i in right], config.optim.micro_batch_tokens
        exact = completion_probability(model, chat, solvable, list(right.values()), tokens)
        probability = dict(zip(right, exact, strict=True))
        for i, row in enumerate(rows):
            row["rewards"] = rewards[i * samples : (i + 1) * samples]
            row["probability"] = probability.get(i)
        return rows


def load_player(player: Player, config: Config) -> tuple:
    """(model, chat format, engine, the Challenger's engine). Raises ValueError or, for a damaged
    checkpoint, RunError."""
    import torch

    from lsp.model.chat import ChatFormat
    from lsp.model.device import choose_device
    from lsp.model.language_model import end_token_ids, load_model
    from lsp.rollout.settings import challenger_engine

    say(f"loading {player.name}")
    gc.collect()  # the model before this one may be a part of a cycle
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    settings, device = config.model, choose_device(config.runtime.device)
    source = verified(player.checkpoint) if player.checkpoint else settings.name
    code = settings.revision, settings.trust_remote_code
    model, tokenizer = load_model(source, settings.dtype, device, *code)
    chat = ChatFormat(tokenizer, settings.date_string, settings.template_kwargs)
    end_ids = end_token_ids(model, chat)
    context = BuildContext(config, device, chat=chat, end_ids=end_ids)
    engine = build_part(config.rollout.engine, context)
    return model, chat, engine, challenger_engine(context, engine)


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error (ddof 1); None where there is no value, or one alone."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return mean(values) if values else None, error


if __name__ == "__main__":
    sys.exit(run_command("crossplay", sys.argv[1:]))
