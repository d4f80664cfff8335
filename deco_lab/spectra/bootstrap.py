"""Figures and curves with their intervals: Student's, with the bootstrap's standard error.

The groups are drawn again, with replacement, each with all its images, and the figure computed
again. A group is what was drawn independently of the others: a photograph, whose crops are alike,
or, where no groups are given, each image by itself. With G groups of m_1 ... m_G images,

    low, high = figure -+ t(e n) sqrt(G / n) std(resampled)        n = G - means removed
    e         = (sum m)^2 / (G sum m^2)                            1 for groups of one size

t is Student's 97.5% quantile. sqrt(G / n) makes up for means that were taken from the same groups,
one at least [2]; e for the large groups among small ones, which tell the spread nearly by
themselves [3]. Images within a group are not drawn again: the spread between groups holds theirs
already, and drawing both would count it twice [2, section 3.8]. There are two ways in:

`bootstrap` takes any figure of a set of images and draws class by class: one mean is removed for
each class.

`bootstrap_intervals` takes a figure that is a function of means over images, such as a ratio of two
sums, and whole arrays of such figures at once. Groups are drawn as rows of weights that sum to 1,
R times in one product of matrices, from one urn, which errs on the wide side where classes were
given equal numbers:

    means_r = sum_i weight_ri values_i          r = 1 ... R

`over_seeds` draws nothing: trainings are alike and independent, and Student's interval of a mean
is exact where they are normal, however few there are.

How often these 95% intervals cover the truth, in percent, for groups that differ much (simulated in
`tests/test_bootstrap.py`, 2,000 sets each):

                           normal mean      ratio      log power
     5 groups of 1, 8, 32   94  94  94   92  93  93   92  94  94
    14                      94  95  95   92  92  93   92  94  94
    50                      95  95  96   93  94  94   93  94  93
    15 groups of 1 to 16        93           92           93
    14 of 8, groups not told    54           55           55

The sums of the ratio are skewed, and the powers exponential, with `bootstrap_log_intervals`. Where
the logarithms of powers are normal with a deviation of 1, the mean is decided by the few largest,
and intervals of 14 groups cover 88%.

References
----------
[1] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 12.
[2] Davison, Hinkley, "Bootstrap Methods and their Application", 1997, sections 2.3 and 3.8.
[3] Kish, "Survey Sampling", 1965, section 11.7, on unequal weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.result import Estimate

Array = NDArray[np.float64]

Groups = Sequence[object] | NDArray[Any] | Tensor
"""Labels, one for each image: images with equal ones are of one group."""

RECIPE = "Student's over groups, 95%, error from 400 resamples of seed 0"
"""What `bootstrap_intervals` does by default, for recipes."""


def group_numbers(groups: Groups | None, count: int) -> NDArray[np.int64]:
    """Return the group of each of `count` images, (count,), as a number from 0.

    Parameters
    ----------
    groups : sequence or array, optional
        (count,), a label for each image, such as the photograph that a crop was cut from; None for
        every image by itself.
    count : int
        Images.

    Raises
    ------
    ValueError
        Where there is not one label for each image.
    """
    if groups is None:
        return np.arange(count)
    labels = list(getattr(groups, "tolist", lambda: groups)())
    if len(labels) != count or any(isinstance(label, list) for label in labels):
        raise ValueError(
            f"groups must be one label for each of {count} images, got {len(labels)}; name the "
            "photograph that each was cut from, or pass None"
        )
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)


def count_groups(numbers: NDArray[np.int64]) -> int:
    """Return how many groups `group_numbers` told apart, for recipes."""
    return int(numbers.max()) + 1


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float],
    labels: NDArray[np.int64],
    *,
    groups: Groups | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Return figure(all images) with its 95% interval.

    Parameters
    ----------
    figure : callable
        Takes the indices of images, (M,), and returns the figure of those images.
    labels : array
        (M,), the images' classes: each class keeps its number of groups in every resample. Zeros
        draw all alike, as where the classes themselves are the groups.
    groups : sequence or array, optional
        (M,), as for `group_numbers`; one that lies in several classes is drawn with that of its
        first image.
    resamples : int
        How often the groups are drawn again.
    seed : int
        Of the draws.

    Returns
    -------
    Estimate
        Its ends are NaN where no class has two groups: nothing tells their spread.

    Raises
    ------
    ValueError
        Without images, with fewer than two resamples, or for groups that do not fit.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or resamples < 2:
        raise ValueError(
            "bootstrap needs at least one label in one row and two resamples, got labels of shape "
            f"{labels.shape} and resamples={resamples}; give one label for each image"
        )
    generator = np.random.default_rng(seed)
    _, first, number = np.unique(
        group_numbers(groups, len(labels)), return_index=True, return_inverse=True
    )
    members = [np.flatnonzero(number == group) for group in range(len(first))]
    classes = [np.flatnonzero(labels[first] == label) for label in np.unique(labels[first])]
    value = float(figure(np.arange(len(labels))))
    resampled = []
    for _ in range(resamples):
        drawn = [some[generator.integers(len(some), size=len(some))] for some in classes]
        resampled.append(figure(np.concatenate([members[g] for g in np.concatenate(drawn)])))
    sizes = np.bincount(number)
    half = _half_width(np.array(resampled, np.float64), sizes, len(classes))
    return Estimate(value, float(value - half), float(value + half), count=len(labels))


def _half_width(resampled: Array, sizes: NDArray[np.int64], removed: int) -> Array:
    """Return half the width of intervals, of figures (R, ...) of groups of `sizes`, or NaN."""
    from scipy.stats import t

    G, n = len(sizes), len(sizes) - removed
    if n < 1:
        return np.full(resampled.shape[1:], np.nan)
    alike = sizes.mean() ** 2 / np.square(sizes).mean()
    return t.ppf(0.975, n * alike) * (G / n) ** 0.5 * resampled.std(0)


def bootstrap_intervals(
    figure: Callable[[Array], Array],
    values: Array,
    *,
    groups: Groups | None = None,
    removed: int = 1,
    within: tuple[float, float] = (-np.inf, np.inf),
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """Return figure(mean of values over images) with its pointwise 95% intervals.

    Parameters
    ----------
    figure : callable
        Takes means with any leading axes, (..., *V), to figures with the same leading axes.
    values : array
        (M, *V), one row for each image.
    groups : sequence or array, optional
        (M,), as for `group_numbers`.
    removed : int
        How many means were taken off the values before, one for each class where class means
        were; 1 for none.
    within : (float, float)
        What the figure can be: intervals end there.
    resamples : int
        How often the groups are drawn again, at least 2.
    seed : int
        Of the draws.

    Returns
    -------
    Estimate
        Intervals are NaN where groups are not more than `removed`: one tells nothing of its spread.

    Raises
    ------
    ValueError
        Without images, with fewer than two resamples, or for groups that do not fit.
    """
    M = len(values)
    if M == 0 or resamples < 2:
        raise ValueError(
            f"intervals need at least one image and two resamples, got {M} images and "
            f"resamples={resamples}; use some 400"
        )
    value = figure(values.mean(0)[None])[0]
    number = group_numbers(groups, M)
    sizes = np.bincount(number)
    G = len(sizes)
    weights = np.random.default_rng(seed).multinomial(G, np.full(G, 1 / G), size=resamples)
    weights = weights[:, number] / weights[:, number].sum(1, keepdims=True)
    resampled = figure((weights @ values.reshape(M, -1)).reshape(resamples, *values.shape[1:]))
    half = _half_width(resampled, sizes, removed)
    return Estimate(value, (value - half).clip(*within), (value + half).clip(*within), count=M)


def bootstrap_log_intervals(
    figure: Callable[[Array], Array],
    values: Array,
    *,
    groups: Groups | None = None,
    removed: int = 1,
) -> Estimate:
    """Return figure(mean of values over images) with intervals taken on a logarithmic axis.

    For figures above 0, such as powers, which a few images decide: their scatter is about symmetric
    there, and an interval never reaches 0.

    Parameters
    ----------
    figure, values, groups, removed
        As for `bootstrap_intervals`.
    """
    ends = bootstrap_intervals(
        lambda means: log_of(figure(means)), values, groups=groups, removed=removed
    )
    return Estimate(
        figure(values.mean(0)[None])[0], np.exp(ends.low), np.exp(ends.high), count=ends.count
    )


def log_of(values: Array) -> Array:
    """Return the logarithm, that of the smallest number where a value is 0; NaN stays."""
    return np.log(np.maximum(values, np.finfo(float).tiny))


def over_seeds(values: Array) -> Estimate:
    """Return the mean over trainings, axis 0, with Student's 95% intervals; NaN of one training."""
    from scipy.stats import t

    S = len(values)
    mean = values.mean(0)
    if S < 2:
        return Estimate(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), count=S)
    half = t.ppf(0.975, S - 1) * values.std(0, ddof=1) / S**0.5
    return Estimate(mean, mean - half, mean + half, count=S)
