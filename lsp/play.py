"""Talk to a trained model: queries go in, its answers beside its base's come out, with R and R_Q.

    lsp play outputs/<run id> checkpoint=step-000050 greedy=true

A line is a query; ``/challenge`` lets the trained model ask one. Both models answer the run's own
prompt with the same random numbers, which are keyed by the seed and the turn; R is the run's
reward, R_Q the self-reward by the run's reference. From a pipe it reads line by line.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsp.cli.main import run
from lsp.errors import RunError
from lsp.model.out_of_memory import OutOfMemory, memory_guard
from lsp.run.checkpoint import named_checkpoint
from lsp.run.folder import find_run, read_run
from lsp.run.init import Init
from lsp.run.resume import saved_config
from lsp.settings.command import consent, read_command
from lsp.settings.schema import setting, settings, with_value
from lsp.tools.heartbeat import Heartbeat
from lsp.tools.text import folded, visible

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players

COMMANDS = {
    "/challenge": "the trained model asks, both answer",
    "/help": "this list",
    "/quit": "leave (so do Ctrl-D and Ctrl-C)",
}
UNPLAYED = {
    "length": "cut at the token limit of queries",
    "empty": "the Challenger wrote nothing",
    "malformed": "it holds a tag of the Challenger's template",
    "illegal": "this world has no answers to it",
}
NARROW = 60  # terminals with fewer columns show the two answers one below the other
GAP = " │ "


@dataclass(frozen=True)
class Answer:
    """``cut``: it met the token limit. ``quality``: R_Q, 0..7, NaN where it could not be read."""

    text: str
    cut: bool
    reward: float
    quality: float


@dataclass(frozen=True)
class Table:
    """Who sits at it: the trained model is ``players.policy``, the judge ``players.reference``.
    ``temperature`` is that of the answers, 0 for the likeliest."""

    players: Players
    base: PreTrainedModel
    seed: int
    temperature: float

    def refusal(self, query: str) -> str | None:
        """Why a query does not fit into the context of Solver and judge; None where it does."""
        from lsp.model.context import answer_tokens, beyond_context, context_of

        players = self.players
        length = len(players.chat.encode_text([query])[0])
        needed = answer_tokens(players.chat, players.config, length)
        if not beyond_context(players.policy, needed):
            return None
        longest = context_of(players.policy) - max(needed.values()) + length
        return f"too long: {length} tokens, and at most {longest} fit the model's context"

    def answers(self, query: str, turn: int) -> list[Answer]:
        """The base's answer and the trained model's."""
        from lsp.types import DrawKey

        players = self.players
        prompts = players.chat.encode([players.prompts.solver_messages(query)])
        limit, key = players.config.rollout.max_new_tokens, DrawKey(self.seed, turn, "solver")
        completions = [
            players.engine.generate(model, prompts, 1, limit, self.temperature, key)[0][0]
            for model in (self.base, players.policy)
        ]
        queries = [query] * 2
        texts = [players.chat.answer_of(completion.text) for completion in completions]
        rewards = players.reward(queries, texts)
        qualities, _ = players.self_judge.score(queries, texts, DrawKey(self.seed, turn, "judge"))
        return [
            Answer(completion.text, completion.finish_reason == "length", reward, quality)
            for completion, reward, quality in zip(completions, rewards, qualities, strict=True)
        ]


@settings
class PlaySettings:
    """Who answers, and how."""

    checkpoint: str | None = setting("for instance step-000050; null: the newest", default=None)
    greedy: bool = setting("the likeliest answers", default=False)
    seed: int = setting("of every draw", default=0, ge=0, le=2**32 - 1)
    runs_root: str = setting("where run ids are looked up", default="outputs")
    trust: tuple[str, ...] = setting(
        "code that the run's command line named: trust=[reward.path=mine.reward]", default=()
    )


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(PlaySettings, arguments)
    if len(names) != 1:
        raise RunError(f"play takes one run, and these are {len(names)}: lsp play RUN")
    sys.stdin.reconfigure(errors="replace")  # a byte that is no text ends no conversation
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        folder = find_run(names[0], chosen.runs_root)
        checkpoint = named_checkpoint(folder, chosen.checkpoint)
        with memory_guard("loading"), Heartbeat("loading"):
            trusted = consent(chosen.trust)
            table = set_table(folder, checkpoint, chosen.seed, chosen.greedy, trusted)
        base, init = table.players.config.model.name, read_run(folder)["init"]["text"]
        print(f"base: {base}; trained: {checkpoint}, from {init}")
        print(f"type a query, or {' '.join(COMMANDS)}")
        with memory_guard("answers"):
            talk(table)
    except (ValueError, OutOfMemory) as error:  # texts for the user
        raise RunError(str(error)) from error
    except KeyboardInterrupt:
        print()


def set_table(
    run: Path, checkpoint: Path, seed: int, greedy: bool, trusted: Mapping[str, Any]
) -> Table:
    """Load a run's models. Raises RunError for settings that cannot be used, and ValueError where
    a model cannot be loaded, both with the way out."""
    config, init = saved_config(run, trusted), Init(**read_run(run)["init"])
    from lsp.players import load_base, load_players

    # A checkpoint holds merged weights, so there are no adapters to put on; without an optimizer
    # beside them, all models fit where they were trained.
    plain = with_value(with_value(config, "model.lora.rank", 0), "hardware.offload", False)
    players = load_players(plain, init, checkpoint)
    base = load_base(config, init, players.reference)
    return Table(players, base, seed, 0.0 if greedy else config.rollout.temperature)


def talk(table: Table) -> None:
    """Answer line by line until ``/quit`` or the end of the input. A person's query is read as a
    Challenger's is."""
    from lsp.queries.challenger import parse_query

    turn = 0
    for line in lines():
        text = line.strip()
        if text == "/quit":
            return
        if text == "/help":
            print("\n".join(f"{name:<12}{purpose}" for name, purpose in COMMANDS.items()))
        elif text == "/challenge":
            turn += 1
            challenge(table, turn)
        elif text.startswith("/"):
            print(f"{visible(text, 40)} is no command; there are {', '.join(COMMANDS)}")
        elif text:
            turn += 1
            prompts = table.players.prompts
            query, well_formed = parse_query(
                text, prompts.template_tags, prompts.challenger_template
            )
            if well_formed and query:
                play(table, query, turn)
            else:
                print("not played: it is empty, or not what the Challenger's template allows")


