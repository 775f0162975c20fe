"""What a report says of a run in words and numbers; pure functions of a ``Record``."""

import shlex
import warnings
from collections.abc import Sequence
from functools import cache
from statistics import mean
from typing import Any, NamedTuple

from scipy import stats

from lsp.errors import ConfigError
from lsp.report.record import Record
from lsp.settings.compose import compose
from lsp.settings.schema import flat
from lsp.tracking.labels import LABELS

WINDOW = 20  # steps at each end of a run whose means are compared
FEWEST = 5  # steps at each end below which an interval would say nothing
REWARD = "reward/external/mean"
WATCHED = {
    "rollout/distinct_query_frac": ("at least", "min_distinct_query_frac"),
    "rollout/played_query_frac": ("at least", "min_played_query_frac"),
    "entropy/challenger": ("at least", "min_challenger_entropy"),
    "collapse/near_duplicate_frac": ("at most", "max_near_duplicate_frac"),
    "collapse/largest_kind_frac": ("at most", "max_largest_kind_frac"),
    "quality/unparsed_frac": ("at most", "max_unparsed_frac"),
    "collapse/unasked_code_frac": ("at most", "max_unasked_code_frac"),
    "collapse/answer_repetition": ("at most", "max_answer_repetition"),
    "reward hacking": ("quality falls by at most", "max_quality_drop"),
}
"""What the text of an alarm names -> its limit: in words, and the setting under ``collapse``."""
NAMING = ("method.", "init.", "model.", "reward.", "optim.", "num_", "group_")  # tell groups apart
OF_ANSWERS = (
    *("quality/unparsed_frac", "collapse/unasked_code_frac", "collapse/answer_repetition"),
    "reward hacking",
)
"""What is watched where a data set asks."""


class Number(NamedTuple):
    """One line of the table: where a run began and ended, and the change with its 95 % interval
    (None where the numbers are exact, or too few)."""

    label: str
    start: float
    end: float
    low: float | None = None
    high: float | None = None
    digits: int = 3

    @property
    def change(self) -> float:
        return self.end - self.start


def verdict(record: Record) -> str:
    """Did it work? By wins over the base on the test split where they were counted, else by the
    evaluation's first number, else by the reward at both ends of the training."""
    summary = record.summary
    first = next(iter(evaluated_numbers(record)), None)
    change = f"{first.label} {first.start:.3f} → {first.end:.3f}" if first else ""
    if "final/wins" in summary:
        counts = [round(summary[f"final/{outcome}"]) for outcome in ("wins", "ties", "losses")]
        rate, low, high = win_rate_interval(*counts)
        word = "Better than" if low > 0.5 else "Worse than" if high < 0.5 else "No different from"
        return (
            f"{word} its base: win rate {rate:.1%} (95 % interval {low:.1%} to {high:.1%}, ties"
            f" half){change and ', '}{change} on the test split."
        )
    if first is not None:
        word = "higher" if first.change > 0 else "lower" if first.change < 0 else "the same"
        return f"On the test split, from its base to the end: {change}, {word}; one number each."
    window = windows(record, REWARD)
    if window is None or window.low is None:
        return "Too few steps to say whether it worked."
    word = "rose" if window.low > 0 else "fell" if window.high < 0 else "did not clearly change"
    return (
        f"The reward R {word}: {window.start:.3f} → {window.end:.3f}, change {window.change:+.3f}"
        f" (95 % interval {window.low:+.3f} to {window.high:+.3f}, steps taken as independent)."
        " Nothing outside the training was evaluated."
    )


def win_rate_interval(wins: int, ties: int, losses: int) -> tuple[float, float, float]:
    """(rate, low, high), a tie as half. The 95 % interval is the exact one (Clopper and Pearson,
    Biometrika 1934) of the share of wins among the queries that were decided, which are taken as
    given: it holds 50 % just where the exact sign test does not reject."""
    decided, count = wins + losses, wins + ties + losses
    if not decided:
        return 0.5, 0.5, 0.5
    low, high = stats.binomtest(wins, decided).proportion_ci(0.95, "exact")
    rate, low, high = (0.5 + decided / count * (p - 0.5) for p in (wins / decided, low, high))
    return rate, low, high


def evaluated_numbers(record: Record) -> list[Number]:
    """The evaluation's numbers of base and trained model, by its labels."""
    return [
        Number(label, record.summary[f"base/{key}"], record.summary[f"final/{key}"])
        for key, label in record.labels.items()
        if f"base/{key}" in record.summary and f"final/{key}" in record.summary
    ]


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


class Light(NamedTuple):
    """One watched number: its moving mean at the end of the run, its limit, and ``state``: ``ok``,
    ``alarm`` (raised at ``step``), ``too few steps`` for its window, or ``not measured``."""

    label: str
    value: float | None
    limit: str
    state: str
    step: int | None


def conditions(record: Record) -> list[str]:
    """What the verdict holds under, in sentences; and, where the reward fell while the model got
    better, why that is no contradiction."""
    summary, reward = record.summary, windows(record, REWARD)
    if "final/wins" not in summary:
        return []
    notes = [
        "The interval is over the test's prompts, of this one run: another seed or another base may"
        " come out otherwise; lsp compare makes several of each."
    ]
    better = summary["final/wins"] > summary["final/losses"]
    asks = record.settings["method.queries"] == "challenger"
    if asks and better and reward and reward.change < 0:
        notes.append(
            f"R fell in training ({reward.start:.3f} → {reward.end:.3f}) while the model got"
            " better: R is of what the Challenger asks at that step, and it asks for what fails;"
            " the test's prompts stay the same."
        )
    return notes


def lights(record: Record) -> list[Light]:
    """The alarms on collapse, those that never rang included."""
    window, asks = record.settings["collapse.window"], record.settings["method.queries"]
    shown = []
    for name, (words, setting) in WATCHED.items():
        label = LABELS.get(name)  # reward hacking has none: it is seen in the quality
        measured = asks == "challenger" or name in OF_ANSWERS
        series = record.series(name if label else "quality/mean") if measured else []
        step = next((step for step, text in record.alerts if name in text), None)
        few = "too few steps" if series else "not measured"
        state = "alarm" if step is not None else "ok" if len(series) > window else few
        value = mean(value for _, value in series[-window:]) if series and label else None
        limit = f"{words} {record.settings[f'collapse.{setting}']:g}"
        shown.append(Light(label.text if label else name, value, limit, state, step))
    return shown


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
    """Dotted setting -> its default in a world; none for a world that this checkout lacks."""
    try:
        return flat(compose([f"world={world}"]))
    except ConfigError:
        return {}


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Name -> the runs of one experiment (the same but for the seed), in the order given. Groups
    are named by method, init and the settings in which they differ."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    heads = [members[0] for members in groups.values()]
    keys = [key for key in heads[0].settings if key.startswith(NAMING)]
    keys = [key for key in keys if len({str(head.settings.get(key)) for head in heads}) > 1]
    named: dict[str, list[Record]] = {}
    for head, members in zip(heads, groups.values(), strict=True):
        name = f"{head.run['method']} from {head.settings.get('init.source', 'base')}"
        if len({h.run["method"] for h in heads}) < len(heads):
            name += "".join(f" {k.rpartition('.')[2]}={head.settings.get(k)}" for k in keys)
        if name in named:
            name += f" ({head.run['id']})"
        named[name] = members
    return named
