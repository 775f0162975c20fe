"""A run's players go in, the exact game comes out: what is played, the gaps, and what to expect.

The reference's table costs a dozen CPU-seconds, so it is kept: beside the shipped base, and below
``<runs_root>/tables/`` for any other reference.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lsp.files import replacing
from lsp.pocket.equilibrium import Game, Stakes
from lsp.pocket.language import MAX_LENGTH, legal_queries, parse
from lsp.pocket.tables import (
    AnsweredTable,
    AskedTable,
    answered_table,
    asked_table,
    read_script,
)
from lsp.types import DrawKey

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.settings.config import Config

SHIPPED = Path(__file__).parent / "base" / "tables.safetensors"
COLUMNS = ("right_Q", "echo_Q", "quality_right_Q", "quality_echo_Q")
DRAWN = 4096
"""Queries in which illegal ones are looked for, for their quality."""


def obstacle(config: Config) -> str | None:
    """Why a run's game cannot be computed exactly, or None."""
    rollout, prompts, method = config.rollout, config.prompts, config.method
    longest = len("reverse ") + MAX_LENGTH
    judge = config.self_reward
    if rollout.top_p < 1:
        return f"rollout.top_p={rollout.top_p:g} samples from another distribution than the model's"
    if prompts.drawn or prompts.challenger_template or prompts.query_form != "{written}":
        return "its Challenger is not asked with one prompt"
    if rollout.max_query_tokens <= longest or rollout.max_new_tokens <= MAX_LENGTH:
        return "its token limits cut legal queries or right answers"
    if method.fixed_weight is None:
        return "method.self_reward_weight=auto is known after the first play only"
    if method.rewards_quality and getattr(judge, "mode", "") != "expected":
        return "its self-reward is not self_reward.mode=expected"
    if config.reward.range != (0.0, 1.0) or not hasattr(config.reward, "credit"):
        return "its reward is not the pocket verifier's"
    return None


class ExactPlay:
    """Raises ValueError where the tokenizer or the prompts do not let a query be read character by
    character. Everything is measured against the reference, from which KL is taken."""

    def __init__(self, players: Players):
        config = players.config
        self.players, self.method = players, config.method
        self.script = read_script(players.chat, players.prompts)
        self.temperatures = [config.rollout.temperature_of(r) for r in ("challenger", "solver")]
        self.tasks = list(legal_queries())
        self._kept: dict[str, tuple[AskedTable, AnsweredTable]] = {}
        self._newest = ""
        reference = players.reference
        judged, illegal_quality = self._reference_table(reference)
        asked = asked_table(reference, self.script, self.temperatures[0])
        self._kept[self._name(reference)] = asked, judged
        stakes = Stakes(
            self.method.beta_of("challenger"),
            self.method.beta_of("solver"),
            self.method.fixed_weight or 0.0,
            config.reward.credit,
        )
        self.game = Game(stakes, self.tasks, asked, judged, illegal_quality)

    def metrics(self, model: PreTrainedModel) -> dict[str, float]:
        """Of the model in both roles. The last step's policy is asked for twice, so what was found
        of the newest one is kept."""
        name = self._name(model)
        if name not in self._kept:
            asked, solver = self.temperatures
            answered = answered_table(model, self.script, solver)
            found = asked_table(model, self.script, asked), answered
            if model is self.players.policy:
                self._kept.pop(self._newest, None)
                self._newest = name
            self._kept[name] = found
        return self.game.played(*self._kept[name])

    def _name(self, model: PreTrainedModel) -> str:
        """A hash of all that a table depends on."""
        digest = hashlib.sha256(repr((self.script, self.temperatures)).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def _reference_table(self, model: PreTrainedModel) -> tuple[AnsweredTable, float]:
        """With qualities, kept on disk; and the mean quality of illegal queries' answers."""
        from safetensors.torch import safe_open, save_file

        name = self._name(model)
        path = Path(self.players.config.runs_root) / "tables" / f"{name}.safetensors"
        for place in (SHIPPED, path):
            if not place.is_file():
                continue
            with safe_open(place, "pt") as file:
                if file.metadata()["name"] == name:
                    parts = [file.get_tensor(key).double() for key in COLUMNS]
                    return AnsweredTable(*parts), float(file.metadata()["illegal_quality"])
        table = answered_table(model, self.script, self.temperatures[1], judges=True)
        illegal_quality = self._illegal_quality()
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {key: getattr(table, key).float().contiguous() for key in COLUMNS}
        about = {"name": name, "illegal_quality": repr(illegal_quality)}
        with replacing(path) as temporary:
            save_file(columns, temporary, about)
        return AnsweredTable(*(columns[key].double() for key in COLUMNS)), illegal_quality

    def _illegal_quality(self) -> float:
        """By draws, the one number here that is: the reference's illegal queries among DRAWN, each
        with one of its answers. 0 where it writes none."""
        players, key = self.players, DrawKey(0, 0, "tables")
        asked = players.ask(players.reference, DRAWN, key)
        illegal = [query.text for query in asked if query.played and parse(query.text) is None]
        if not illegal:
            return 0.0
        prompts = players.chat.encode([players.prompts.solver_messages(text) for text in illegal])
        limit = players.config.rollout.max_new_tokens
        engine, temperature = players.engine, self.temperatures[1]
        written = engine.generate(players.reference, prompts, 1, limit, temperature, key)
        scores, _ = players.qualities(illegal, [answer.text for (answer,) in written], 0)
        return torch.tensor(scores).nanmean().item()
