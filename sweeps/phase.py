"""Where the Challenger leaves the language: predicted from the base alone, then played.

    lsp phase workers=2                        # 60 cells: beta_Ch x w x alpha_Ch, half an hour
    lsp phase predict=true                     # the prediction alone, seconds

The prediction is the fixed point of the gradient in use against the Solver's best response
(docs/game.md): it knows beta_Ch and w, not alpha_Ch, which says how fast one gets there. It is
written before a run begins: <folder>/predicted.csv. Runs resume. Then: phase.md, .csv and .png.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from pydantic import Field

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.files import write_csv, write_text
from lsp.run.checkpoint import newest_checkpoint
from lsp.settings.command import read_settings
from lsp.settings.schema import LARGEST_WEIGHT, setting, settings
from lsp.tools.heartbeat import Heartbeat, at
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_alerts
from sweeps.parallel import require_all
from sweeps.progress import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsp.players import Players
    from lsp.pocket.equilibrium import Game, Stakes
    from lsp.pocket.tables import Script
    from lsp.settings.config import Config

Coefficient = Annotated[float, Field(ge=0, le=LARGEST_WEIGHT)]


@settings
class PhaseSettings:
    """The cells, and how each is played."""

    betas: tuple[Coefficient, ...] = setting("beta_Ch", default=(0.05, 0.1, 0.2, 0.3, 0.5))
    weights: tuple[Coefficient, ...] = setting("w", default=(0.0, 0.05, 0.1, 0.3))
    alphas: tuple[Coefficient, ...] = setting("alpha_Ch", default=(0.3, 1.0, 3.0))
    seeds: int = setting("of each cell", default=1, ge=1, le=1000)
    steps: int = setting("of each run", default=300, ge=1, le=1_000_000)
    base: str = setting("model.name", default="pocket")
    predict: bool = setting("write the prediction and stop", default=False)
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str = setting("of runs and results", default="outputs/phase")


LEAVES, CORNER, RESTS, EXPLORES = "leaves the language", "one corner", "rests", "explores"
ALARMS = {LEAVES: "reward hacking", CORNER: "largest_kind_frac", RESTS: "", EXPLORES: ""}
"""Region -> what the text of its alarm holds; empty: none should be raised."""
LEGAL, COVERAGE, KL = 0.5, 0.35, 0.05


def region(played: Mapping[str, float]) -> str:
    """Of what a Challenger asks (lsp/pocket/equilibrium.py): fewer than half of its queries legal;
    those on few of the test's cells; a KL to the reference so small that it learnt nothing."""
    if played["valid_query_frac"] < LEGAL:
        return LEAVES
    if played["coverage"] < COVERAGE:
        return CORNER
    return RESTS if played["challenger_kl"] < KL else EXPLORES


@dataclass(frozen=True)
class Cell:
    """One played cell. ``alarms``: the texts that were raised. ``legal_by_own_solver``: where the
    boundary was predicted wrong, the legal share of the fixed point against the Solver that was
    played with, in place of the best one; else NaN."""

    beta: float
    weight: float
    alpha: float
    seed: int
    predicted: str
    predicted_legal: float
    region: str
    legal: float
    coverage: float
    challenger_kl: float
    alarms: str
    legal_by_own_solver: float = math.nan

    @property
    def boundary_right(self) -> bool:
        return (self.predicted == LEAVES) == (self.region == LEAVES)

    @property
    def alarm_right(self) -> bool:
        """Whether the region's alarm was raised, or none where it has none."""
        wanted = ALARMS[self.region]
        return wanted in self.alarms if wanted else not self.alarms


@dataclass(frozen=True)
class Prediction:
    """What one Challenger's stakes come to."""

    beta: float
    weight: float
    region: str
    valid_query_frac: float
    coverage: float
    argument_length: float
    effective_support: float
    challenger_kl: float


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_settings(PhaseSettings, arguments)
        root = Path(settings.folder).resolve()
        root.mkdir(parents=True, exist_ok=True)
        with Heartbeat("the prediction"):
            predictions = predict(settings)
        write_csv(root / "predicted.csv", predictions)
        print(predicted_table(predictions))
        if settings.predict:
            return
        cells = play(settings, root, predictions)
    except RunError as error:
        sys.exit(f"error: {error}")
    write_csv(root / "phase.csv", cells)
    text = outcome_text(cells)
    write_text(root / "phase.md", text)
    draw(cells, root / "phase.png")
    print(f"{text}\ntable and picture: {root}/phase.md, phase.png")