def lines() -> Iterator[str]:
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        import readline  # noqa: F401  input() then edits lines and recalls earlier ones
    while True:
        try:
            yield input(prompt)
        except EOFError:
            if prompt:
                print()  # Ctrl-D leaves the cursor behind the prompt
            return


def challenge(table: Table, turn: int) -> None:
    """The trained model asks; what a run would not play is shown and not answered."""
    from lsp.types import DrawKey

    key = DrawKey(table.seed, turn, "challenger")
    (query,) = table.players.ask(table.players.policy, 1, key)
    if query.played:
        play(table, query.text, turn)
    else:
        print(f"{shown(query.text)}\nnot played: {UNPLAYED[query.status]}")


def play(table: Table, query: str, turn: int) -> None:
    if reason := table.refusal(query):
        print(f"not played: {reason}")
        return
    base, trained = table.answers(query, turn)
    print(shown(query))
    world = table.players.config.world
    if (right_answer := world.right_answer(query)) is not None:
        print(f"right answer: {right_answer}")
    elif not world.is_legal(query):
        print(f"illegal in the {world.name} world: there is no right answer")
    width = shutil.get_terminal_size().columns
    print(side_by_side(block("base", base), block("trained", trained), width) + "\n")


def shown(query: str) -> str:
    """A query to look at, set in so that its further lines can be told from ours."""
    return "query: " + visible(query).replace("\n", "\n       ")


def block(name: str, answer: Answer) -> str:
    """Who answers, the scores, and below them the answer, which so can imitate no score."""
    text = visible(answer.text) or "(nothing)"
    cut = " … (cut at the token limit)" if answer.cut else ""
    quality = "unread" if math.isnan(answer.quality) else f"{answer.quality:.2f}"
    return f"{name}  R = {answer.reward:.2f}  R_Q = {quality}\n{text}{cut}"


def side_by_side(left: str, right: str, width: int) -> str:
    """Two blocks in ``width`` columns, wrapped; one below the other where it is narrow."""
    if width < NARROW:
        return "\n".join([*folded(left, width), "", *folded(right, width)])
    column = (width - len(GAP)) // 2
    pairs = zip_longest(folded(left, column), folded(right, column), fillvalue="")
    return "\n".join(f"{one:<{column}}{GAP}{other}".rstrip() for one, other in pairs)


if __name__ == "__main__":
    sys.exit(run("play", sys.argv[1:]))
