"""What a parameter of a W&B sweep says goes in, its values or one drawn at random come out.

Names, keys, defaults and formulas are W&B's: docs.wandb.ai, "Sweep configuration options", and for
``beta``, for limits and for what a grid may list its package ``sweeps`` 0.3.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

NEEDED = object()
LIMITS = {"min": NEEDED, "max": NEEDED}
KEYS: dict[str, dict[str, Any]] = {
    "constant": {"value": NEEDED},
    "categorical": {"values": NEEDED},
    "categorical_w_probabilities": {"values": NEEDED, "probabilities": NEEDED},
    "int_uniform": LIMITS,
    "uniform": LIMITS,
    "log_uniform": LIMITS,
    "log_uniform_values": LIMITS,
    "inv_log_uniform": LIMITS,
    "inv_log_uniform_values": LIMITS,
    "normal": {"mu": 0, "sigma": 1},
    "log_normal": {"mu": 0, "sigma": 1},
    "beta": {"a": 1, "b": 1},
}
"""Distribution -> its keys with their defaults."""
for _name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta"):
    KEYS[f"q_{_name}"] = {**KEYS[_name], "q": 1}
LARGEST = 2**62
LARGEST_EXPONENT = 700
"""Of e, in a double."""
MOST_VALUES = 100_000
"""Of one parameter in a grid."""


def distribution_of(spec: Mapping[str, Any]) -> str:
    """The one that a parameter names, or that its keys mean."""
    if "distribution" in spec:
        return str(spec["distribution"])
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec or "max" in spec:
        whole = type(spec.get("min")) is int and type(spec.get("max")) is int
        return "int_uniform" if whole else "uniform"
    return "constant"


def with_defaults(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """All of a parameter's keys but the distribution's name. Raises ValueError for what W&B's
    schema refuses, and for numbers that no setting could be."""
    if kind not in KEYS:
        raise ValueError(f"distribution={kind} is none of {', '.join(KEYS)}")
    keys = KEYS[kind]
    if unknown := [key for key in spec if key not in keys and key != "distribution"]:
        raise ValueError(f"{kind} has no {unknown[0]}; it takes {', '.join(keys)}")
    if missing := [key for key in keys if keys[key] is NEEDED and key not in spec]:
        raise ValueError(f"{kind} needs {', '.join(missing)}")
    filled = {key: spec.get(key, default) for key, default in keys.items()}
    if "values" in filled:
        _check_values(**filled)
    elif kind != "constant":
        _check_numbers(kind, filled)
    return filled


def _check_values(values: Any, probabilities: Any = None) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError("values is no list of values")
    if probabilities is None:
        return
    numbers = isinstance(probabilities, list) and all(map(_is_number, probabilities))
    if not numbers or len(probabilities) != len(values) or min(probabilities) < 0:
        raise ValueError(f"probabilities must be {len(values)} numbers from 0, one a value")
    if not math.isclose(sum(probabilities), 1, rel_tol=1e-5):
        raise ValueError(f"probabilities add up to {sum(probabilities):g}, and must to 1")


def _check_numbers(kind: str, numbers: Mapping[str, Any]) -> None:
    for key, value in numbers.items():
        if not _is_number(value):
            raise ValueError(f"{key}={value!r:.80} is no number")
        if key in ("q", "a", "b") and value <= 0:
            raise ValueError(f"{key}={value} must be above 0")
        if key == "sigma" and value < 0:
            raise ValueError(f"sigma={value} must not be below 0")
        if kind == "int_uniform" and type(value) is not int:
            raise ValueError(f"int_uniform needs whole numbers, and has {key}={value}")
    low, high = numbers.get("min", 0), numbers.get("max", 1)
    if not low < high:
        raise ValueError(f"needs numbers min < max, and has min={low}, max={high}")
    if kind.endswith("_values") and low <= 0:
        raise ValueError(f"a log scale needs min above 0, and has min={low}")
    if kind.endswith("log_uniform") and max(abs(low), abs(high)) > LARGEST_EXPONENT:
        raise ValueError(
            f"min={low} and max={high} are exponents of e in {kind}; write the limits themselves"
            f" with {kind}_values"
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # NaN is not


def options(kind: str, filled: Mapping[str, Any]) -> Sequence[Any] | None:
    """The values that a grid goes through; None where there are none to list. Raises ValueError for
    more than ``MOST_VALUES``."""
    if kind == "constant":
        return [filled["value"]]
    if kind == "categorical":
        return list(filled["values"])
    if kind not in ("int_uniform", "q_uniform"):
        return None
    low, high, step = filled["min"], filled["max"], filled.get("q", 1)
    # W&B's grid leaves the maximum of q_uniform out, as numpy.arange does.
    count = high - low + 1 if kind == "int_uniform" else math.ceil((high - low) / step)
    if count > MOST_VALUES:
        raise ValueError(f"has {count:,} values, and a grid takes at most {MOST_VALUES:,}")
    return [low + i * step for i in range(count)]


def draw(kind: str, filled: Mapping[str, Any], source: random.Random) -> Any:
    """One value. Raises ValueError for one that is infinite."""
    match kind:
        case "constant":
            return filled["value"]
        case "categorical":
            return source.choice(filled["values"])
        case "categorical_w_probabilities":
            return source.choices(filled["values"], filled["probabilities"])[0]
        case "int_uniform":
            return source.randint(filled["min"], filled["max"])
    try:
        value = _number(kind.removeprefix("q_"), filled, source)
        if "q" not in filled:
            return value
        step = filled["q"]
        # A whole step gives whole numbers, which settings that count something need.
        step = int(step) if step == int(step) else step
        return round(value / step) * step
    except OverflowError as error:
        raise ValueError(f"{kind} draws numbers that are too large") from error


def _number(kind: str, filled: Mapping[str, Any], source: random.Random) -> float:
    low, high = filled.get("min", 0), filled.get("max", 0)
    match kind:
        case "uniform":
            return source.uniform(low, high)
        case "log_uniform":
            return math.exp(source.uniform(low, high))
        case "inv_log_uniform":
            return math.exp(-source.uniform(low, high))
        case "log_uniform_values" | "inv_log_uniform_values":  # log(1/X) is as uniform as log(X)
            drawn = math.exp(source.uniform(math.log(low), math.log(high)))
            return min(max(drawn, low), high)
        case "normal":
            return source.gauss(filled["mu"], filled["sigma"])
        case "log_normal":
            return math.exp(source.gauss(filled["mu"], filled["sigma"]))
    return source.betavariate(filled["a"], filled["b"])