def predict(settings: PhaseSettings) -> list[Prediction]:
    """From the base's tables; no run is looked at."""
    import torch

    from lsp.pocket.exact import ExactPlay

    torch.set_num_threads(1)
    config, players = load(settings)
    at("the exact game")
    game = ExactPlay(players).game
    predictions = []
    for beta, weight in itertools.product(settings.betas, settings.weights):
        stakes = stakes_of(config, beta, weight)
        played = replace(game, stakes=stakes).predicted()
        names = ("valid_query_frac", "coverage", "argument_length", "effective_support")
        numbers = {name: played[name] for name in (*names, "challenger_kl")}
        predictions.append(Prediction(beta, weight, region(played), **numbers))
    return predictions


def stakes_of(config: Config, beta: float, weight: float) -> Stakes:
    from lsp.pocket.equilibrium import Stakes

    return Stakes(beta, config.method.beta, weight, config.reward.credit)


def load(settings: PhaseSettings) -> tuple[Config, Players]:
    from lsp.players import load_players
    from lsp.run.init import resolve_init
    from lsp.settings.compose import compose

    config = compose(game_settings(settings))
    return config, load_players(config, resolve_init(config))


def game_settings(settings: PhaseSettings) -> list[str]:
    return [
        "method=lsp",
        f"model.name={settings.base}",
        "reward.credit=exact",
        "tracker=none",
    ]


def play(settings: PhaseSettings, root: Path, predictions: Sequence[Prediction]) -> list[Cell]:
    """Run what is not there yet, then read each run's Challenger off its last checkpoint."""
    seeds = range(settings.seeds)
    places = {
        (prediction, alpha, seed): root
        / f"beta-{prediction.beta:g}-w-{prediction.weight:g}-alpha-{alpha:g}-seed-{seed}"
        for seed, alpha, prediction in itertools.product(seeds, settings.alphas, predictions)
    }
    commands = []
    for (prediction, alpha, seed), place in places.items():
        stakes = [
            f"method.challenger_beta={prediction.beta}",
            f"method.self_reward_weight={prediction.weight}",
            f"method.challenger_weight={alpha}",
        ]
        # By its settings a run at w = 0 is LSP-Zero, and method=lsp is told so.
        method = "method=lsp" if prediction.weight else "method=lsp_zero"
        run = [f"num_steps={settings.steps}", f"seed={seed}", f"run_dir={place}", "resume=auto"]
        same = [text for text in game_settings(settings) if not text.startswith("method=")]
        commands.append(["run.py", method, *same, "eval=none", *stakes, *run])
    require_all(Stage(commands, settings.workers))
    with Heartbeat("reading what was played"):
        return read_cells(settings, places)


def read_cells(
    settings: PhaseSettings, places: Mapping[tuple[Prediction, float, int], Path]
) -> list[Cell]:
    """``places``: (stakes, alpha, seed) of a run -> its folder."""
    from lsp.pocket.equilibrium import asked_A, described, kl
    from lsp.pocket.exact import ExactPlay
    from lsp.pocket.tables import asked_table

    config, players = load(settings)
    exact = ExactPlay(players)
    cells = []
    for (prediction, alpha, seed), place in places.items():
        at(f"{len(cells)} of {len(places)} cells")
        policy = load_policy(newest_checkpoint(place))
        own_A = asked_A(asked_table(policy, exact.script))
        own_kl = kl(own_A, exact.game.reference_A).item()
        played = {**described(own_A, exact.game.tasks), "challenger_kl": own_kl}
        cell = Cell(
            beta=prediction.beta,
            weight=prediction.weight,
            alpha=alpha,
            seed=seed,
            predicted=prediction.region,
            predicted_legal=prediction.valid_query_frac,
            region=region(played),
            legal=played["valid_query_frac"],
            coverage=played["coverage"],
            challenger_kl=played["challenger_kl"],
            alarms="; ".join(alarms(place)),
        )
        if not cell.boundary_right:
            stakes = stakes_of(config, prediction.beta, prediction.weight)
            legal = legal_by_own_solver(replace(exact.game, stakes=stakes), policy, exact.script)
            cell = replace(cell, legal_by_own_solver=legal)
        cells.append(cell)
    return cells


