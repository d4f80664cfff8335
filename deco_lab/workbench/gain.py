"""How far the predicted image moves with the pixel decoder's two inputs, by band and by pixel.

With D(p, s) = p + (1 - t) g(p, s), g the decoder, each input is scaled a little about its rest, and
the answer is compared with D itself:

    pixels_k    = |band_k(d/de D((1 + e) x_t, s))|             / |band_k(D)|    at e = 0
    condition_k = |band_k(d/de D(x_t, s + e (s - mean(s))))|   / |band_k(D)|    at e = 0

so 0.5 says that 1% more contrast in the input moves that band of D by 0.5% of itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.spectra import MEAN_AND_OCTAVES, pixel_jacobian, split_bands
from deco_lab.spectra.jacobian import directional_derivative, gain_of
from deco_lab.workbench.pictures import PackedImages, plain, to_pictures


@dataclass(frozen=True)
class Gain:
    """How far the predicted image moves with the decoder's two inputs."""

    pixels: list[float | None]
    """By band: relative answer to more contrast in the noisy pixels."""
    condition: list[float | None]
    """By band: relative answer to more contrast between the condition's tokens."""
    gain: float | None = None
    """Mean over pixels of Frobenius(J) / sqrt(3), J the 3 x 3 Jacobian of a predicted pixel by that
    noisy pixel; None if the decoder is not pointwise."""
    slope: float | None = None
    """Mean of trace(J) / 3: 0 where the picture does not depend on the pixel."""
    pictures: PackedImages | None = None
    """The gain at each pixel, from `lowest`, black, to `largest`, white."""
    lowest: float | None = None
    largest: float | None = None


def input_gain(
    model: Any, x: Tensor, condition: Tensor, predicted: Tensor, t: float
) -> tuple[Gain, int]:
    """Return the gain and how many derivatives it took.

    Parameters
    ----------
    model : object
        A `DeCo`, asked only for `decode`.
    x : Tensor
        (1, 3, S, S), the noisy image at t.
    condition : Tensor
        (1, N, D), the DiT's at x.
    predicted : Tensor
        (1, 3, S, S), D at x.
    t : float
        In [0, 1).
    """
    energy = _band_energy(predicted)

    def answer(towards_pixels: Tensor, towards_condition: Tensor) -> list[float | None]:
        tangents = (towards_pixels, towards_condition)
        moved = directional_derivative(model.decode, (x, condition), tangents)
        return plain((_band_energy(towards_pixels + (1 - t) * moved) / energy).sqrt())

    by_pixels = answer(x, torch.zeros_like(condition))
    by_condition = answer(torch.zeros_like(x), condition - condition.mean(1, keepdim=True))
    if getattr(model.config, "decoder_patch", 1) > 1:
        return Gain(by_pixels, by_condition), 2
    jacobian = torch.eye(3).to(x) + (1 - t) * pixel_jacobian(model, x, condition).float()
    gains = gain_of(jacobian)
    slopes = jacobian.diagonal(dim1=-2, dim2=-1)
    # What black and white stand for: few values lie beyond.
    low, high = (float(f"{v:.3g}") for v in np.percentile(gains.cpu().numpy(), (0.5, 99.5)))
    high = high if high > low else low + 1
    pictures = to_pictures(gains[:, None], low, high)
    gain, slope = plain(gains.mean()), plain(slopes.mean())
    return Gain(by_pixels, by_condition, gain, slope, pictures, low, high), 6


def _band_energy(images: Tensor) -> Tensor:
    return split_bands(images.float(), MEAN_AND_OCTAVES).cpu().double().square().sum((1, 2, 3, 4))
