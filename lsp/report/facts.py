"""What a report says of a run in words and numbers; pure functions of a ``Record``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from lsp.errors import ConfigError
from lsp.report.record import Record
from lsp.settings.compose import compose
from lsp.settings.schema import flat

WINDOW = 20
"""Steps at each end of a run whose means are compared."""
FEWEST = 5
"""Steps at each end below which an interval would say nothing."""
WITHOUT_CHALLENGER = ("quality/unparsed_frac", "collapse/unasked_code_frac")
"""What is watched where a data set asks."""


class Number(NamedTuple):
    """One line of the table: where a run began and ended, and the change with its 95 % interval
    (None where the numbers are exact, or too few)."""

    label: str
    start: float
    end: float
    low: float | None
    high: float | None
    digits: int

    @property
    def change(self) -> float:
        return self.end - self.start


def verdict(record: Record) -> str:
    """Did it work? From the test split where there is one, else from the reward at both ends."""
    summary = record.summary
    if "final/wins" in summary:
        rate, low, high = win_rate_interval(
            summary["final/wins"], summary["final/ties"], summary["final/losses"]
        )
        word = "Better than" if low > 0.5 else "Worse than" if high < 0.5 else "No different from"
        start, end = summary["base/accuracy"], summary["final/accuracy"]
        return (
            f"{word} its base: win rate {rate:.1%} (95 % interval {low:.1%} to {high:.1%}, ties"
            f" half), exact accuracy {start:.3f} → {end:.3f} on the test split."
        )
    change = windows(record, "reward/external/mean", "reward", 3)
    if change is None or change.low is None:
        return "Too few steps to say whether it worked."
    word = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not clearly change"
    return (
        f"The reward R {word}: {change.start:.3f} → {change.end:.3f}, change {change.change:+.3f}"
        f" (95 % interval {change.low:+.3f} to {change.high:+.3f}, steps taken as independent)."
        " Nothing outside the training was evaluated."
    )


def win_rate_interval(wins: int, ties: int, losses: int) -> tuple[float, float, float]:
    """(rate, low, high), a tie as half. The 95 % interval is the exact one (Clopper and Pearson,
    Biometrika 1934) of the share of wins among the queries that were decided, which are taken as
    given: it holds 50 % just where the exact sign test does not reject."""
    decided, count = wins + losses, wins + ties + losses
    if not decided:
        return 0.5, 0.5, 0.5
    low = _share_at(decided, wins, 0.975) if wins else 0.0
    high = 1 - _share_at(decided, losses, 0.975) if losses else 1.0
    return tuple(0.5 + decided / count * (p - 0.5) for p in (wins / decided, low, high))


def _share_at(count: int, wins: int, below: float) -> float:
    """The share p at which fewer than ``wins`` of ``count`` have probability ``below``."""
    choices = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(wins)
    ]
    low, high = 0.0, 1.0
    for _ in range(50):
        p = (low + high) / 2
        terms = (c + k * math.log(p) + (count - k) * math.log1p(-p) for k, c in enumerate(choices))
        if sum(map(math.exp, terms)) > below:
            low = p
        else:
            high = p
    return low


def numbers(record: Record) -> list[Number]:
    """Exact numbers of the test split where there are some, then means over both ends."""
    summary, found = record.summary, []
    for label, key, digits in (
        ("exact accuracy, test split", "accuracy", 3),
        ("greedy accuracy, test split", "greedy_accuracy", 3),
        ("legal queries", "valid_query_frac", 3),
        ("distinct queries", "distinct_query_frac", 3),
        ("argument length", "argument_length", 2),
    ):
        if f"final/{key}" in summary:
            start, end = summary[f"base/{key}"], summary[f"final/{key}"]
            found.append(Number(label, start, end, None, None, digits))
    for label, key, digits in (
        ("external reward R", "reward/external/mean", 3),
        ("quality R_Q (0 to 7)", "quality/mean", 2),
        ("Solver's reward", "reward/solver/mean", 3),
        ("Challenger's reward", "reward/challenger/mean", 3),
        ("KL of the Solver (k2)", "kl/solver/k2", 4),
        ("KL of the Challenger (k2)", "kl/challenger/k2", 4),
        ("entropy of the Solver", "entropy/solver", 3),
        ("entropy of the Challenger", "entropy/challenger", 3),
        ("queries that were played", "rollout/played_query_frac", 3),
        ("distinct queries of a step", "rollout/distinct_query_frac", 3),
        ("tokens of an answer", "rollout/answer_length/mean", 1),
        ("answers cut at the limit", "rollout/answer_truncated_frac", 3),
    ):
        line = windows(record, key, label, digits)
        if line is not None:
            found.append(line)
    return found


def windows(record: Record, key: str, label: str, digits: int) -> Number | None:
    """Means of a metric over the first and the last steps (at most WINDOW, at most half of all),
    with Welch's interval of their difference over steps; none over fewer than FEWEST."""
    values = [value for _, value in record.series(key)]
    size = min(WINDOW, len(values) // 2)
    if size < 1:
        return None
    first, last = values[:size], values[-size:]
    if size < FEWEST:
        return Number(label, mean(first), mean(last), None, None, digits)
    one, two = stdev(first) ** 2 / size, stdev(last) ** 2 / size
    freedom = (one + two) ** 2 / (one**2 + two**2) * (size - 1) if one + two else math.inf
    half = _student(freedom) * math.sqrt(one + two)
    change = mean(last) - mean(first)
    return Number(label, mean(first), mean(last), change - half, change + half, digits)


def _student(freedom: float) -> float:
    """97.5 % quantile of Student's t, to 1 % from 4 degrees of freedom (Abramowitz and Stegun,
    26.7.5)."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


class Light(NamedTuple):
    """One watched number: its moving mean at the end of the run, its limit, and ``state``: ``ok``,
    ``alarm`` (raised at ``step``), ``too few steps`` for its window, or ``not measured``."""

    label: str
    value: float | None
    limit: str
    state: str
    step: int | None


def lights(record: Record) -> list[Light]:
    """The alarms on collapse, those that never rang included."""
    settings, found = record.settings, []
    window = settings["collapse.window"]
    for label, key, bound, limit in (
        ("distinct queries", "rollout/distinct_query_frac", "at least", "min_distinct_query_frac"),
        ("queries played", "rollout/played_query_frac", "at least", "min_played_query_frac"),
        ("Challenger's entropy", "entropy/challenger", "at least", "min_challenger_entropy"),
        ("near duplicates", "collapse/near_duplicate_frac", "at most", "max_near_duplicate_frac"),
        ("self-scores unread", "quality/unparsed_frac", "at most", "max_unparsed_frac"),
        ("unasked code", "collapse/unasked_code_frac", "at most", "max_unasked_code_frac"),
    ):
        series = [value for _, value in record.series(key)]
        if settings["method.queries"] == "dataset" and key not in WITHOUT_CHALLENGER:
            series = []
        raised = [step for step, text in record.alerts if text.startswith(key)]
        value = mean(series[-window:]) if series else None
        few = "too few steps" if series else "not measured"
        state = "alarm" if raised else "ok" if len(series) > window else few
        text = f"{bound} {settings[f'collapse.{limit}']:g}"
        found.append(Light(label, value, text, state, raised[0] if raised else None))
    hacking = [step for step, text in record.alerts if "reward hacking" in text]
    scored = len(record.series("quality/mean"))
    few = "too few steps" if scored else "not measured"
    state = "alarm" if hacking else "ok" if scored > window else few
    limit = f"quality falls by at most {settings['collapse.max_quality_drop']:g}"
    found.append(Light("reward hacking", None, limit, state, hacking[0] if hacking else None))
    return found


def command_again(record: Record) -> str:
    """The run's command line without where it wrote and what it went on with, at the number of
    steps that it has by now."""
    command = record.run.get("command") or ""
    try:
        words = shlex.split(command)
    except ValueError:  # not as this program writes it
        return command
    own = ("run_dir", "runs_root", "resume", "num_steps")
    kept = [word for word in words if word.partition("=")[0] not in own]
    if any(d.key == "num_steps" for d in differences(record)):
        kept.append(f"num_steps={record.settings['num_steps']}")
    return shlex.join(kept)


class Difference(NamedTuple):
    key: str
    default: Any
    here: Any


def differences(record: Record) -> list[Difference]:
    """Settings that are not the defaults of the run's world. A setting that only one side knows (of
    another version) has None on the other."""
    try:
        defaults = flat(compose([f"world={record.world}"]))
    except ConfigError:  # a world of the user's own that this checkout does not have
        defaults = {}
    own = {k: v for k, v in record.settings.items() if k not in ("run_dir", "resume", "dry_run")}
    return [
        Difference(key, _plain(defaults.get(key)), _plain(own.get(key)))
        for key in own
        if _plain(own[key]) != _plain(defaults.get(key))
    ]


def _plain(value: Any) -> Any:
    """Lists and tuples compare as lists; a file and a dataclass may differ there."""
    return list(value) if isinstance(value, (list, tuple)) else value


def provenance(record: Record) -> list[tuple[str, str]]:
    run = record.run
    packages = ", ".join(f"{name} {version}" for name, version in run.get("packages", {}).items())
    diff = record.folder / "code.diff"
    changed = diff.is_file() and diff.stat().st_size > 0
    commit = run.get("git_commit") or "no git"
    return [
        ("run", run["id"]),
        ("base model", f"{run['model']}, {run['base']}"),
        ("start", run["init"].get("text", "")),
        ("seed", str(record.settings.get("seed"))),
        ("code", commit + (", changed: code.diff has how" if changed else "")),
        ("python", run.get("python", "unknown")),
        ("packages", packages or "unknown"),
        ("machine", f"{run.get('machine', 'unknown')}, {run.get('device', 'device unknown')}"),
    ]


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Name -> the runs of one experiment (the same but for the seed), in the order given. Groups
    are named by method, init and the settings in which they differ."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    heads = [members[0] for members in groups.values()]
    keys = [
        key
        for key in heads[0].settings
        if key.startswith(("method.", "init.", "model.", "reward.", "optim.", "num_", "group_"))
        and len({str(head.settings.get(key)) for head in heads}) > 1
    ]
    named: dict[str, list[Record]] = {}
    for members in groups.values():
        head = members[0]
        name = f"{head.run['method']} from {head.settings.get('init.source', 'base')}"
        if len({h.run["method"] for h in heads}) < len(heads):
            name += "".join(f" {k.rpartition('.')[2]}={head.settings.get(k)}" for k in keys)
        if name in named:
            name += f" ({head.run['id']})"
        named[name] = members
    return named
