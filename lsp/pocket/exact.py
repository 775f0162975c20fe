"""A run's players go in, the exact game comes out: what is played, the gaps, and what to expect.

The reference's table costs a dozen CPU-seconds, so it is kept: beside the shipped base, and below
``<runs_root>/tables/`` for any other reference. The shipped one is made again, after a change of
the base, of its prompts or of the tables, by

    python -m lsp.pocket.exact

Gaps are always those of the paper's game, -V + w V_Q against R + w R_Q, at the run's own beta and
w: for a run with another rule (a gate, another reward of the Challenger's, queries of a data set)
they are a yardstick, and what it would come to is not predicted (``other_rule``). Where the policy
starts does not matter: KL, gaps and predictions are all against the reference, the init. LoRA
policies, a reference that is offloaded and several processes (the first one evaluates, weights
gathered) are measured as they are; in bfloat16, as that rounds one forward pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lsp.batch import pack, pad, row_sums
from lsp.cli.main import start_module
from lsp.files import replacing
from lsp.model.language_model import end_token_ids
from lsp.model.logprobs import completion_scores
from lsp.pocket.equilibrium import Game, Stakes, asked_A, kl_within
from lsp.pocket.language import MAX_LENGTH, legal_queries, parse
from lsp.pocket.tables import (
    AnsweredTable,
    AskedTable,
    answered_table,
    asked_table,
    read_script,
)
from lsp.pocket.verifier import PocketVerifier
from lsp.rewards.self_reward import RubricJudge
from lsp.tools.heartbeat import Heartbeat, at, enter
from lsp.types import DrawKey, TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.settings.config import Config

SHIPPED = Path(__file__).with_name("base_tables.safetensors")
"""Not in the base's folder, whose weights are a run's identity."""
COLUMNS = ("right_Q", "echo_Q", "quality_right_Q", "quality_echo_Q")
DRAWN = 4096
"""Queries in which illegal ones are looked for, for their quality."""
DRAWN_ANEW = 1024
"""And for a policy's KL among them."""


def obstacle(config: Config) -> str | None:
    """Why a run's game cannot be computed exactly, or None."""
    rollout, prompts, method = config.rollout, config.prompts, config.method
    longest = len("reverse ") + MAX_LENGTH
    if rollout.top_p < 1:
        return f"rollout.top_p={rollout.top_p:g} samples from another distribution than the model's"
    if rollout.stop or prompts.challenger_stop or prompts.template_tags:
        return "strings that end a completion or are taken off one are not in the tables"
    if prompts.drawn or prompts.challenger_template or prompts.query_form != "{written}":
        return "its Challenger is not asked with one prompt"
    if rollout.max_query_tokens <= longest or rollout.max_new_tokens <= MAX_LENGTH:
        return "its token limits cut legal queries or right answers"
    if method.fixed_weight is None:
        return "method.self_reward_weight=auto is known after the first play only"
    if method.rewards_quality and not judges_by_digit(config):
        return "its self-reward is not self_reward.mode=expected"
    if not isinstance(config.reward, PocketVerifier):
        return "its reward is not the pocket verifier's"
    return None


def other_rule(config: Config) -> str | None:
    """What a run plays by that is not the rule of the predictions, or None."""
    method = config.method
    if not method.trains_challenger:
        return "its Challenger does not learn"
    if method.query_gate != "none" or method.invalid_query != "unplayed":
        return "its queries are gated"
    rewarded = method.challenger_reward, method.repetition_penalty, method.novelty_weight
    if rewarded != ("negative_value", 0, 0):
        return "its Challenger is rewarded for something else"
    if method.kl_estimator not in ("k2", "exact"):
        return f"the gradient of method.kl_estimator={method.kl_estimator} is not that of KL"
    if method.loss_aggregation == "sequence_mean" or method.divide_by_std:
        return "its rewards weigh more or less against KL from one sample to the next"
    return None


def judges_by_digit(config: Config) -> bool:
    judge = config.self_reward
    return isinstance(judge, RubricJudge) and judge.mode == "expected"


