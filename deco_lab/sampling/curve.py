"""How strong something is at each time: straight lines between values at evenly spaced times.

    curve(t) = v_k + (s - k) (v_{k+1} - v_k),      s = t (n - 1),  k = floor(s)

for n values v_0, ..., v_{n-1} at t = 0, 1 / (n - 1), ..., 1. In settings a curve is the list of its
values, and several curves are one list.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deco_lab.setting import RuleError, Setting, check_number, said

MAX_POINTS = 41
"""Most values of a curve in settings."""

# A time that equals one of the curve's except for rounding, float32's too, has that one's value.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """A piecewise linear function of t in [0, 1]; beyond, it stays at its ends.

    Parameters
    ----------
    values : sequence of float
        At least 2, at evenly spaced times from 0 to 1.

    Raises
    ------
    ValueError
        For fewer values, or one that is no finite number.

    Examples
    --------
    >>> from deco_lab.sampling import Curve
    >>> Curve([0, 1, 3])(0.75)
    2.0
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        try:
            values = list(self.values)
        except TypeError:
            values = []
        if len(values) < 2:
            raise RuleError(
                "values",
                "must be at least 2 numbers, at evenly spaced times from 0 to 1, got "
                f"{said(self.values)}",
            )
        checked = tuple(check_number("each of values", value) for value in values)
        object.__setattr__(self, "values", checked)

    def __call__(self, t: float) -> float:
        """Return the value at a time."""
        at = min(max(t, 0), 1) * (len(self.values) - 1)
        if abs(at - round(at)) < _ROUNDING:
            return self.values[round(at)]
        k = math.floor(at)
        low, high = self.values[k], self.values[k + 1]
        return low + (at - k) * (high - low)

    @property
    def times(self) -> list[float]:
        """The times of the values."""
        return [k / (len(self.values) - 1) for k in range(len(self.values))]

    def multiplied(self, factor: float) -> "Curve":
        """Return the curve with each value multiplied."""
        return Curve([factor * value for value in self.values])


def as_curve(name: str, curve: Curve | Sequence[float] | None) -> Curve | None:
    """Return the curve that an argument is, or its values are; None where it is always 1.

    Raises
    ------
    ValueError
        For anything else, or a value below 0.
    """
    if curve is None:
        return None
    try:
        curve = curve if isinstance(curve, Curve) else Curve(curve)
    except RuleError as error:
        raise RuleError(name, f"must be a Curve or its values: {error}; None is none") from error
    for value in curve.values:
        check_number(f"each of {name}", value, 0, remedy="; 1 leaves guidance as it is, 0 is none")
    return None if all(value == 1 for value in curve.values) else curve


def curves_of(values: Sequence[float], count: int) -> list[Curve]:
    """Return `count` curves that stand one after the other in a flat list; none of an empty one."""
    points = len(values) // count
    return [Curve(values[points * i : points * (i + 1)]) for i in range(count) if points]


def begins(curves: Sequence[Curve], low: float, high: float) -> float | None:
    """Return the time in [low, high) from which no curve is 0, the first; None if there is none."""
    inner = {t for curve in curves for t in curve.times if low < t < high}
    for start, stop in pairwise(sorted({low, high, *inner})):
        # A line that is not 0 throughout is 0 in a point at most.
        if all(curve(start) or curve(stop) for curve in curves):
            return start
    return None


@dataclass(frozen=True, eq=False)
class OverTime(Setting):
    """One or several curves, one after the other in a flat list of their values; each is a factor.

    An empty list is 1 throughout, and what is 1 throughout becomes it.
    """

    curves: int = 1
    """How many."""

    def check(self, name: str, value: Any, default: Any, limited: bool) -> Any:
        """Return the values, or raise ValueError in a sentence."""
        each = f"2 to {MAX_POINTS} numbers at evenly spaced times from 0 to 1"
        if not isinstance(value, list | tuple):
            raise RuleError(name, f"must be a list of numbers, got {said(value)}")
        if value and not (
            len(value) % self.curves == 0 and 2 <= len(value) // self.curves <= MAX_POINTS
        ):
            of = f"{self.curves} curves, one a band, each of the same " if self.curves > 1 else ""
            raise RuleError(
                name, f"must be {of}{each}, got {len(value)}; an empty list changes nothing"
            )
        low, high = (limited and self.limits) or (self.low, self.high)
        checked = []
        for place, one in enumerate(value):
            try:
                checked.append(check_number(name, one, low, high))
            except RuleError as error:
                raise RuleError(name, error.rule, place, f"each of {error}") from error
        return () if all(one == 1 for one in checked) else tuple(checked)