def legal_by_own_solver(game: Game, policy: PreTrainedModel, script: Script) -> float:
    """What the prediction would be against the Solver as it is: which assumption broke."""
    from lsp.pocket.equilibrium import answers_Q3, asked_A, per_token
    from lsp.pocket.tables import answered_table

    answered = answered_table(policy, script)
    earned = game.challenger_earns_A(answers_Q3(answered, answered.echo_Q > -math.inf)).value
    there = asked_A(per_token(game.asked, earned, game.stakes.beta_challenger))
    return 1 - there[-1].exp().item()


def load_policy(folder: Path) -> PreTrainedModel:
    import torch

    from lsp.model.language_model import load_model

    return load_model(folder, "float32", torch.device("cpu"))[0]


def alarms(place: Path) -> list[str]:
    return [alert["text"] for alert in read_alerts(place)]


def predicted_table(predictions: Sequence[Prediction]) -> str:
    lines = [
        [f"{p.beta:g}", f"{p.weight:g}", p.region, f"{p.valid_query_frac:.2f}",
         f"{p.coverage:.2f}", f"{p.argument_length:.1f}", f"{p.effective_support:.0f}"]
        for p in predictions
    ]  # fmt: skip
    headings = ["beta_Ch", "w", "predicted", "legal", "coverage", "length", "support"]
    return markdown_table(headings, lines)


def outcome_text(cells: Sequence[Cell]) -> str:
    """Markdown: how often the boundary and the region were right, then every cell where not; then
    each region's alarm."""
    right = sum(cell.boundary_right for cell in cells)
    same = sum(cell.predicted == cell.region for cell in cells)
    text = (
        f"Leaves the language or not: predicted right in {right} of {len(cells)} cells"
        f" ({right / len(cells):.0%}); the very region in {same}.\n"
    )
    headings = ["beta_Ch", "w", "alpha_Ch", "predicted", "legal", "played", "legal", "coverage",
                "legal, predicted against its own Solver"]  # fmt: skip
    lines = [
        [f"{c.beta:g}", f"{c.weight:g}", f"{c.alpha:g}", c.predicted, f"{c.predicted_legal:.2f}",
         c.region, f"{c.legal:.2f}", f"{c.coverage:.2f}",
         "" if math.isnan(c.legal_by_own_solver) else f"{c.legal_by_own_solver:.2f}"]
        for c in cells if c.predicted != c.region
    ]  # fmt: skip
    text += f"\n{markdown_table(headings, lines)}"
    alarm_lines = []
    for name, wanted in ALARMS.items():
        own = [cell for cell in cells if cell.region == name]
        fired = sum(cell.alarm_right for cell in own)
        alarm_lines.append([name, wanted or "none", str(len(own)), str(fired)])
    headings = ["region", "its alarm", "cells", "where it was right"]
    return f"{text}\n{markdown_table(headings, alarm_lines)}"


def draw(cells: Sequence[Cell], path: Path) -> None:
    """A map for each alpha_Ch: played regions as colours, the predicted boundary as crosses."""
    names = list(ALARMS)
    colours = ListedColormap(["#7f7f7f", "#d55e00", "#cfe3f3", "#1f6fb4"])
    alphas = sorted({cell.alpha for cell in cells})
    betas, weights = (sorted({getattr(c, k) for c in cells}) for k in ("beta", "weight"))
    figure = Figure(figsize=(3.2 * len(alphas) + 2, 3.6), layout="constrained")
    for axis, alpha in zip(figure.subplots(1, len(alphas), squeeze=False)[0], alphas, strict=True):
        played = {(c.weight, c.beta): c for c in cells if c.alpha == alpha and c.seed == 0}
        grid = [[names.index(played[w, b].region) for b in betas] for w in weights]
        axis.imshow(grid, cmap=colours, vmin=-0.5, vmax=3.5, origin="lower", aspect="auto")
        for (weight, beta), cell in played.items():
            mark = "×" if cell.predicted == LEAVES else "·"
            place = betas.index(beta), weights.index(weight)
            axis.text(*place, f"{mark}\n{cell.legal:.2f}", ha="center", va="center", fontsize=8)
        axis.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        axis.set_yticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        axis.set_xlabel("β_Ch")
        axis.set_title(f"α_Ch = {alpha:g}", fontsize=10)
    figure.axes[0].set_ylabel("w")
    for name, colour in zip(names, colours.colors, strict=True):
        figure.axes[-1].plot([], [], "s", color=colour, label=name)
    figure.axes[-1].plot([], [], "x", color="black", label="predicted to leave")
    figure.axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(run_command("phase", sys.argv[1:]))
