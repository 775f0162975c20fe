"""What the first steps must show: metrics go in, why the run cannot go on comes out; and which
metrics they will be, by the settings alone."""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from lsp.settings.config import Config
from lsp.settings.phases import STEP_PHASES

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


PLAY = (
    *("rollout/played_query_frac", "rollout/distinct_query_frac", "rollout/query_length_frac"),
    *("rollout/query_empty_frac", "rollout/query_malformed_frac", "rollout/query_illegal_frac"),
    *(
        "rollout/answer_length/mean",
        "rollout/answer_truncated_frac",
        "rollout/lag",
        "rollout/logprob_mismatch",
    ),
    *("reward/external/mean", "reward/external/std", "reward/solver/zero_variance_frac"),
    *("collapse/unasked_code_frac", "collapse/answer_distinct_2", "collapse/answer_repetition"),
)
UPDATE = (
    *("loss/total", "kl/largest_difference"),
    *("batch/rows", "batch/distinct_rows", "batch/padding_frac"),
    *("optim/lr", "optim/grad_norm", "optim/skipped"),
    *("runtime/elapsed", "runtime/world_size", "runtime/peak_memory_mb"),
)
OF_ASKING = (
    *("reward/challenger/mean", "reward/challenger/std", "advantage/challenger/mean"),
    *("advantage/challenger/std", "rollout/query_length/mean", "collapse/near_duplicate_frac"),
    *("collapse/distinct_2", "collapse/largest_kind_frac"),
)
OF_QUALITY = (
    *("quality/mean", "quality/std", "quality/unparsed_frac", "quality/weight"),
    "quality/weighted_std_ratio",
)
OF_A_ROLE = ("loss/policy/{}", "loss/kl/{}", "entropy/{}", "kl/{}/k1", "kl/{}/k2", "kl/{}/k3")


def metrics_of(config: Config) -> list[str]:
    """The metrics that a run can have by its settings; ``*`` stands for what its reward and its
    evaluator name."""
    method = config.method
    names = [*PLAY, *UPDATE, *(f"time/{phase}" for phase in STEP_PHASES)]
    spread = ("reward/solver", "advantage/solver", "reward/external/*")
    names += [f"{name}/{part}" for name in spread for part in ("mean", "std")]
    names += OF_ASKING if method.queries == "challenger" else ()
    names += OF_QUALITY if method.scores_quality else ()
    names += ["reward/challenger/invalid"] if method.invalid_query != "unplayed" else ()
    roles = ("solver", "challenger") if method.trains_challenger else ("solver",)
    names += [pattern.format(role) for role in roles for pattern in OF_A_ROLE]
    names += [f"kl/{role}/exact" for role in roles if method.kl_estimator == "exact"]
    if config.optim.role_gradients_every:
        names += [f"optim/grad_norm/{role}" for role in roles]
        names += ["optim/role_gradient_cosine"] if len(roles) == 2 else ()
    # A world's own objective means nothing where nothing is evaluated.
    names.append("eval/*" if config.eval is None else f"eval/{config.eval.name}/*")
    return names


def unknown_objective(config: Config, metrics: Collection[str]) -> str:
    """An ``objective`` that is not among ``metrics``: those of the settings, or of the start and
    the first step. (A world's ``eval/…`` means nothing under eval=none; role gradients may come
    later.)"""
    objective = config.objective
    later = ("optim/",) if config.eval is not None else ("optim/", "eval/")
    known = any(fnmatchcase(objective or "", pattern) for pattern in metrics)
    begun = not any("*" in pattern for pattern in metrics)
    if not objective or known or (begun and objective.startswith(later)):
        return ""
    near = difflib.get_close_matches(objective, metrics, n=3, cutoff=0.0)
    return (
        f"objective={objective} is no metric of this run; docs/metrics.md has them all, near it are"
        f" {', '.join(near)}"
    )
