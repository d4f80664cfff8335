"""What guidance adds, band by band and over t, and how much of it repeats what is there.

    added = cond - uncond

is what plain guidance multiplies. In each band of radial frequency and at each t, over all images:

    power        = mean |added(k)|^2 over the band        1 for white noise of variance 1
    image_cosine = sum <added, D> / sqrt(sum |added|^2 sum |D|^2),        D = x + (1 - t) cond
    cosine       = sum <added, uncond> / sqrt(sum |added|^2 sum |uncond|^2)

The first cosine asks what guidance does to the picture: near 1 it makes stronger what the class
draws already, near 0 it draws something else. The second is no finding but a test: over the classes
that x may be of, a perfect model's cond averages to uncond, so on re-noised crops E[added | x] = 0
and it has the cosine 0 with uncond, as with all that follows from x. What is measured beyond
`chance` there says how far the two are from being calibrated to each other.

Re-noised crops ask what guidance adds on the path the model was trained on, a sampling run what it
adds on its own states, which may have left that path; the test holds for crops alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.flow import predicted_image
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bands import OCTAVES, bands_of
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals, bootstrap_log_intervals
from deco_lab.spectra.frequencies import check_estimator, radial_frequency
from deco_lab.spectra.products import band_products, nan_if_empty
from deco_lab.spectra.states import (
    Batch,
    Run,
    State,
    States,
    check_batch_size,
    check_crops,
    measured,
    velocity_of,
)

Array = NDArray[np.float64]
Model = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidanceSpectrum(Analysis):
    """cond - uncond in K bands at T times, of M images, with 95% intervals."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    power: Array
    """(T, K), mean power of cond - uncond per coefficient: 1 for white noise of variance 1."""
    power_low: Array
    """(T, K), lower ends of the intervals; NaN for a single image, as are all ends."""
    power_high: Array
    """(T, K), upper ends."""
    uncond_power: Array
    """(T, K), mean power of uncond, to compare."""
    image_cosine: Array
    """(T, K), in [-1, 1], of cond - uncond with cond's predicted image; NaN where a band is
    empty."""
    image_cosine_low: Array
    """(T, K), lower ends."""
    image_cosine_high: Array
    """(T, K), upper ends."""
    cosine: Array
    """(T, K), of cond - uncond with uncond: 0, within `chance`, for a calibrated model's crops."""
    cosine_low: Array
    """(T, K), lower ends."""
    cosine_high: Array
    """(T, K), upper ends."""
    fraction: Array
    """(K,), of all coefficients that a band holds: power * fraction is energy, and the bands'
    energies sum to the mean square."""
    chance: Array
    """(K,), mean squared cosine of white noises that have nothing in common,
    1 / (3 H W M fraction)."""
    count: int
    """M, images."""


