"""What is known of a setting beside its name, type and default, and the sentence that refuses it.

A dataclass says it once, in its fields' annotations:

    num_steps: Annotated[int, Setting("Solver steps.", "Steps", 1, limits=(1, 1000))] = 50

and checks all with `check_settings`. Command lines show the help; forms the label, help and range.
What breaks a rule raises a `RuleError`, in whose sentence a form puts the label for the name.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from typing_extensions import Doc


class RuleError(ValueError):
    """A value that breaks a rule: the sentence is the argument's name and the rule.

    Parameters
    ----------
    name : str or tuple of str
        The argument, or those that the rule joins.
    rule : str
        What follows the name: the rule, what came and the remedy.
    place : int, optional
        Which of several numbers breaks it.
    text : str, optional
        The whole sentence, where it is not just that.
    """

    def __init__(
        self, name: str | tuple[str, ...], rule: str, place: int | None = None, text: str = ""
    ) -> None:
        self.names = (name,) if isinstance(name, str) else name
        self.rule = rule
        self.place = place
        super().__init__(text or f"{' and '.join(self.names)} {rule}")


@dataclass(frozen=True, eq=False)
class Setting(Doc):
    """One setting; of several numbers, each."""

    help: str
    """What it means and in which unit, in a few words: for command lines and forms."""
    label: str | tuple[str, ...] = ""
    """What a form calls it; of several numbers that differ, each."""
    low: float = -math.inf
    high: float = math.inf
    """Bounds of a number."""
    _: KW_ONLY
    limits: tuple[float, float] | None = None
    """What anyone who reaches a form or an endpoint may ask for; by default the bounds."""
    above: bool = False
    """Whether `low` itself is out of bounds."""
    remedy: str = ""
    """What a refusal adds."""
    slider: tuple[float, float, float] | None = None
    """Ends and step of a form's slider."""
    choices: Mapping[str, Any] | None = None
    """Names of which the value is one; what stands under them may have a `label` for forms."""
    counts: tuple[int, int] = (1, 1)
    """Least and greatest number of several numbers."""
    what: str = ""
    """What several numbers are, for a refusal."""

    @property
    def documentation(self) -> str:  # type: ignore[override]
        """What command lines show."""
        names = f" One of: {', '.join(self.choices)}." if self.choices else ""
        return self.help + names

    def check(self, name: str, value: Any, default: Any, limited: bool) -> Any:
        """Return a value in the default's type, or raise ValueError in a sentence."""
        if self.choices is not None:
            return check_choice(name, value, self.choices)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise RuleError(name, f"must be true or false, got {said(value)}")
            return value
        if isinstance(default, int | float):
            low, high = (limited and self.limits) or (self.low, self.high)
            remedy = f"; {self.remedy}" if self.remedy else ""
            if isinstance(default, int):
                return check_whole(name, value, low, high, remedy)
            above = self.above and low == self.low
            return check_number(name, value, low, high, remedy, above)
        if not isinstance(default, tuple) or not default:
            return value
        if not isinstance(value, list | tuple):
            raise RuleError(name, f"must be a list of numbers, got {said(value)}")
        if not self.counts[0] <= len(value) <= self.counts[1]:
            raise RuleError(name, f"must be {self.what}, got {len(value)}")
        checked = []
        for place, one in enumerate(value):
            try:
                checked.append(self.check(name, one, default[0], limited))
            except RuleError as error:
                raise RuleError(name, error.rule, place, f"each of {error}") from error
        return tuple(checked)


class Interval(Setting):
    """Two times, the first earlier."""

    def check(self, name: str, value: Any, default: Any, limited: bool) -> Any:
        """Return (low, high), or raise ValueError in a sentence."""
        rule = f"must be two times (low, high) with 0 <= low < high <= 1, got {said(value)}"
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise RuleError(name, rule)
        times: list[float] = []
        for place, one in enumerate(value):
            try:
                times.append(check_number(name, one, 0, 1))
            except RuleError as error:
                raise RuleError(name, error.rule, place, f"{name} {rule}") from error
        low, high = times
        if low >= high:
            end = self.label[1] if isinstance(self.label, tuple) else "the second"
            order = f"must be before {end[0].lower()}{end[1:]}, got {low:g} and {high:g}"
            raise RuleError(name, order, 0, f"{name} {rule}")
        return low, high


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
    """Check the fields of a frozen dataclass and keep each in the type of its default.

    Raises
    ------
    ValueError
        In one sentence that names the field, its rule and what came.
    """
    for name, about in settings_of(type(values)).items():
        default = getattr(type(values), name, None)
        checked = about.check(name, getattr(values, name), default, limited)
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
        raise RuleError(name, f"must be a whole number {bounds}, got {said(value)}{remedy}")
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
        raise RuleError(name, f"must be a {bounds}, got {said(value)}{remedy}")
    return number


def check_choice(name: str, value: Any, choices: Any) -> str:
    """Return a value; raise ValueError unless it is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise RuleError(name, f"must be one of {', '.join(choices)}, got {said(value)}")
    return value
