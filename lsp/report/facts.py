"""What a report says of a run in words and numbers; pure functions of a ``Record``."""

import math
import shlex
import warnings
from functools import cache
from statistics import mean
from typing import Any, NamedTuple

from scipy import stats

from lsp.errors import ConfigError
from lsp.report.claims import paired
from lsp.report.record import Record
from lsp.settings.compose import compose_as
from lsp.settings.config import Config
from lsp.settings.schema import flat
from lsp.tools.places import CONF
from lsp.tracking.labels import LABELS

WINDOW = 20  # steps at each end of a run whose means are compared
NORMAL = 1.96  # standard errors to each side of a 95 % interval
FEWEST = 5  # steps at each end below which an interval would say nothing
REWARD = "reward/external/mean"


class Number(NamedTuple):
    """One line of the table: where a run began and ended, and the change with its 95 % interval
    (None where there is one number each, or too few)."""

    label: str
    start: float
    end: float
    low: float | None = None
    high: float | None = None
    digits: int = 3

    @property
    def change(self) -> float:
        return self.end - self.start

    def shown(self, value: float, sign: str = "") -> str:
        """One of its values as it is printed; ``sign``: ``+`` for a difference."""
        largest = max(abs(self.start), abs(self.end))
        return f"{value:{sign},.{self.digits if largest < 1000 else 0}f}"


def verdict(record: Record) -> str:
    """Did it work? By wins over the base on the test split where they were counted, else by the
    evaluation's first number, else by the reward at both ends of the training."""
    if counts := outcomes(record):
        rate, low, high = win_rate_interval(*counts)
        word = "Better than" if low > 0.5 else "Worse than" if high < 0.5 else "No different from"
        return (
            f"{word} its base: greedy win rate {rate:.1%} over {sum(counts):,} held-out prompts, a"
            f" tie as half (95 % interval over prompts: {low:.1%} to {high:.1%})."
        )
    if found := main_number(record):
        where, first = found
        word = "higher" if first.change > 0 else "lower" if first.change < 0 else "the same"
        change = f"{first.label} {first.shown(first.start)} → {first.shown(first.end)}, {word}"
        held = "one number each"
        if first.low is not None:
            low, high = (first.shown(value, "+") for value in (first.low, first.high))
            held = f"95 % interval of the change over prompts: {low} to {high}"
        return f"On the {where}: {change}; {held}."
    window = windows(record, REWARD)
    if window is None or window.low is None:
        return "Too few steps to say whether it worked."
    word = "rose" if window.low > 0 else "fell" if window.high < 0 else "did not clearly change"
    return (
        f"The reward R {word}: {window.start:.3f} → {window.end:.3f}, change {window.change:+.3f}"
        f" (95 % interval {window.low:+.3f} to {window.high:+.3f}, steps taken as independent)."
        " Nothing outside the training was evaluated."
    )


def outcomes(record: Record) -> tuple[int, int, int] | None:
    """Wins, ties and losses of the trained model against its base on the test split."""
    if "final/wins" not in record.summary:
        return None
    wins, ties, losses = (record.summary[f"final/{key}"] for key in ("wins", "ties", "losses"))
    return round(wins), round(ties), round(losses)


def win_rate_interval(wins: int, ties: int, losses: int) -> tuple[float, float, float]:
    """(rate, low, high), a tie as half: the 95 % interval over prompts, where wins, ties and losses
    are all by chance. Wald's of the paired difference after half a prompt more of each of four
    kinds, which two ties are (Agresti and Min, Statistics in Medicine 2005)."""
    count = wins + ties + losses
    difference = (wins - losses) / (count + 2)
    variance = ((wins + losses + 1) / (count + 2) - difference**2) / (count + 2)
    reach = NORMAL * math.sqrt(variance)
    low, high = (0.5 + (difference + end) / 2 for end in (-reach, reach))
    return (wins + ties / 2) / count, max(0.0, low), min(1.0, high)