@takes_arrays
@torch.no_grad()
def guidance_spectrum(
    model: Model,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    edges: Sequence[float] = OCTAVES,
    window: str | None = None,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> GuidanceSpectrum:
    """Return the spectrum of what guidance adds over t, for real crops with noise.

    Costs two network passes for each image and time.

    Parameters
    ----------
    model : callable
        (x, t, class_ids) -> velocity, with the null class `model.config.num_classes`.
    images : Tensor
        (M, C, H, W), in [-1, 1], of any floating-point type; computed with in float32 or float64.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        Image i has the noise of seed + i at every t.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    window : str, optional
        "hann" tapers the velocities to the images' borders before they are split into bands;
        None (default) keeps them.
    batch_size : int
        Images on the device at once; the passes hold twice as many.
    groups : sequence or array, optional
        As for `band_effects`.

    Returns
    -------
    GuidanceSpectrum
        Powers and cosines with bootstrap intervals over images.

    Raises
    ------
    ValueError
        For a model without a null class, images that are empty, misshapen or not finite, labels or
        times out of range, or edges that do not rise.
    """
    null_class = _null_class(model)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    return _spectrum(model, crops, null_class, edges, window)


@torch.no_grad()
def run_guidance_spectrum(
    model: Model,
    steps: Iterable[State],
    class_ids: Tensor | Sequence[int],
    *,
    edges: Sequence[float] = OCTAVES,
    window: str | None = None,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> GuidanceSpectrum:
    """Return the spectrum of what guidance adds at the states of a sampling run.

    Both velocities are computed anew at each state, also where the run took no guidance. The state
    at t = 1, where nothing is left to draw, is passed over.

    Parameters
    ----------
    model, edges, window, batch_size, groups
        As for `guidance_spectrum`.
    steps : iterable of objects with t and x
        Such as `sample_steps` yields: x (M, C, H, W), the same M images at each t. It is read step
        by step, and no step is kept.
    class_ids : Tensor or sequence of int
        (M,), labels of the run.

    Returns
    -------
    GuidanceSpectrum
        Times are those of the states.

    Raises
    ------
    ValueError
        As for `guidance_spectrum`; where no state lies below t = 1, or a state is not finite.
    """
    null_class = _null_class(model)
    check_batch_size(batch_size)
    run = Run(steps, class_ids, model, batch_size, groups)
    return _spectrum(model, run, null_class, edges, window)


def _null_class(model: Any) -> int:
    null_class = getattr(getattr(model, "config", None), "num_classes", None)
    if null_class is None:
        raise ValueError(
            "model must have a null class, model.config.num_classes, "
            f"which a {type(model).__name__} has not; pass a class-conditional model"
        )
    return null_class


def _products(
    model: Model, batch: Batch, null_class: int, edges: Sequence[float], window: str | None
) -> Tensor:
    """Return |added|^2 in each band, and of D and uncond |it|^2 and <added, it>, (B, 5, K)."""
    x, t, class_ids = batch.x, batch.t, batch.class_ids
    labels = torch.cat([class_ids, torch.full_like(class_ids, null_class)])
    pair = replace(batch, x=torch.cat([x, x]), t=torch.cat([t, t]), class_ids=labels)
    cond, uncond = velocity_of(model, pair).cpu().double().chunk(2)
    added = cond - uncond
    energy = band_products(added, added, edges, window)
    image = predicted_image(batch.x.cpu().double(), cond, batch.time)
    pairs = [band_products(torch.stack([v, added]), v, edges, window) for v in (image, uncond)]
    return torch.stack([energy, *pairs[0], *pairs[1]], 1)


def _spectrum(
    model: Any,
    states: States,
    null_class: int,
    edges: Sequence[float],
    window: str | None,
) -> GuidanceSpectrum:
    """Return the analysis of all states."""
    check_estimator(window)
    shape = torch.Size()

    def products(batch: Batch) -> Tensor:
        nonlocal shape
        shape = batch.x.shape[1:]
        return _products(model, batch, null_class, edges, window)

    times, values = measured(states, products)
    C, H, W = shape
    band = bands_of(radial_frequency(H, W), edges)
    fraction = (band.flatten().bincount(minlength=len(edges) + 1) / (H * W)).double().numpy()
    power = bootstrap_log_intervals(
        lambda means: means[..., 0, :] / fraction, values, groups=states.groups
    )
    cosines = bootstrap_intervals(_cosines, values, groups=states.groups, within=(-1, 1))
    (image, image_low, image_high), (cosine, low, high) = (
        [end[:, which] for end in cosines] for which in (0, 1)
    )
    return GuidanceSpectrum(
        times=np.array(times),
        edges=np.array(edges, dtype=np.float64),
        power=power.value,
        power_low=power.low,
        power_high=power.high,
        uncond_power=values[:, :, 3].mean(0) / fraction,
        image_cosine=image,
        image_cosine_low=image_low,
        image_cosine_high=image_high,
        cosine=cosine,
        cosine_low=low,
        cosine_high=high,
        fraction=fraction,
        chance=1 / (C * H * W * len(values) * fraction),
        count=len(values),
        recipe=states.recipe()
        | {
            "weights": weights_hash(model),
            "window": window,
            "added": "cond - uncond, unguided velocities",
            "normalisation": "power per coefficient, 1 for white noise of variance 1; cosine of "
            "sums over images, channels and the band",
            "interval": f"{RECIPE}; of powers, of the logarithm",
        },
    )


def _cosines(means: Array) -> Array:
    """Return the cosines with image and uncond, (..., 2, K), of mean products, (..., 5, K)."""
    energy, others, inner = means[..., :1, :], means[..., 1::2, :], means[..., 2::2, :]
    return inner / np.sqrt(nan_if_empty(energy) * nan_if_empty(others))
