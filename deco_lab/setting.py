"""What is known of a setting beside its name, type and default, and the sentence that refuses it.

A dataclass says it once, in its fields' annotations:

    num_steps: Annotated[int, Whole("Solver steps.", "Steps", 1, limits=(1, 1000))] = 50

and is checked as a whole by `checked`. Command lines show the help, forms the label, help and
range. `limits` are what anyone who reaches a form or an endpoint may ask for; a person's own script
has only the bounds `low` and `high`.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from typing_extensions import Doc

Bounds = tuple[float, float]
_NONE: Bounds = (-math.inf, math.inf)


class Setting(Doc):
    """Any value.

    Parameters
    ----------
    help : str
        What it means and in which unit, in a few words: for command lines and forms.
    label : str or tuple of str
        What a form calls it; of several numbers, each.
    slider : tuple of float, optional
        Ends and step of a form's slider.
    """

    def __init__(
        self,
        help: str,
        label: str | tuple[str, ...] = "",
        *,
        slider: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__(help)
        self.help = help
        self.label = label
        self.slider = slider

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the value in its own type, or raise ValueError in a sentence."""
        return value


class Whole(Setting):
    """A whole number; of NumPy or PyTorch, too."""

    def __init__(
        self,
        help: str,
        label: str = "",
        low: float = -math.inf,
        high: float = math.inf,
        *,
        limits: Bounds | None = None,
        remedy: str = "",
        above: bool = False,
        **form: Any,
    ) -> None:
        super().__init__(help, label, **form)
        self.bounds, self.limits = (low, high), limits or (low, high)
        self.remedy = f"; {remedy}" if remedy else ""
        self.above = above

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the value as an int."""
        bounds = self.limits if limited else self.bounds
        return check_whole(name, value, *bounds, self.remedy)


class Number(Whole):
    """A finite number; with `above`, greater than `low` where nothing limits it."""

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the value as a float."""
        if limited and self.limits != self.bounds:
            return check_number(name, value, *self.limits, self.remedy)
        return check_number(name, value, *self.bounds, self.remedy, self.above)


class Choice(Setting):
    """One of a table's names; what stands in the table may have a `label` for forms."""

    def __init__(self, help: str, label: str, choices: Mapping[str, Any]) -> None:
        super().__init__(f"{help} One of: {', '.join(choices)}.", label)
        self.help, self.choices = help, choices

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the name."""
        check_choice(name, value, self.choices)
        return value


class Switch(Setting):
    """True or false."""

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the value."""
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {said(value)}")
        return value


class Several(Setting):
    """Numbers, so many (from, to), each as `each`; `what` names them in the sentence."""

    def __init__(self, each: Whole, counts: tuple[int, int], what: str) -> None:
        super().__init__(each.help, each.label, slider=each.slider)
        self.each, self.counts, self.what = each, counts, what

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return the numbers as a tuple."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{name} must be a list of numbers, got {said(value)}")
        if not self.counts[0] <= len(value) <= self.counts[1]:
            raise ValueError(f"{name} must be {self.what}, got {len(value)}")
        return tuple(self.each.check(f"each of {name}", one, limited) for one in value)


class Interval(Setting):
    """Two times, the first earlier."""

    def check(self, name: str, value: Any, limited: bool) -> Any:
        """Return (low, high)."""
        try:
            low, high = (check_number(name, one) for one in value)
            if 0 <= low < high <= 1:
                return low, high
        except (TypeError, ValueError):
            pass
        raise ValueError(
            f"{name} must be two times (low, high) with 0 <= low < high <= 1, got {said(value)}"
        )


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """Return what is known of each field of a dataclass that says it, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: about
        for field in fields(kind)
        for about in getattr(hints[field.name], "__metadata__", ())
        if isinstance(about, Setting)
    }


def check_settings(values: Any, *, limited: bool) -> None:
    """Check the fields of a frozen dataclass and keep each in its own type.

    Raises
    ------
    ValueError
        In one sentence that names the field, its rule and what came.
    """
    for name, about in settings_of(type(values)).items():
        checked = about.check(name, getattr(values, name), limited)
        object.__setattr__(values, name, checked)


def said(value: Any) -> str:
    """Return a value in few characters: it may be whatever a stranger sent."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " ..."


def check_whole(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, remedy: str = ""
) -> int:
    """Return a value as an int; raise ValueError unless it is a whole number in a range."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {bounds}, got {said(value)}{remedy}")
    return number


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    remedy: str = "",
    above: bool = False,
) -> float:
    """Return a value as a float; raise ValueError unless it is a finite number in a range."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        bounds = f"number from {low:g} to {high:g}"
        if high == math.inf:
            bounds = "finite number"
            if low > -math.inf:
                bounds += f" {'greater than' if above else 'of at least'} {low:g}"
        raise ValueError(f"{name} must be a {bounds}, got {said(value)}{remedy}")
    return number


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless a value is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {said(value)}")