class ExactPlay:
    """Raises ValueError where the tokenizer or the prompts do not let a query be read character by
    character, or a judge that is asked for does not read on from there. Everything is measured
    against the reference, from which KL is taken."""

    def __init__(self, players: Players):
        config = players.config
        self.players, self.method = players, config.method
        script = read_script(players.chat, players.prompts)
        if end_token_ids(players.policy, players.chat) != {script.end}:
            raise ValueError("eval.exact needs one token that ends a text; choose eval.exact=false")
        if not judges_by_digit(config):
            script = replace(script, rate=None)
        if script.rate is None and self.method.fixed_weight:
            raise ValueError(
                "eval.exact needs a judge that is asked after query and answer alone, without a"
                " rubric or shots before them; choose eval.exact=false"
            )
        self.script = script
        self.temperatures = [config.rollout.temperature_of(r) for r in ("challenger", "solver")]
        self.tasks = list(legal_queries())
        self._kept: dict[str, dict[str, float]] = {}
        self._newest = ""
        reference = players.reference
        judged, illegal_quality = self._reference_table(reference)
        asked = asked_table(reference, self.script, self.temperatures[0])
        stakes = Stakes(
            self.method.beta_of("challenger"),
            self.method.beta_of("solver"),
            self.method.fixed_weight or 0.0,
            config.reward.credit,
        )
        self.game = Game(stakes, self.tasks, asked, judged, illegal_quality)
        own = {**self.game.played(asked, judged), "challenger_kl_unseen": 0.0}
        self._kept[self._name(reference)] = own

    def metrics(self, model: PreTrainedModel) -> dict[str, float]:
        """Of the model in both roles. The last step's policy is asked for twice, so what was found
        of the newest one is kept."""
        name = self._name(model)
        if name not in self._kept:
            temperature, solver = self.temperatures
            at("the exact game")
            asked = asked_table(model, self.script, temperature)
            played = self.game.played(asked, answered_table(model, self.script, solver))
            if model is self.players.policy:
                self._kept.pop(self._newest, None)
                self._newest = name
            self._kept[name] = {**played, "challenger_kl_unseen": self._unseen_kl(model, asked)}
        return self._kept[name]

    def _unseen_kl(self, model: PreTrainedModel, asked: AskedTable) -> float:
        """By draws: the KL among illegal queries, which ``challenger_kl`` lacks."""
        players, temperature = self.players, self.temperatures[0]
        drawn = players.ask(model, DRAWN_ANEW, DrawKey(0, 0, "unseen"))
        rows, own = [], []
        for query in drawn:
            written = query.completion
            if written.finish_reason == "length" or parse(written.text) is None:
                ids = query.prompt_ids, written.ids
                rows.append(TrainingRow("challenger", *ids, (), 0.0, 0.0, 1))
                own.append(sum(written.logprobs))
        ratios = torch.tensor(own).double()
        with players.reference_at_work(), torch.no_grad():
            for chosen in pack(rows, players.config.optim.micro_batch_tokens):
                batch = pad([rows[i] for i in chosen]).to(players.device)
                scores = completion_scores(players.reference, batch, temperature)
                ratios[chosen] -= row_sums(batch, scores.logprobs_C).cpu().double()
        illegal, reference = asked_A(asked)[-1].item(), self.game.reference_A[-1].item()
        return kl_within(illegal, reference, ratios)

    def _name(self, model: PreTrainedModel) -> str:
        """A hash of all that a table depends on."""
        digest = hashlib.sha256(repr((self.script, self.temperatures)).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def _reference_table(self, model: PreTrainedModel) -> tuple[AnsweredTable, float]:
        """With qualities (NaN where the judge is another), kept on disk; and the mean quality of
        illegal queries' answers."""
        name = self._name(model)
        path = Path(self.players.config.runs_root) / "tables" / f"{name}.safetensors"
        for place in (SHIPPED, path):
            if kept := read_table(place, name):
                return kept
        self.save_table(model, path)
        return read_table(path, name)

    def save_table(self, model: PreTrainedModel, path: Path) -> None:
        """The reference's, to a file under its name."""
        from safetensors.torch import save_file

        at("the exact game's table of the reference")
        # Qualities or not: every echo is looked at, since a trained Solver may come to give it.
        table = answered_table(model, self.script, self.temperatures[1], judges=True)
        columns = {key: getattr(table, key) for key in COLUMNS}
        for key, column_Q in columns.items():
            known_Q = torch.full_like(table.right_Q, torch.nan) if column_Q is None else column_Q
            columns[key] = known_Q.float().contiguous()
        illegal_quality = self._illegal_quality() if self.script.rate else 0.0
        about = {"name": self._name(model), "illegal_quality": repr(illegal_quality)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(columns, temporary, about)

    def _illegal_quality(self) -> float:
        """By draws, the one number here that is: the reference's illegal queries among DRAWN, each
        with one of its answers. 0 where it writes none. The same whether a gate would play them."""
        players, key = self.players, DrawKey(0, 0, "tables")
        asked = players.ask(players.reference, DRAWN, key)
        ended = [query.text for query in asked if query.status in ("stop", "illegal")]
        illegal = [text for text in ended if parse(text) is None]
        if not illegal:
            return 0.0
        prompts = players.chat.encode([players.prompts.solver_messages(text) for text in illegal])
        limit = players.config.rollout.max_new_tokens
        engine, temperature = players.engine, self.temperatures[1]
        written = engine.generate(players.reference, prompts, 1, limit, temperature, key)
        scores, _ = players.qualities(illegal, [answer.text for (answer,) in written], 0)
        return torch.tensor(scores).nanmean().nan_to_num(nan=0.0).item()


def read_table(path: Path, name: str) -> tuple[AnsweredTable, float] | None:
    """What ``ExactPlay.save_table`` wrote; None where there is nothing under that name."""
    from safetensors.torch import safe_open

    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        about = file.metadata()
        if about["name"] != name:
            return None
        columns = [file.get_tensor(key).double() for key in COLUMNS]
    return AnsweredTable(*columns), float(about["illegal_quality"])


def main(arguments: Sequence[str]) -> None:
    """Make the shipped table again."""
    import tempfile

    from lsp.players import load_players
    from lsp.run.init import resolve_init
    from lsp.settings.compose import compose

    with tempfile.TemporaryDirectory() as folder:
        config = compose(["tracker=none", "runtime.device=cpu", f"runs_root={folder}"])
        with Heartbeat("loading"):
            players = load_players(config, resolve_init(config))
            enter("the shipped table")
            ExactPlay(players).save_table(players.reference, SHIPPED)
    print(f"saved {SHIPPED}")


if __name__ == "__main__":
    start_module("lsp.pocket.exact", __doc__)
