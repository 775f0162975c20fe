"""What the first steps must show: metrics go in, why the run cannot go on comes out."""

import difflib
from collections.abc import Collection, Mapping

from lsp.settings.config import Config


def not_the_reference(metrics: Mapping[str, float], dtype: str) -> str:
    """Before the first update the policy is the reference, so KL is zero but for rounding."""
    allowed = 1e-6 if dtype == "float32" else 1e-3
    largest = max((abs(v) for k, v in metrics.items() if k.startswith("kl/")), default=0.0)
    if largest <= allowed:
        return ""
    return (
        f"the policy is not the reference at the start: their KL is {largest:.2g} where at most"
        f" {allowed:g} is rounding; this model or device computes the same weights in two ways"
        " (model.lora.rank=0 and runtime.device=cpu rule causes out)"
    )


def unknown_objective(config: Config, metrics: Collection[str]) -> str:
    """An ``objective`` that is no metric of the start and of the first step. (A world's ``eval/…``
    means nothing under eval=none; role gradients may come later.)"""
    objective = config.objective
    later = ("optim/",) if config.eval is not None else ("optim/", "eval/")
    if not objective or objective.startswith(later) or objective in metrics:
        return ""
    near = difflib.get_close_matches(objective, metrics, n=3, cutoff=0.0)
    return (
        f"objective={objective} is no metric of this run; docs/metrics.md has them all, near it are"
        f" {', '.join(near)}"
    )
