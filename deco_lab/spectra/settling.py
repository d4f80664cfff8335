"""When each band of the image is settled, while a model draws it.

The image that each step predicts is compared with the last one, image by image and band by band:

    correlation_k(t) = <P_k predicted(t), P_k final> / (|P_k predicted(t)| |P_k final|)

summed over the band and the channels: 1 is the same at any strength, -1 its reverse. It asks
for likeness and not for strength: a band that only grows is settled. A band settles at a level at
the t from which its correlation never falls below it again, interpolated between steps:

    t = t_a + (level - c_a) / (c_b - c_a) * (t_b - t_a),    a the last step below, b the next

The channels' means are a band of their own: they outweigh all other low frequencies, and settle
early wherever pictures are bright or dark.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import as_tensor
from deco_lab.result import Estimate, Result, weights_hash
from deco_lab.spectra.bands import MEAN_AND_OCTAVES
from deco_lab.spectra.bootstrap import Groups, bootstrap, count_groups, group_numbers
from deco_lab.spectra.frequencies import check_estimator, check_images
from deco_lab.spectra.products import band_products, nan_if_empty
from deco_lab.spectra.states import RunStep

Array = NDArray[np.float64]


Predictions = tuple[Sequence[float], Iterable[Tensor]]
"""Times, (T,), and the images predicted there, (T, B, C, H, W) or an iterator of (B, C, H, W)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Settling(Result):
    """When K bands of M predicted images reach L levels of correlation with the final ones."""

    times: Array
    """(T,), at which images were predicted: where each step started."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    levels: Array
    """(L,), of correlation, in (0, 1)."""
    correlation: Array
    """(M, T, K), in [-1, 1], of each image; 1 at the last time, NaN where a band is empty."""
    settled: Array
    """(M, K, L), in t; NaN where a band is not at the level before the last prediction, which is
    the final image itself."""
    median: Estimate
    """(K, L), over images, those that never settle counted as 1; NaN where that is reached."""
    count: int
    """M, images."""
    groups: NDArray[np.int64] | None = None
    """(M,), the group of each image, a number from 0; None where every image is by itself."""


def predictions(steps: Iterable[RunStep]) -> Iterator[tuple[float, Tensor]]:
    """Yield the time and the predicted image of each step; the time is where the step started."""
    start = math.nan
    for step in steps:
        if step.predicted_image is not None:
            yield start, step.predicted_image
        start = float(step.t)


def settling_times(
    *runs: Iterable[RunStep] | Predictions,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    levels: Sequence[float] = (0.5, 0.9),
    window: str | None = None,
    model: Any = None,
    seed: int = 0,
    groups: Groups | None = None,
) -> Settling:
    """Return the t at which each band of the predicted images has settled.

    Parameters
    ----------
    *runs : iterables of steps, or pairs of times and predicted images
        Each of other images, with the same times: what `sample_steps` yields (the noise first), or
        times (T,) with the images predicted at them, (T, B, C, H, W), the final ones last. One run
        is read and held at a time, as float32 on the CPU: many images are best given as several
        generators.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel; a first edge of 0 (default) parts off the mean.
    levels : sequence of float
        L of them, in (0, 1).
    window : str, optional
        "hann" tapers the images to their borders before they are split, and so spreads the mean
        into the next band; None (default) keeps them.
    model : object, optional
        What drew the runs, for the recipe's hash of its weights.
    seed : int
        Of the bootstrap.
    groups : sequence or array, optional
        (M,), over all runs in their order, as for `band_effects`.

    Returns
    -------
    Settling
        Correlations, the time of each image, and their median with its interval.

    Raises
    ------
    ValueError
        Without a run or where a run has fewer than two predictions, other times or another size
        than the first, or images that are empty, misshapen or not finite; for levels outside
        (0, 1) or edges that do not rise.

    Examples
    --------
    >>> import torch
    >>> from deco_lab.spectra.settling import settling_times
    >>> final = torch.randn(1, 3, 16, 16)
    >>> noise = torch.randn(1, 3, 16, 16)
    >>> run = [0.0, 0.25, 0.5, 0.75], torch.stack([noise, noise, final, final])
    >>> bool(((0.25 < settling_times(run).settled) & (settling_times(run).settled < 0.5)).all())
    True
    """
    if not all(0 < level < 1 for level in levels) or len(levels) == 0:
        raise ValueError(f"levels must lie between 0 and 1, got {tuple(levels)}; use (0.5, 0.9)")
    check_estimator(window)
    if not runs:
        raise ValueError("runs must be at least one, got none; pass sample_steps(...)")
    times: list[float] = []
    rows = []
    for run in runs:
        found, images = _held(run)
        if times and not np.allclose(found, times, rtol=0, atol=1e-9):
            raise ValueError(
                f"runs must have the same times, got {found} after {times}; "
                "sample them with the same num_steps and time_shift"
            )
        times = found
        rows.append(final_correlation(images, edges, window))
    correlation = np.concatenate(rows)
    settled = settled_at(correlation, np.array(times), levels)

    M, K, L = settled.shape
    numbers = group_numbers(groups, M)
    counted = np.where(np.isnan(settled), 1.0, settled)
    medians = [
        bootstrap(
            lambda i, v=v: float(np.median(v[i])), np.zeros(M, np.int64), groups=numbers, seed=seed
        )
        for v in counted.reshape(M, -1).T
    ]
    value, low, high = (
        np.array([getattr(m, name) for m in medians]).reshape(K, L)
        for name in ("value", "low", "high")
    )
    reached = np.where(value < 1, value, np.nan)
    return Settling(
        times=np.array(times),
        edges=np.array(edges, dtype=np.float64),
        levels=np.array(levels, dtype=np.float64),
        correlation=correlation,
        settled=settled,
        median=Estimate(reached, low.clip(0, 1), high.clip(0, 1), count=M),
        count=M,
        groups=numbers,
        recipe={
            "weights": weights_hash(model),
            "window": window,
            "final": "the last predicted image",
            "groups": count_groups(numbers),
            "interval": f"Student's over groups, 95%, error from 200 resamples of seed {seed}",
        },
    )


def _held(run: Iterable[RunStep] | Predictions) -> tuple[list[float], list[Tensor]]:
    """Return a run's times and predicted images, checked, on the CPU."""
    if isinstance(run, tuple) and len(run) == 2 and not hasattr(run[0], "predicted_image"):
        at, predicted = cast(Predictions, run)
        pairs: Iterable[tuple[float, Tensor]] = zip(at, predicted, strict=True)
    else:
        pairs = predictions(cast(Iterable[RunStep], run))
    times, images = [], []
    for t, given in pairs:
        image = as_tensor(given)
        check_images(image, "a predicted image")
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"predicted images must keep their shape, {tuple(images[0].shape)}, "
                f"got {tuple(image.shape)}; give each run's images as a run of their own"
            )
        if not bool(image.isfinite().all()):
            raise ValueError(
                f"predicted images must be finite, got NaN or infinity at t={t}; "
                "guide less, or take more steps"
            )
        times.append(float(t))
        held = image.detach().cpu()
        images.append(held if held.dtype == torch.float64 else held.float())
    if len(times) < 2 or not all(0 <= t <= 1 for t in times) or sorted(set(times)) != times:
        raise ValueError(
            f"a run must predict images at two or more rising times in [0, 1], got {times}; "
            "begin with the first step of sample_steps"
        )
    return times, images


