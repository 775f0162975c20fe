"""Signs of collapse: a ``Record`` goes in, what each watched number says in words comes out."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from lsp.report.record import Record
from lsp.tracking.labels import LABELS


class Watch(NamedTuple):
    """A number that an alarm watches: what it says in words, the setting under ``collapse`` that
    limits it, and what it would mean were that crossed."""

    says: str
    setting: str
    beyond: str


WATCHED = {
    "rollout/distinct_query_frac": Watch(
        "{:.0%} of a step's queries are distinct", "min_distinct_query_frac",
        "below {:.0%} the Challenger repeats itself",
    ),
    "rollout/played_query_frac": Watch(
        "{:.0%} of the queries were played", "min_played_query_frac",
        "below {:.0%} there is little left to learn from",
    ),
    "entropy/challenger": Watch(
        "{:.2f} nats a token are left to the Challenger's choice", "min_challenger_entropy",
        "below {:g} it writes by rote",
    ),
    "collapse/near_duplicate_frac": Watch(
        "{:.0%} of the queries resemble one of an earlier step", "max_near_duplicate_frac",
        "above {:.0%} nothing new is asked",
    ),
    "collapse/largest_kind_frac": Watch(
        "{:.0%} of the legal queries are of the most frequent kind", "max_largest_kind_frac",
        "above {:.0%} one thing alone is asked",
    ),
    "quality/unparsed_frac": Watch(
        "{:.0%} of the self-scores could not be read", "max_unparsed_frac",
        "above {:.0%} R_Q says little",
    ),
    "collapse/unasked_code_frac": Watch(
        "{:.0%} of the answers are code that nobody asked for", "max_unasked_code_frac",
        "above {:.0%} answers drift into code",
    ),
    "collapse/answer_repetition": Watch(
        "{:.0%} of an answer's runs of three words stood in it before", "max_answer_repetition",
        "above {:.0%} answers go in circles",
    ),
    "reward hacking": Watch(
        "watched is R_Q beside both rewards", "max_quality_drop",
        "a fall of R_Q by more than {:g} while a reward rises would be one",
    ),
}  # fmt: skip
"""What the text of an alarm names -> how it is watched."""
STATES = {
    "ok": "",
    "alarm": "",
    "too few steps": "need more steps before they are judged",
    "not measured": "are not measured in this run",
}
"""Of a light -> how the sentence over all of them goes on."""
OF_ANSWERS = (
    *("quality/unparsed_frac", "collapse/unasked_code_frac", "collapse/answer_repetition"),
    "reward hacking",
)
"""What is watched where a data set asks."""


class Light(NamedTuple):
    """One watched number: what its moving mean at the end of the run says, what would be wrong
    beyond its limit, and ``state``: ``ok``, ``alarm`` (raised at ``step``), ``too few steps`` for
    its window, or ``not measured``."""

    label: str
    says: str
    beyond: str
    state: str
    step: int | None


def lights(record: Record) -> list[Light]:
    """The alarms on collapse, those that never rang included."""
    window, asks = record.settings["collapse.window"], record.settings["method.queries"]
    shown = []
    for name, watch in WATCHED.items():
        label = LABELS.get(name)  # reward hacking has none: it is seen in the quality
        measured = asks == "challenger" or name in OF_ANSWERS
        series = record.series(name if label else "quality/mean") if measured else []
        step = next((step for step, text in record.alerts if name in text), None)
        few = "too few steps" if series else "not measured"
        state = "alarm" if step is not None else "ok" if len(series) > window else few
        recent = [value for _, value in series[-window:]]
        says = watch.says.format(mean(recent)) if recent else ""
        beyond = watch.beyond.format(record.settings[f"collapse.{watch.setting}"])
        shown.append(Light(label.text if label else name, says, beyond, state, step))
    return shown


def lights_in_words(shown: Sequence[Light]) -> str:
    """All lights in a sentence."""
    count = {state: sum(light.state == state for light in shown) for state in STATES}
    if count["alarm"]:
        first = f"{count['alarm']} of {len(shown)} signs of collapse rang an alarm"
    elif count["ok"]:
        first = f"No: {count['ok']} of {len(shown)} signs are within their limits"
    else:
        first = "Nothing can be said yet"
    rest = [f"{count[state]} {words}" for state, words in STATES.items() if words and count[state]]
    return f"{'; '.join([first, *rest])}."
