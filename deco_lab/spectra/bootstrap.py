"""Figures and curves with their intervals: the bootstrap over images.

The images are drawn anew, with replacement, and the figure computed again. A figure such as a mean
absolute difference, a Frechet distance or a coherence comes out larger on a resample, which repeats
images; what is wanted is its spread, so the resampled values are centred on the figure itself:

    low, high = figure + spread * quantiles(resampled - mean(resampled))

For a mean this is the percentile interval [1]. There are two ways in:

`bootstrap` takes any figure of a set of images and draws class by class; its spread is 1, for many
images, unless it is told otherwise.

`bootstrap_intervals` takes a figure that is a function of means over images, such as a ratio of two
sums, and whole arrays of such figures at once. Images are drawn as rows of weights that sum to 1,
R times in one product of matrices, from one urn, which errs on the wide side where classes were
given equal numbers:

    means_r = sum_i weight_ri values_i          r = 1 ... R
    spread  = sqrt(M / n) t(n) / z,             n = M - removed

The spread makes up for the means that were taken from the same M images, one at least [2], and for
the few images that the spread itself is known from: t(n) / z is Student's quantile over the normal
one. Measured on a ratio of skewed sums, these 95% intervals cover the truth in 93% of samples of
12 images and 95% of 120.

References
----------
[1] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 10 and 13.
[2] Davison, Hinkley, "Bootstrap Methods and their Application", 1997, sections 2.3 and 5.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RECIPE = "bootstrap over images, 95%, 400 resamples of seed 0"
"""What `bootstrap_intervals` does by default, for recipes."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and of how many images it is."""

    value: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""
    count: int
    """Images."""

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float],
    labels: NDArray[np.int64],
    *,
    removed: int = 0,
    resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Return figure(all images) with its 95% interval.

    Parameters
    ----------
    figure : callable
        Takes the indices of images, (M,), and returns the figure of those images.
    labels : array
        (M,), the images' classes: each class keeps its number of images in every resample.
    removed : int
        0 (default) leaves the spread as it is, for many images. Of few it is too narrow (measured
        on a normal mean of one class: 86% of 8 images' truths, 91% of 28), and 1 makes up for it as
        `bootstrap_intervals` does.
    resamples : int
        How often the images are drawn anew.
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        Without images, or with fewer than two resamples.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or resamples < 2:
        raise ValueError(
            "bootstrap needs at least one label in one row and two resamples, got labels of shape "
            f"{labels.shape} and resamples={resamples}; give one label for each image"
        )
    generator = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    value = float(figure(np.arange(len(labels))))
    resampled = np.array(
        [
            figure(np.concatenate([generator.choice(group, len(group)) for group in groups]))
            for _ in range(resamples)
        ]
    )
    if len(labels) <= max(removed, len(groups)):  # no class has two images: nothing tells a spread
        return Estimate(value, np.nan, np.nan, len(labels))
    spread = _spread(len(labels), removed) if removed else 1.0
    low, high = value + spread * np.quantile(resampled - resampled.mean(), [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(labels))


class Intervals(NamedTuple):
    """Figures and the ends of their pointwise 95% intervals, all of one shape."""

    value: Array
    low: Array
    high: Array


def _spread(count: int, removed: int) -> float:
    """Return what makes up for the means removed, and for how few images tell the spread."""
    from scipy.stats import norm, t

    n = count - removed
    return float((count / n) ** 0.5 * t.ppf(0.975, n) / norm.ppf(0.975))


def bootstrap_intervals(
    figure: Callable[[Array], Array],
    values: Array,
    *,
    removed: int = 1,
    within: tuple[float, float] = (-np.inf, np.inf),
    resamples: int = 400,
    seed: int = 0,
) -> Intervals:
    """Return figure(mean of values over images) with its pointwise 95% intervals.

    Parameters
    ----------
    figure : callable
        Takes means with any leading axes, (..., *V), to figures with the same leading axes.
    values : array
        (M, *V), one row for each image.
    removed : int
        How many means were taken off the values before, one for each class where class means
        were; 1 for none.
    within : (float, float)
        What the figure can be: intervals end there.
    resamples : int
        How often the images are drawn anew, at least 2.
    seed : int
        Of the draws.

    Returns
    -------
    Intervals
        Intervals are NaN where M is not above `removed`: one image tells nothing of its spread.

    Raises
    ------
    ValueError
        Without images, or with fewer than two resamples.
    """
    M = len(values)
    if M == 0 or resamples < 2:
        raise ValueError(
            f"intervals need at least one image and two resamples, got {M} images and "
            f"resamples={resamples}; use some 400"
        )
    value = figure(values.mean(0)[None])[0]
    if removed >= M:
        nothing = np.full_like(value, np.nan)
        return Intervals(value, nothing, nothing.copy())
    weights = np.random.default_rng(seed).multinomial(M, np.full(M, 1 / M), size=resamples) / M
    resampled = figure((weights @ values.reshape(M, -1)).reshape(resamples, *values.shape[1:]))
    low, high = value + _spread(M, removed) * np.quantile(
        resampled - resampled.mean(0), [0.025, 0.975], axis=0
    )
    return Intervals(value, low.clip(*within), high.clip(*within))


def bootstrap_log_intervals(
    figure: Callable[[Array], Array], values: Array, *, removed: int = 1
) -> Intervals:
    """Return figure(mean of values over images) with intervals taken on a logarithmic axis.

    For figures above 0, such as powers, which a few images decide: their scatter is about symmetric
    there, and an interval never reaches 0. Measured on the power of photographs in one ring, where
    linear intervals cover 83% of 7 images' truths and 91% of 28, these cover 87% and 93%.

    Parameters
    ----------
    figure, values, removed
        As for `bootstrap_intervals`.
    """
    ends = bootstrap_intervals(lambda means: log_of(figure(means)), values, removed=removed)
    return Intervals(figure(values.mean(0)[None])[0], np.exp(ends.low), np.exp(ends.high))


def log_of(values: Array) -> Array:
    """Return the logarithm, that of the smallest number where a value is 0; NaN stays."""
    return np.log(np.maximum(values, np.finfo(float).tiny))


def estimates(figure: Callable[[Array], Array], values: Array) -> list[Estimate]:
    """Return a row of figures, (K,), of means over images (M, ...), each as an `Estimate`."""
    found = bootstrap_intervals(figure, values)
    return [
        Estimate(float(value), float(low), float(high), len(values))
        for value, low, high in zip(*found, strict=True)
    ]