def final_correlation(
    images: Sequence[Tensor], edges: Sequence[float], window: str | None = None
) -> Array:
    """Return the correlation of each of T predictions, (B, C, H, W), with the last, (B, T, K)."""
    final = images[-1]
    reference = nan_if_empty(band_products(final, final, edges, window).numpy())
    columns = []
    for image in images:
        energy = nan_if_empty(band_products(image, image, edges, window).numpy())
        cross = band_products(image, final, edges, window).numpy()
        columns.append(cross / np.sqrt(energy * reference))
    return np.stack(columns, 1)


def settled_at(correlation: Array, times: Array, levels: Sequence[float]) -> Array:
    """Return when each curve, (M, T, K), is at each level for good, (M, K, L)."""
    M, T, K = correlation.shape
    settled = np.full((M, K, len(levels)), np.nan)
    for m, k, n in np.ndindex(settled.shape):
        curve, level = correlation[m, :, k], levels[n]
        below = np.flatnonzero(~(curve >= level))  # NaN counts as below
        last = below[-1] if len(below) else -1
        if last < 0:
            settled[m, k, n] = times[0]
        elif last < T - 2:
            part = (level - curve[last]) / (curve[last + 1] - curve[last])
            settled[m, k, n] = times[last] + part * (times[last + 1] - times[last])
    return settled
