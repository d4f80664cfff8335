"""Times of several ways to do one thing, taken in turns.

Every variant runs once a round, in an order that turns with the round, so that a slow moment of the
machine hits all alike. A ratio is the median over rounds of the quotient of one round's two times,
which such moments move less than a quotient of medians.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """The times of one variant."""

    seconds: tuple[float, ...]
    """One a round."""

    @property
    def median(self) -> float:
        """Of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the rounds, in seconds; interpolated, within their range."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def ratio(timing: Timing, reference: Timing) -> float:
    """Return the median over rounds of the time of `timing` over that of `reference`."""
    pairs = zip(timing.seconds, reference.seconds, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done what it was asked."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


class Timed:
    """A function whose calls are timed; what the last of them returned is kept.

    Parameters
    ----------
    run : callable
        Of no arguments.
    synchronize : callable
        Waits until the device has done what it was asked.
    """

    def __init__(
        self, run: Callable[[], Any], synchronize: Callable[[], None] = lambda: None
    ) -> None:
        self._run = run
        self._synchronize = synchronize
        self.result: Any = None

    def __call__(self) -> float:
        """Run it once and return the seconds that it took."""
        self.result = None  # or two results would take memory at once
        self._synchronize()
        start = time.perf_counter()
        result = self._run()
        self._synchronize()
        seconds = time.perf_counter() - start
        self.result = result
        return seconds


_SHORT = 0.1  # seconds


def interleaved(
    variants: Mapping[str, Callable[[], float]], repeats: int, rest: float = 0.02
) -> dict[str, Timing]:
    """Time every variant once a round, a short one the second time of two.

    After a rest threads and processors take milliseconds to wake, which are not the variant's.

    Parameters
    ----------
    variants : mapping
        Functions by name that run a variant, warm already, and return its seconds.
    repeats : int
        Rounds, at least 1.
    rest : float
        Seconds before each, after which the threads of the one before no longer spin.

    Returns
    -------
    dict
        A `Timing` by name.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(rest)
            taken = variants[name]()
            if taken < _SHORT:
                taken = variants[name]()
            seconds[name].append(taken)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}
