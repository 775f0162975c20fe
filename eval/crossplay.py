"""``python -m eval.crossplay RUN [RUN …]``: every Challenger's queries to every Solver.

    python -m eval.crossplay outputs/<run id> queries=64 samples=4
    python -m eval.crossplay outputs/lsp-0 outputs/lsp-1 last_only=true folder=outputs/cross

Players are the base model and the kept checkpoints of the runs; ``data`` asks what the data set
holds. Two models are never held at once: each writes its queries, then each answers all of them.
Every Challenger's queries and every cell are a file, so a command that was killed goes on where it
was. Draws are keyed by (seed, role) alone, so no cell depends on which others are played.

<folder>/queries/<challenger>.json            its queries
<folder>/cells/<challenger>__<solver>.json    answers, rewards, probabilities
<folder>/crossplay.{csv,svg}                  the matrix
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from eval.cache import content_key
from eval.figures import write_csv
from lsp.errors import RunError
from lsp.files import write_json
from lsp.pocket.language import parse
from lsp.queries.dataset import step_queries
from lsp.report.matrix import Cell, draw_matrix, matrix_text, read_matrix
from lsp.run.checkpoint import checkpoint_folders, verified
from lsp.run.folder import find_run, lock_run, read_run, weights_identity
from lsp.run.resume import saved_config
from lsp.settings.command import read_command
from lsp.settings.compose import written
from lsp.settings.config import Config
from lsp.settings.schema import flat

BASE, DATA = "base", "data"
ALIKE = ("world", "prompts", "data", "reward", "rollout", "model.dtype", "model.date_string")
"""Settings, or groups of them, that all runs of a matrix share."""


@dataclass(frozen=True)
class CrossPlaySettings:
    """``queries``: of each Challenger; ``samples``: answers to each. ``last_only``: the newest
    checkpoint of each run alone. ``data``: the data set asks too. ``folder``: where it writes;
    null is ``crossplay/`` of the first run. ``trust``: code that the runs' settings name, as it
    stood on their command lines, for instance ``trust=[reward.path=mine.reward]``."""

    queries: int = 64
    samples: int = 4
    seed: int = 0
    last_only: bool = False
    data: bool = True
    folder: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Player:
    """A model of the matrix; ``checkpoint`` is None for the base. ``identity``: its weights by
    hash."""

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
    """Play what is not there yet and write the matrix; the text is for the reader.

    Raises RunError for settings out of range and for runs that cannot stand in one matrix.
    """
    for key, least, most in (("queries", 1, None), ("samples", 1, None), ("seed", 0, 2**32 - 1)):
        value = getattr(settings, key)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" + (f" and at most {most}" if most is not None else "")
            raise RunError(f"{key}={value}: it must be {limits}")
    if not names:
        raise RunError("name the runs: python -m eval.crossplay RUN [RUN …] queries=64 samples=4")
    runs = [find_run(name, "outputs") for name in names]
    config = common_config(runs, written(settings.trust))
    players = players_of(runs, settings.last_only)
    folder = Path(settings.folder) if settings.folder else runs[0] / "crossplay"
    try:
        for place in ("queries", "cells"):
            (folder / place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"folder={folder} cannot be made: {error}; name another folder") from error
    with lock_run(folder):
        try:
            cells = CrossPlay(config, players, settings, folder).cells()
        except ValueError as error:
            raise RunError(str(error)) from error
        # A reader finds the old matrix or the new one, never half of it.
        temporary = folder / ".crossplay.csv.tmp"
        write_csv(temporary, cells)
        os.replace(temporary, folder / "crossplay.csv")
        rows = read_matrix(folder)
        draw_matrix(rows).savefig(folder / "crossplay.svg")
    return f"{matrix_text(rows)}\n{folder / 'crossplay.csv'}\n{folder / 'crossplay.svg'}"


def common_config(runs: Sequence[Path], trusted: Mapping[str, Any]) -> Config:
    """The first run's settings. Raises RunError where another run has another base, or differs in
    what its players see, write or are rewarded for."""
    configs = {run: saved_config(run, trusted) for run in runs}
    told = {run: {"base": read_run(run)["base"]} | shared_settings(c) for run, c in configs.items()}
    first = runs[0]
    for run in runs[1:]:
        keys = dict.fromkeys((*told[first], *told[run]))
        differ = [key for key in keys if told[first].get(key) != told[run].get(key)]
        if differ:
            key = differ[0]
            raise RunError(
                f"{first} and {run} cannot stand in one matrix: {key} is {told[first].get(key)!r}"
                f" and {told[run].get(key)!r}"
                + (f" (they differ in {', '.join(differ)})" if differ[1:] else "")
                + "; name runs of one base and world, each other group in a command of its own"
            )
    return configs[first]


def shared_settings(config: Config) -> dict[str, Any]:
    """Dotted key -> value of all that queries, answers and rewards depend on beside weights."""
    return {
        key: value
        for key, value in flat(config).items()
        if key in ALIKE or key.startswith(tuple(f"{group}." for group in ALIKE))
    }


def players_of(runs: Sequence[Path], last_only: bool) -> list[Player]:
    """The base, then each run's checkpoints, the oldest first. With several runs their names begin
    with the run's id. Raises RunError for a run without a checkpoint and for one named twice."""
    records = [read_run(run) for run in runs]
    ids = [record["id"] for record in records]
    for run_id in ids:
        if ids.count(run_id) > 1:
            raise RunError(f"the run {run_id} is named twice; name each run once")
    players = [Player(BASE, None, records[0]["base"])]
    for run, run_id in zip(runs, ids, strict=True):
        checkpoints = checkpoint_folders(run)
        if not checkpoints:
            raise RunError(
                f"the run {run} has no checkpoint, so none of it can play; let it reach one"
                " (checkpoint.every says how often), or leave it out"
            )
        for checkpoint in checkpoints[-1:] if last_only else checkpoints:
            name = checkpoint.name if len(runs) == 1 else f"{run_id}/{checkpoint.name}"
            players.append(Player(name, checkpoint, weights_identity(checkpoint)))
    return players


