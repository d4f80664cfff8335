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
adds on its own states, which may have left that path; the test holds only for crops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.labels import Labels, check_null
from deco_lab.result import Estimate
from deco_lab.spectra.bands import OCTAVES, bands_of
from deco_lab.spectra.bootstrap import RECIPE, bootstrap_intervals, bootstrap_log_intervals
from deco_lab.spectra.frequencies import check_estimator, radial_frequency
from deco_lab.spectra.products import band_products, nan_if_empty
from deco_lab.spectra.states import (
    Array,
    Batch,
    InBands,
    States,
    check_states,
    made_by,
    measured,
    velocity_of,
)

Model = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidanceSpectrum(InBands):
    """cond - uncond in K bands at T times, of M images."""

    power: Estimate
    """(T, K), mean power of cond - uncond per coefficient: 1 for white noise of variance 1."""
    uncond_power: Array
    """(T, K), mean power of uncond, to compare."""
    image_cosine: Estimate
    """(T, K), in [-1, 1], of cond - uncond with cond's predicted image; NaN where a band is
    empty."""
    cosine: Estimate
    """(T, K), of cond - uncond with uncond: 0, within `chance`, for a calibrated model's crops."""
    fraction: Array
    """(K,), of all coefficients that a band holds: power * fraction is energy, and the bands'
    energies sum to the mean square."""
    chance: Array
    """(K,), mean squared cosine of white noises that have nothing in common,
    1 / (3 H W M fraction)."""


@torch.no_grad()
def guidance_spectrum(
    model: Model,
    states: States,
    *,
    edges: Sequence[float] = OCTAVES,
    window: str | None = None,
) -> GuidanceSpectrum:
    """Return the spectrum of what guidance adds over t.

    Costs two network passes for each image and time, in batches of twice as many rows. Both
    velocities of a run's states are computed again, also where the run took no guidance.

    Parameters
    ----------
    model : callable
        (x, t, class_ids) -> velocity, with the null class `model.config.num_classes`.
    states : Crops or Run
        M images.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    window : str, optional
        "hann" tapers the velocities to the images' borders before they are split into bands;
        None (default) keeps them.

    Raises
    ------
    ValueError
        For a model without a null class, edges that do not rise, or as for `Crops` and `Run`.
    """
    check_states(states)
    check_estimator(window)
    shape = torch.Size()

    def products(batch: Batch) -> Tensor:
        nonlocal shape
        shape = batch.x.shape[1:]
        return _products(model, batch, edges, window)

    times, values = measured(model, states, products)
    C, H, W = shape
    band = bands_of(radial_frequency(H, W), edges)
    fraction = (band.flatten().bincount(minlength=len(edges) + 1) / (H * W)).double().numpy()
    cosines = bootstrap_intervals(_cosines, values, groups=states.groups, within=(-1, 1))
    return GuidanceSpectrum(
        times=times,
        edges=np.array(edges, dtype=np.float64),
        power=bootstrap_log_intervals(
            lambda means: means[..., 0, :] / fraction, values, groups=states.groups
        ),
        uncond_power=values[:, :, 3].mean(0) / fraction,
        image_cosine=cosines[:, 0],
        cosine=cosines[:, 1],
        fraction=fraction,
        chance=1 / (C * H * W * len(values) * fraction),
        count=len(values),
        recipe=made_by(
            model,
            states,
            window=window,
            added="cond - uncond, unguided velocities",
            normalisation="power per coefficient, 1 for white noise of variance 1; cosine of sums "
            "over images, channels and the band",
            interval=f"{RECIPE}; of powers, of the logarithm",
        ),
    )


def _products(model: Model, batch: Batch, edges: Sequence[float], window: str | None) -> Tensor:
    """Return |added|^2 in each band, and of D and uncond |it|^2 and <added, it>, (B, 5, K)."""
    x, t = batch.x, batch.t
    check_null(batch.labels, model)
    both = Labels(batch.labels.both)
    pair = replace(batch, x=torch.cat([x, x]), t=torch.cat([t, t]), labels=both)
    cond, uncond = velocity_of(model, pair).cpu().double().chunk(2)
    added = cond - uncond
    energy = band_products(added, added, edges, window)
    image = predicted_image(batch.x.cpu().double(), cond, batch.time)
    pairs = [band_products(torch.stack([v, added]), v, edges, window) for v in (image, uncond)]
    return torch.stack([energy, *pairs[0], *pairs[1]], 1)


def _cosines(means: Array) -> Array:
    """Return the cosines with image and uncond, (..., 2, K), of mean products, (..., 5, K)."""
    energy, others, inner = means[..., :1, :], means[..., 1::2, :], means[..., 2::2, :]
    return inner / np.sqrt(nan_if_empty(energy) * nan_if_empty(others))
