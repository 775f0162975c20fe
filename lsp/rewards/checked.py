"""What somebody else's code returned goes in, finite rewards or an error come out."""

from collections.abc import Iterable
from numbers import Real
from typing import Any

LARGEST = 3.4028234663852886e38
"""Of float32, in which rewards are kept: what is larger would be infinite there."""


def checked(values: Any, count: int) -> list[float]:
    """The rewards as floats. Raises ValueError where they are not ``count`` finite numbers."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"{count} rewards were asked for, and a {type(values).__name__} came")
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{count} rewards were asked for, and {len(values)} came")
    for place, value in enumerate(values):
        plain = isinstance(value, Real) and not isinstance(value, bool)
        if not plain or not abs(value) <= LARGEST:  # NaN is not
            raise ValueError(f"reward {place} is {value!r:.80}, and must be a finite number")
    return [float(value) for value in values]
