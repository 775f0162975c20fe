"""What the first steps must show: metrics go in, why the run cannot go on comes out."""

import difflib
import math
import re
from collections.abc import Collection, Mapping

from lsp.settings.config import Config

EPSILON = {"float32": 2**-23, "bfloat16": 2**-7}


def rounding(dtype: str, vocabulary: int) -> float:
    """How far two right computations of the same weights may put a token's log-probability apart,
    in nats. To raise a token above V others takes logits of about ln V, and rounding is relative:
    epsilon of it where results are kept in ``dtype``, and 64 epsilon of float32 where some 4,096
    products are added up in another order (sqrt(4,096), one rounding each; bfloat16's products are
    added up in float32 too). Four times that covers the layers and the largest of many tokens.

    Measured (eight layers, logits of deviation 3, V = 300 to 151,936, other kernels and batches):
    4e-5 in float32 where this allows 1.8e-4 to 3.7e-4, 0.2 in bfloat16 where it is 0.18 to 0.37."""
    return 4 * math.log(vocabulary) * (EPSILON[dtype] + 64 * EPSILON["float32"])


def not_the_reference(metrics: Mapping[str, float], dtype: str, vocabulary: int) -> str:
    """Before the first update the policy is the reference, so that no token's log-probability
    differs by more than rounding, and k2, the mean of half its square, not by more than half of
    that everywhere. (k1's mean would add up a bias far below rounding.)"""
    apart = rounding(dtype, vocabulary)
    kl = {name: value for name, value in metrics.items() if re.fullmatch(r"kl/\w+/k2", name)}
    limits = {"kl/largest_difference": apart} | dict.fromkeys(kl, (apart / 2) ** 2 / 2)
    for name, limit in limits.items():
        if not metrics.get(name, 0.0) <= limit:
            return (
                f"the policy is not the reference at the start: {name} is {metrics[name]:.2g} where"
                f" at most {limit:.2g} is rounding; this model or device computes the same weights"
                " in two ways (model.lora.rank=0 and runtime.device=cpu rule causes out)"
            )
    return ""


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