class CrossPlay:
    """One matrix: what is cached is read, what is not is played and written."""

    def __init__(
        self,
        config: Config,
        players: Sequence[Player],
        settings: CrossPlaySettings,
        folder: Path,
    ):
        self.config = config
        self.players = players
        self.settings = settings
        self.folder = folder

    @cached_property
    def reward(self) -> Any:
        """The run's external reward, built only where a cell is to be played."""
        from lsp.model.device import choose_device

        return self.config.reward.build(choose_device(self.config.runtime.device))

    def cells(self) -> list[Cell]:
        """The whole matrix, by Challenger. Raises ValueError where a model, the data or the reward
        cannot be loaded, RunError for a damaged file."""
        asked = self._queries()
        found: dict[tuple[str, str], dict[str, Any]] = {}
        missing: dict[Player, list[str]] = {player: [] for player in self.players}
        for solver in self.players:
            for challenger, queries in asked.items():
                path, key = self._cell_file(challenger, solver, queries)
                cached = read_cached(path, key)
                if cached is None:
                    missing[solver].append(challenger)
                else:
                    found[challenger, solver.name] = cached
        print(f"{len(found)} of {len(asked) * len(self.players)} cells from the cache", flush=True)
        for solver, challengers in missing.items():
            if challengers:
                print(f"{solver.name} answers {len(challengers)}", file=sys.stderr, flush=True)
                found |= self._play(solver, {name: asked[name] for name in challengers})
        return [
            self._cell(name, player.name, queries, found[name, player.name])
            for name, queries in asked.items()
            for player in self.players
        ]

    def _queries(self) -> dict[str, list[dict[str, Any]]]:
        """Challenger -> its queries: ``text``, ``status`` and whether it is ``legal``."""
        settings, asked = self.settings, {}
        for player in [*self.players, *([None] if settings.data else [])]:
            name = player.name if player else DATA
            path = self.folder / "queries" / f"{file_name(name)}.json"
            key = self._key(player.identity if player else DATA, settings.queries, settings.seed)
            cached = read_cached(path, key)
            if cached is None:
                queries = self._asked_by(player) if player else self._data_queries()
                cached = {"key": key, "challenger": name, "queries": queries}
                write_json(path, cached)
            asked[name] = cached["queries"]
        return asked

    def _asked_by(self, player: Player) -> list[dict[str, Any]]:
        from lsp.queries.challenger import challenger_queries
        from lsp.rollout.draw_key import DrawKey

        model, chat, engine = load_player(player, self.config)
        queries = challenger_queries(
            model,
            engine,
            chat,
            self.config.prompts,
            self.config.rollout,
            self.settings.queries,
            DrawKey(self.settings.seed, 0, "cross-play challenger"),
        )
        return [self._record(q.text, q.status, q.played) for q in queries]

    def _data_queries(self) -> list[dict[str, Any]]:
        try:
            texts = self.config.data.build()
        except ValueError as error:
            raise RunError(f"{error}; data=false plays without the data set") from error
        chosen = step_queries(texts, self.settings.queries, self.settings.seed, 0)
        return [self._record(text, "dataset", True) for text in chosen]

    def _record(self, text: str, status: str, played: bool) -> dict[str, Any]:
        legal = played and (self.config.world != "pocket" or parse(text) is not None)
        return {"text": text, "status": status, "legal": legal}

    def _play(
        self, solver: Player, asked: dict[str, list[dict[str, Any]]]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """The Solver's cells, each written as it is done. Its model is loaded once, and not at all
        where nothing can be answered."""
        texts = {name: legal_texts(queries) for name, queries in asked.items()}
        loaded = load_player(solver, self.config) if any(texts.values()) else None
        done = {}
        for name, queries in asked.items():
            path, key = self._cell_file(name, solver, queries)
            cell = {"key": key, "challenger": name, "solver": solver.name, "queries": []}
            if texts[name]:
                cell["queries"] = self._answer(loaded, texts[name])
            write_json(path, cell)
            done[name, solver.name] = cell
        return done

    def _answer(self, loaded: tuple[Any, Any, Any], texts: list[str]) -> list[dict[str, Any]]:
        """Per query its ``answers``, their ``rewards`` and the ``probability`` of the right one
        (None outside the pocket world)."""
        from lsp.model.probability import completion_probability
        from lsp.rollout.draw_key import DrawKey

        model, chat, engine = loaded
        samples, config = self.settings.samples, self.config
        prompts = chat.encode([config.prompts.solver_messages(text) for text in texts])
        key = DrawKey(self.settings.seed, 0, "cross-play solver")
        limit, temperature = config.rollout.max_new_tokens, config.rollout.temperature
        groups = engine.generate(model, prompts, samples, limit, temperature, key)
        answers = [[completion.text for completion in group] for group in groups]
        rewards = self.reward(
            [text for text in texts for _ in range(samples)],
            [answer for group in answers for answer in group],
        )
        probability: Sequence[float | None] = [None] * len(texts)
        if config.world == "pocket":
            right = [parse(text).right_answer for text in texts]
            tokens = config.optim.micro_batch_tokens
            probability = completion_probability(model, chat, prompts, right, tokens)
        return [
            {
                "text": text,
                "answers": answers[i],
                "rewards": rewards[i * samples : (i + 1) * samples],
                "probability": probability[i],
            }
            for i, text in enumerate(texts)
        ]

    def _cell(
        self,
        challenger: str,
        solver: str,
        queries: list[dict[str, Any]],
        played: dict[str, Any],
    ) -> Cell:
        rows = played["queries"]
        exact = [row["probability"] for row in rows if row["probability"] is not None]
        return Cell(
            challenger,
            solver,
            len(queries),
            len(rows),
            1 - len(rows) / len(queries),
            *mean_and_error([mean(row["rewards"]) for row in rows]),
            *mean_and_error(exact),
        )

    def _key(self, *what: Any) -> str:
        """A hash of the shared settings and of what else a file depends on."""
        return content_key({"settings": shared_settings(self.config), "what": what})

    def _cell_file(
        self, challenger: str, solver: Player, queries: list[dict[str, Any]]
    ) -> tuple[Path, str]:
        path = self.folder / "cells" / f"{file_name(challenger)}__{file_name(solver.name)}.json"
        settings, texts = self.settings, legal_texts(queries)
        return path, self._key(solver.identity, settings.samples, settings.seed, texts)


def load_player(player: Player, config: Config) -> tuple[Any, Any, Any]:
    """(model, chat format, engine). Raises ValueError where the model cannot be loaded, RunError
    where the checkpoint is damaged."""
    import torch

    from lsp.model.chat import ChatFormat
    from lsp.model.device import choose_device
    from lsp.model.language_model import load_model
    from lsp.players import rollout_engine

    gc.collect()  # the model before this one may be a part of a cycle
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    settings = config.model
    source = verified(player.checkpoint) if player.checkpoint else settings.name
    device = choose_device(config.runtime.device)
    model, tokenizer = load_model(
        source, settings.dtype, device, settings.revision, settings.trust_remote_code
    )
    engine = rollout_engine(model, tokenizer, config.rollout)
    return model, ChatFormat(tokenizer, settings.date_string), engine


def legal_texts(queries: Sequence[dict[str, Any]]) -> list[str]:
    return [query["text"] for query in queries if query["legal"]]


def file_name(player: str) -> str:
    """A player's name as part of a file's."""
    return player.replace("/", "--")


def read_cached(path: Path, key: str) -> dict[str, Any] | None:
    """What a file holds, or None where it is not there or of another key. Raises RunError for a
    file that cannot be read."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["key"] == key else None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read as a part of a cross-play ({error}); remove it, and it is"
            " played again"
        ) from error


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error (ddof 1); None where there is no value, or one alone."""
    if not values:
        return None, None
    return mean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


if __name__ == "__main__":
    main(sys.argv[1:])
