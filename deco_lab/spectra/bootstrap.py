"""A figure with its interval: the bootstrap over images.

The images are drawn anew, with replacement and class by class, and the figure computed again. A
figure such as a mean absolute difference or a Frechet distance comes out larger on a resample,
which repeats images; what is wanted is its spread, so the resampled values are centred on the
figure itself:

    low, high = figure + quantiles(resampled - mean(resampled))

For a mean this is the percentile interval [1].

References
----------
[1] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 10 and 13.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    low, high = value + np.quantile(resampled - resampled.mean(), [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(labels))