def evaluated_numbers(record: Record) -> list[Number]:
    """The evaluation's numbers of base and trained model, by its labels; the first with an interval
    over prompts, where the score of each was kept."""
    numbers = [
        Number(label, record.summary[f"base/{key}"], record.summary[f"final/{key}"])
        for key, label in record.labels.items()
        if f"base/{key}" in record.summary and f"final/{key}" in record.summary
    ]
    if numbers and len(record.held_out) > 1:
        differences = [one.trained_score - one.base_score for one in record.held_out]
        found = paired(differences, [one.weight for one in record.held_out])
        numbers[0] = numbers[0]._replace(low=found.low, high=found.high)
    return numbers


def main_number(record: Record) -> tuple[str, Number] | None:
    """(where, the evaluation's first number): of the test split at a run's end; before that of the
    first and the last time that the dev split was measured."""
    if numbers := evaluated_numbers(record):
        return "test split, from its base to the end", numbers[0]
    key, label = next(iter(record.labels.items()), ("", ""))
    values = record.series(f"eval/{record.evaluation}/{key}")
    if len(values) < 2:
        return None
    (first, start), (last, end) = values[0], values[-1]
    return f"dev split, from step {first} to step {last}", Number(label, start, end)


def training_numbers(record: Record) -> list[Number]:
    """Means over both ends of the training, of every metric that has a label."""
    return [number for key in LABELS if (number := windows(record, key)) is not None]


def windows(record: Record, key: str) -> Number | None:
    """Means of a metric over the first and the last steps (at most WINDOW, at most half of all),
    with Welch's interval of their difference over steps; none over fewer than FEWEST."""
    values = [value for _, value in record.series(key)]
    if not (size := min(WINDOW, len(values) // 2)):
        return None
    first, last, label = values[:size], values[-size:], LABELS[key]
    number = Number(label.text, mean(first), mean(last), digits=label.digits)
    if size < FEWEST:
        return number
    with warnings.catch_warnings(action="ignore"):  # of values that are all the same
        interval = stats.ttest_ind(last, first, equal_var=False).confidence_interval(0.95)
    return number._replace(low=float(interval.low), high=float(interval.high))


def conditions(record: Record) -> list[str]:
    """What the verdict holds under, in sentences; and, where the reward fell while the model got
    better, why that is no contradiction."""
    counts, reward = outcomes(record), windows(record, REWARD)
    if counts is None:
        return []
    notes = [
        "That is of this one run: another seed or another base may come out otherwise; lsp compare"
        " makes several of each."
    ]
    asks = record.settings["method.queries"] == "challenger"
    if asks and counts[0] > counts[2] and reward and reward.change < 0:
        notes.append(
            f"R fell in training ({reward.start:.3f} → {reward.end:.3f}) while the model got"
            " better: R is of what the Challenger asks at that step, and it asks for what fails;"
            " the test's prompts stay the same."
        )
    return notes


def command_again(record: Record) -> str:
    """The run's command line without its places and ``resume``, with its number of steps by now."""
    command = record.run.get("command") or ""
    try:
        words = shlex.split(command)
    except ValueError:  # not as this program writes it
        return command
    left_out = ("run_dir", "runs_root", "resume", "num_steps")
    kept = [word for word in words if word.partition("=")[0] not in left_out]
    if any(key == "num_steps" for key, _, _ in differences(record)):
        kept.append(f"num_steps={record.settings['num_steps']}")
    return shlex.join(kept)


def differences(record: Record) -> list[tuple[str, Any, Any]]:
    """(setting, default of the run's world, here) where these differ. The default of a setting
    that this version does not know is None."""
    defaults = defaults_of(record.run["world"])
    return [
        (key, defaults.get(key), value)
        for key, value in record.settings.items()
        if key not in ("run_dir", "resume", "dry_run") and value != defaults.get(key)
    ]


@cache
def defaults_of(world: str) -> dict[str, Any]:
    """Dotted setting -> its default in a world, also where that could not run here for want of a
    model; none for a world that this checkout lacks."""
    try:
        return flat(compose_as(Config, CONF, [f"world={world}"], lambda _: ()))
    except ConfigError:
        return {}
