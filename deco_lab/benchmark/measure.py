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


def interleaved(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int,
    synchronize: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time every variant once a round.

    Parameters
    ----------
    variants : mapping
        Functions of no arguments by name; warm already.
    repeats : int
        Rounds, at least 1.
    synchronize : callable
        Waits until the device has done what it was asked.

    Returns
    -------
    timings : dict
        A `Timing` by name.
    results : dict
        What each returned in its last round.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            synchronize()
            start = time.perf_counter()
            results[name] = variants[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}, results
