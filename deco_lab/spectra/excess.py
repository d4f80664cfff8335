"""How far a model's error lies above the least there is, where that is known: by band, over t.

For images of known power S on a torus, such as `deco_lab.data.FieldSampler` draws, Wiener's filter
is the best linear denoiser, and of Gaussian images the best of all. In a band,

    excess = (error of the model - error of Wiener's filter) / E error of Wiener's filter

Both errors are those of the same images with the same noise, which takes most of chance out of
their difference; the last is known in closed form (`posterior_power`). 0 is perfect for Gaussian
images, 1 is twice the error. Of other images, where more than S can be known, it may be below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.arrays import as_tensor
from deco_lab.flow import predicted_image
from deco_lab.gaussian import posterior_power, wiener_filter
from deco_lab.result import Estimate
from deco_lab.spectra.bands import OCTAVES, band_of_frequencies, check_edges
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.frequencies import mirrored
from deco_lab.spectra.states import (
    Array,
    Crops,
    InBands,
    NoisyBatch,
    check_states,
    made_by,
    measured,
    velocity_of,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExcessError(InBands):
    """Errors of the predicted image in K bands at T times, in units of power; t is below 1."""

    excess: Estimate
    """(T, K), (error - wiener) / expected."""
    error: Array
    """(T, K), of the model: mean of |fft2(predicted - image)|^2 / (H W) over a band's frequencies,
    channels and images."""
    wiener: Array
    """(T, K), of Wiener's filter, of the same images and noise."""
    expected: Array
    """(T, K), of Wiener's filter, over all images there could be."""


@torch.no_grad()
def excess_error(
    model: Any, states: Crops, power: Tensor, *, edges: Sequence[float] = OCTAVES
) -> ExcessError:
    """Return how far a model's error lies above Wiener's filter's, for images of one power.

    Parameters
    ----------
    model : callable
        model(x, t, class_ids) -> velocity.
    states : Crops
        M images of zero mean over all there could be, stationary on the torus, below t = 1.
    power : Tensor
        (H, W), S at the frequencies of `torch.fft.fft2`, as `deco_lab.data.field_power` gives it.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, as for `split_bands`.

    Raises
    ------
    ValueError
        As for `Crops`; where power has not the images' size, is not above 0, or t is 1.
    """
    check_states(states, Crops)
    check_edges(edges)
    H, W = states.images.shape[-2:]
    S = as_tensor(power).detach().cpu().double()
    if S.shape != (H, W) or not bool((S > 0).all()):
        raise ValueError(
            f"power must be above 0 at each of the images' frequencies, shape ({H}, {W}), got "
            f"{tuple(S.shape)} from {float(S.min()):g}; use deco_lab.data.field_power"
        )
    if 1 in states.times:
        raise ValueError("times must lie below 1, where no error is left to compare with, got 1")
    half = S[:, : W // 2 + 1]
    weight = mirrored(W).expand(H, -1).double()
    band = band_of_frequencies(H, W, edges)
    member = (band.flatten() == torch.arange(len(edges) + 1)[:, None]) * weight.flatten()
    member /= member.sum(1, keepdim=True)  # (K, frequencies), a mean over each band

    def errors(batch: NoisyBatch) -> Tensor:
        """Return the errors of model and filter, (B, 2, K)."""
        predicted = predicted_image(batch.x, velocity_of(model, batch), batch.time)
        x, ours, true = (
            torch.fft.rfft2(field.cpu().double(), norm="ortho")
            for field in (batch.x, predicted, batch.image)
        )
        best = torch.from_numpy(wiener_filter(half.numpy(), batch.time)) * x
        both = torch.stack([ours - true, best - true], 1)
        return both.abs().square().mean(2).flatten(2) @ member.T

    times, values = measured(model, states, errors)
    least = posterior_power(half.numpy(), times[:, None, None]).reshape(len(times), -1)
    expected = least @ member.T.numpy()
    mean = values.mean(0)
    return ExcessError(
        times=times,
        edges=np.array(edges, dtype=np.float64),
        excess=bootstrap_intervals(
            lambda means: (means[..., 0, :] - means[..., 1, :]) / expected,
            values,
            groups=states.groups,
        ),
        error=mean[:, 0],
        wiener=mean[:, 1],
        expected=expected,
        count=len(values),
        recipe=made_by(
            model,
            states,
            normalisation="mean over the frequencies of a band, channels and images",
        ),
    )
