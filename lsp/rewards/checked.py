"""What somebody else's code returned goes in, rewards that can be used or an error come out."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Annotated, Any

from pydantic import Field

LARGEST = 3.4028234663852886e38
"""Of float32, in which rewards are kept: what is larger would be infinite there."""
Bound = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Range = tuple[Bound, Bound] | None
"""Lowest and highest reward; None: not known."""
RANGE = "[lowest, highest] R; one outside of it ends the run; null: not known"
"""What the setting ``range`` of a reward of the user's means."""


def checked(values: Any, count: int) -> list[float]:
    """The rewards as floats, those of a tensor or array too. Raises ValueError where they are not
    ``count`` finite numbers."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or _is_single(values):
        raise ValueError(f"{count} rewards were asked for, and a {type(values).__name__} came")
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{count} rewards were asked for, and {len(values)} came")
    values = [value.item() if _is_single(value) else value for value in values]
    for place, value in enumerate(values):
        if shape := tuple(getattr(value, "shape", ())):
            kind = f"a {type(value).__name__} of shape {shape}"
            raise ValueError(
                f"reward {place} is {kind}, and must be one number: return flat values"
            )
        plain = isinstance(value, Real) and not isinstance(value, bool)
        if not plain or not abs(value) <= LARGEST:  # NaN is not
            raise ValueError(f"reward {place} is {value!r:.80}, and must be a finite number")
    return [float(value) for value in values]


def _is_single(value: Any) -> bool:
    """Whether this is one number of torch, numpy or the like, which has no axes."""
    return getattr(value, "shape", None) == () and callable(getattr(value, "item", None))


def range_problems(limits: Range) -> list[tuple[str, str]]:
    """(reason, way out) where a range that was given is none."""
    if limits is None or limits[0] < limits[1]:
        return []
    reason = f"range=[{limits[0]:g},{limits[1]:g}] does not go from a lower to a higher number"
    return [(reason, "write range=[<lowest>,<highest>], or null where R has no bounds")]


def refuse_outside(
    limits: Range, who: str, queries: Sequence[str], answers: Sequence[str], rewards: list[float]
) -> None:
    """Raises ValueError for the first of a call's rewards that is outside the range that ``who``
    was said to have: never clipped, since the range or the reward is wrong."""
    if limits is None:
        return
    low, high = limits
    for query, answer, reward in zip(queries, answers, rewards, strict=True):
        if not low <= reward <= high:
            raise ValueError(
                f"{who} gave {reward:g} to the query {query!r:.60} and the answer {answer!r:.60},"
                f" outside its range=[{low:g},{high:g}]; correct what gives it, or start again with"
                " a range that holds it (null: not known)"
            )
