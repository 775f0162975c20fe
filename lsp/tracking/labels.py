"""How metrics are shown: a metric's key goes in, its words, digits and colour come out.

The one table for step lines, curves, tables and lights. What an evaluator measures has the labels
that it declares (``EvaluatorSettings.labels``). No torch here.
"""

from collections.abc import Mapping
from typing import NamedTuple

COLOURS = {"solver": "#1f6fb4", "challenger": "#e07b00", None: "#808080"}
"""Of each role, and of what is nobody's."""
TRUE_QUALITY, LEGAL_QUERIES = "world/quality", "world/legal_query_frac"
"""No metrics of a run: what its world knows of its trace, for readers."""


class Label(NamedTuple):
    """``digits`` behind the point; ``role``: whose colour it has; ``short``: its name in the line
    of a step, where it stands there."""

    text: str
    digits: int = 3
    role: str | None = None
    short: str = ""


LABELS = {
    "reward/external/mean": Label("external reward R", 3, "solver", "R"),
    "quality/mean": Label("quality R_Q (0 to 7)", 2, "solver", "R_Q"),
    TRUE_QUALITY: Label("true rubric", 2),
    "reward/solver/mean": Label("Solver's reward", 3, "solver", "Solver"),
    "reward/challenger/mean": Label("Challenger's reward", 3, "challenger", "Challenger"),
    "kl/solver/k2": Label("KL of the Solver (k2)", 4, "solver", "KL"),
    "kl/challenger/k2": Label("KL of the Challenger (k2)", 4, "challenger", "KL_Ch"),
    "entropy/solver": Label("entropy of the Solver", 3, "solver"),
    "entropy/challenger": Label("entropy of the Challenger", 3, "challenger"),
    "optim/grad_norm/solver": Label("gradient norm of the Solver", 3, "solver"),
    "optim/grad_norm/challenger": Label("gradient norm of the Challenger", 3, "challenger"),
    "optim/grad_norm": Label("gradient norm", 3),
    "rollout/played_query_frac": Label("queries played", 3, "challenger"),
    "rollout/distinct_query_frac": Label("distinct queries", 3, "challenger", "distinct"),
    LEGAL_QUERIES: Label("legal queries", 3),
    "rollout/query_length/mean": Label("tokens of a query", 1, "challenger"),
    "rollout/answer_length/mean": Label("tokens of an answer", 1, "solver"),
    "rollout/answer_truncated_frac": Label("answers cut at the limit", 3, "solver"),
    "quality/unparsed_frac": Label("self-scores unread", 3),
    "collapse/near_duplicate_frac": Label("near duplicates", 3, "challenger"),
    "collapse/largest_kind_frac": Label("queries of one kind", 3, "challenger"),
    "collapse/unasked_code_frac": Label("unasked code", 3, "solver"),
    "collapse/answer_repetition": Label("repetition within answers", 3, "solver"),
}


def short_numbers(metrics: Mapping[str, float | None]) -> list[str]:
    """``R 0.512``, ``KL 0.0123``, …: of a step's metrics those that have a short name."""
    return [
        f"{label.short} {value:.{label.digits}f}"
        for key, label in LABELS.items()
        if label.short and (value := metrics.get(key)) is not None
    ]
