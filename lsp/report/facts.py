"""What a report says of a run in words and numbers; pure functions of a ``Record``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from lsp.compose import compose
from lsp.report.record import Record
from lsp.schema import ConfigError, flat

WINDOW = 20
"""Steps at each end of a run whose means are compared."""


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


def win_rate_interval(wins: float, ties: float, losses: float) -> tuple[float, float, float]:
    """(rate, low, high), a tie as half; normal 95 % interval over the queries, within [0, 1]."""
    count = wins + ties + losses
    rate = (wins + ties / 2) / count
    variance = (wins + ties / 4) / count - rate**2
    half = 1.96 * math.sqrt(max(0.0, variance) / max(1, count - 1))
    return rate, max(0.0, rate - half), min(1.0, rate + half)


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
    with Welch's standard error of their difference over steps."""
    values = [value for _, value in record.series(key)]
    size = min(WINDOW, len(values) // 2)
    if size < 1:
        return None
    first, last = values[:size], values[-size:]
    if size < 2:
        return Number(label, first[0], last[0], None, None, digits)
    half = 1.96 * math.sqrt((stdev(first) ** 2 + stdev(last) ** 2) / size)
    change = mean(last) - mean(first)
    return Number(label, mean(first), mean(last), change - half, change + half, digits)


class Light(NamedTuple):
    """One watched number: its moving mean at the end of the run, its limit, and ``state``: ``ok``,
    ``alarm`` (raised at ``step``), or ``not measured``."""

    label: str
    value: float | None
    limit: str
    state: str
    step: int | None


def lights(record: Record) -> list[Light]:
    """The alarms on collapse, those that never rang included."""
    settings, found = record.settings, []
    for label, key, bound, limit in (
        ("distinct queries", "rollout/distinct_query_frac", "at least", "min_distinct_query_frac"),
        ("queries played", "rollout/played_query_frac", "at least", "min_played_query_frac"),
        ("Challenger's entropy", "entropy/challenger", "at least", "min_challenger_entropy"),
        ("near duplicates", "collapse/near_duplicate_frac", "at most", "max_near_duplicate_frac"),
        ("self-scores unread", "quality/unparsed_frac", "at most", "max_unparsed_frac"),
        ("unasked code", "collapse/unasked_code_frac", "at most", "max_unasked_code_frac"),
    ):
        values = [value for _, value in record.series(key)][-settings["collapse.window"] :]
        raised = [step for step, text in record.alerts if text.startswith(key)]
        value = mean(values) if values else None
        state = "alarm" if raised else "ok" if values else "not measured"
        text = f"{bound} {settings[f'collapse.{limit}']:g}"
        found.append(Light(label, value, text, state, raised[0] if raised else None))
    hacking = [step for step, text in record.alerts if "reward hacking" in text]
    scored = bool(record.series("quality/mean"))
    state = "alarm" if hacking else "ok" if scored else "not measured"
    limit = f"quality falls by at most {settings['collapse.max_quality_drop']:g}"
    found.append(Light("reward hacking", None, limit, state, hacking[0] if hacking else None))
    return found


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
