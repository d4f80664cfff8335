"""Detail apart from noise: spectra of what a model predicts, of its error, and of its velocity.

    predicted image  x_t + (1 - t) velocity          error  predicted image - image

at given t, in rings of radial frequency, beside what the best linear filter of each class would
show (`gaussian`): with S the C x C matrix of the class's cross-spectra of colours in a ring, and
N = t^2 S + (1 - t)^2 I that of x_t,

    predicted image  t^2 tr(S N^-1 S) / C        error  (1 - t)^2 tr(S N^-1) / C
    velocity         tr(G N G) / C               G = (t S - (1 - t) I) N^-1

which are sums over the eigenvalues of S. It knows the class, the colours that
go together and the power of every frequency. The velocity's target is image - noise, so most of its
power at high frequencies is copied noise: read the predicted image and its error first. S is the
crops' own, a mean over directions with the images' mean left in: of a class with few images, the
lowest rings know too much of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.gaussian import (
    meeting_frequency,
    noisy_power,
    posterior_power,
    velocity_gain,
    wiener_filter,
)
from deco_lab.result import Estimate
from deco_lab.spectra.bootstrap import RECIPE, bootstrap_log_intervals, log_of
from deco_lab.spectra.frequencies import check_estimator, ring_frequencies
from deco_lab.spectra.products import ring_products
from deco_lab.spectra.states import (
    Array,
    Crops,
    NoisyBatch,
    OverTime,
    check_states,
    made_by,
    measured,
    velocity_of,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DetailSpectra(OverTime):
    """Power in R rings at T times, over M images; 1 is white noise of variance 1."""

    frequency: Array
    """(R,), the rings' centres in cycles per pixel, 0 to 0.5."""
    power: Estimate
    """(R,), S, of the true images."""
    predicted: Estimate
    """(T, R), power of the predicted image."""
    error: Estimate
    """(T, R), power of predicted image - image."""
    velocity: Estimate
    """(T, R), power of the velocity."""
    gaussian_predicted: Array
    """(T, R), what the best linear filter of each image's class predicts."""
    gaussian_error: Array
    """(T, R), the power of its error."""
    gaussian_velocity: Array
    """(T, R), the power of its velocity."""
    meeting: Array
    """(T,), cycles per pixel, where t^2 S = (1 - t)^2; NaN when never."""


@torch.no_grad()
def detail_spectra(
    model: Any,
    states: Crops,
    *,
    window: str | None = None,
    padding: int = 1,
    average: str = "power",
) -> DetailSpectra:
    """Return the spectra of predicted image, error and velocity.

    Parameters
    ----------
    model : callable
        `model(x, t, class_ids)` returns the velocity, (B, C, H, W); it needs no decoder.
    states : Crops
        M images.
    window : str, optional
        "hann" tapers the images to their borders, without which an edge that two opposite borders
        make draws a floor that falls as 1 / f^2; it spreads the mean into ring 1. None (default)
        keeps Parseval exact.
    padding : int
        How many times larger each side becomes by zeros, as for `radial_power`.
    average : str
        Over images: "power" (default), the mean, or "log", the geometric mean; the filters' curves
        are averaged alike.

    Raises
    ------
    ValueError
        As for `Crops`, for an unknown window, padding or average, or a velocity that has not the
        shape of x.
    """
    check_states(states, Crops)
    estimator = check_estimator(window, padding, average)

    def powers(batch: NoisyBatch) -> Tensor:
        velocity = velocity_of(model, batch)
        predicted = predicted_image(batch.x, velocity, batch.time)
        fields = (predicted, predicted - batch.image, velocity, batch.image)
        return torch.stack([ring_products(f, f, window, padding) for f in fields], 1)

    times, values = measured(model, states, powers)
    if average == "log":
        band = bootstrap_log_intervals(np.exp, log_of(values), groups=states.groups)
    else:
        band = bootstrap_log_intervals(lambda means: means, values, groups=states.groups)
    power = band[0, 3]  # the images are the same at every t
    H, W = states.images.shape[-2:]
    frequency = ring_frequencies(padding * H, padding * W).numpy()
    powers_of = _class_powers(states, window, padding)  # (M, 1, R, C)

    def best(curve: Callable[[Array, Array], Array]) -> Array:
        """Return a curve of each image's class, (T, R), a mean over colours and over images."""
        each = np.nan_to_num(curve(powers_of, times[:, None, None])).mean(-1)
        return each.mean(0) if average == "power" else np.exp(log_of(each).mean(0))

    return DetailSpectra(
        times=times,
        frequency=frequency,
        power=power,
        predicted=band[:, 0],
        error=band[:, 1],
        velocity=band[:, 2],
        gaussian_predicted=best(lambda S, t: wiener_filter(S, t) ** 2 * noisy_power(S, t)),
        gaussian_error=best(posterior_power),
        gaussian_velocity=best(lambda S, t: velocity_gain(S, t) ** 2 * noisy_power(S, t)),
        meeting=np.array([meeting_frequency(frequency, power.value, time) for time in times]),
        count=len(values),
        recipe=made_by(
            model,
            states,
            **estimator,
            normalisation="mean over coefficients and channels; white noise of variance 1 is 1",
            interval=f"{RECIPE}, of the logarithm",
        ),
    )


def _class_powers(crops: Crops, window: str | None, padding: int) -> Array:
    """Return the eigenvalues of the class's cross-spectra by ring for each image, (M, 1, R, C)."""
    products = []
    for images in crops.images.split(crops.batch_size):
        channels = images.transpose(0, 1)[:, :, None]
        rows = [ring_products(channels, b, window, padding) for b in channels]
        products.append(torch.stack(rows).permute(2, 3, 0, 1))  # (B, R, C, C)
    spectra, labels = torch.cat(products), crops.labels_for().kinds
    for label in labels.unique():
        spectra[labels == label] = spectra[labels == label].mean(0)
    return torch.linalg.eigvalsh(spectra).clamp(min=0)[:, None].numpy()
