"""``python -m sweeps.paper figure=2``: bars of a figure and seeds go in, the picture comes out.

    python -m sweeps.paper figure=2 world=pocket seeds=3             # minutes on a laptop
    python -m sweeps.paper figure=3 world=pocket seeds=3 num_steps=50
    python -m sweeps.paper figure=2 world=paper benchmark=alpaca_eval workers=1     # GPUs, a key

Each bar is a file of ``conf/experiment/`` (both versions' bars are drawn; ``paper`` says whose
numbers stand beside them). Bars that start from another bar's runs take the run of the same seed.
Settings that begin with ``judge`` go to the evaluations, everything else that is no setting here
goes to the runs. Runs resume and evaluations are cached, so a command that was stopped goes on.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from eval.bars import COPY, FIGURES
from eval.figures import FigureSettings, make_figures
from lsp.cli.main import start_module
from lsp.errors import RunError
from lsp.settings.command import read_settings, split_settings
from lsp.settings.compose import CONF
from lsp.settings.schema import setting, settings
from sweeps.parallel import require_all
from sweeps.progress import Stage

OURS = ("seed", "run_dir", "runs_root", "resume", "experiment", "method", "init", "init.run")


@settings
class PaperSettings:
    """Which figure is made, and how."""

    figure: Literal[2, 3] = setting("the paper's number of it", default=2)
    paper: Literal["v1", "v3"] = setting("whose numbers stand beside ours", default="v1")
    world: str = setting("a file of conf/world", default="pocket")
    benchmark: str = setting("what the runs are evaluated on", default="pocket")
    seeds: int = setting("of each bar", default=3, ge=1, le=1000)
    workers: int = setting("runs at once", default=os.cpu_count() or 1, ge=1, le=1024)
    folder: str | None = setting("of runs and pictures; null: outputs/paper-<world>", default=None)


def main(arguments: Sequence[str]) -> None:
    try:
        words, overrides = split_settings(PaperSettings, arguments)
        print(run_figure(read_settings(PaperSettings, words), overrides))
    except RunError as error:
        sys.exit(f"error: {error}")


def run_figure(settings: PaperSettings, overrides: Sequence[str]) -> str:
    """Train, evaluate, draw; what ``eval.figures`` says. Raises RunError; a failed run ends all."""
    for text in overrides:
        if text.partition("=")[0] in OURS:
            raise RunError(f"{text} is set by this command for each run; leave it out")
    judged = [text for text in overrides if text.startswith("judge")]
    trained = [text for text in overrides if text not in judged]
    folder = Path(settings.folder or f"outputs/paper-{settings.world}").resolve()
    places = {
        (bar, seed): folder / f"{bar}-seed-{seed}"
        for bar in bars_needed(settings.figure)
        for seed in range(settings.seeds)
    }
    shared = folder, settings.world, trained
    later = {key: "_from_" in key[0] for key in places}
    first, after = (
        [run_command(*key, places[key], *shared) for key in places if later[key] == is_later]
        for is_later in (False, True)
    )
    drawn = [place for (bar, _), place in places.items() if bar in FIGURES[settings.figure]]
    evaluate = ["-m", "eval", f"benchmark={settings.benchmark}", f"runs_root={folder}", *judged]
    # A judge on a network has one rate and one budget: one evaluation at a time.
    at_once = settings.workers if settings.benchmark == "pocket" else 1
    require_all(
        Stage(first, settings.workers),
        Stage(after, settings.workers),
        # The control first: it writes the base's answers, which the others then find.
        Stage([[*evaluate, f"run={drawn[0]}", "control=true"]], 1),
        Stage([[*evaluate, f"run={place}"] for place in drawn], at_once),
    )
    same = {key: getattr(settings, key) for key in ("figure", "paper", "benchmark")}
    return make_figures(list(map(str, drawn)), FigureSettings(**same, out=str(folder)))


def bars_needed(figure: int) -> list[str]:
    """The figure's trained bars, and those that they start from."""
    drawn = [bar for bar in FIGURES[figure] if bar != COPY]
    starts = [bar.partition("_from_")[2] for bar in drawn if "_from_" in bar]
    return list(dict.fromkeys([*starts, *drawn]))


def run_command(
    bar: str, seed: int, place: Path, folder: Path, world: str, overrides: Sequence[str]
) -> list[str]:
    file, *_ = sorted((CONF / "experiment").glob(f"paper_v*/{bar}.yaml"))
    what = [f"experiment={file.parent.name}/{bar}", f"world={world}", f"seed={seed}"]
    where = [f"run_dir={place}", f"runs_root={folder}", "resume=auto"]
    earlier = bar.partition("_from_")[2]
    start = [f"init.run={folder / f'{earlier}-seed-{seed}'}"] if earlier else []
    return ["run.py", *what, *where, *start, *overrides]


if __name__ == "__main__":
    start_module("sweeps.paper", __doc__)
