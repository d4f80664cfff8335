"""Radial power: how the energy of images falls with frequency, whatever the direction.

    P(f) = mean over |k| in ring f of |FFT(w x)(k)|^2 / sum w^2

so that white noise of variance 1 gives 1 in every ring, whatever the size and the window w. The
photographs of this world fall as about 1 / f^2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.frequencies import check_estimator, check_images, ring_frequencies
from deco_lab.spectra.products import ring_products

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class RadialPower:
    """Mean power in rings of equal width."""

    frequency: Tensor
    """(rings,), float64: the rings' centres in cycles per pixel, from 0 to at most 0.5."""
    power: Tensor
    """(rings,), float64: 1 for white noise of variance 1."""


@takes_arrays
def radial_power(
    images: Tensor, window: str | None = None, *, padding: int = 1, average: str = "power"
) -> RadialPower:
    """Return the power of images by radial frequency, averaged over images and channels.

    Rings are 1 / (padding min(H, W)) cycles per pixel wide; frequencies are physical, so images
    that are not square need nothing more. The last ring is the one around Nyquist, 0.5; what lies
    in the corners beyond is left out.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range.
    window : str, optional
        "hann" tapers each image to its borders, which removes the cross that opposite borders
        which do not match draw into the spectrum. It also spreads a wave over its neighbours, and
        the mean into ring 1: subtract the mean first where that matters. None (default) keeps the
        pixels as they are, and Parseval exact.
    padding : int
        How many times larger each side becomes by zeros, at least 1: finer rings, no finer
        resolution.
    average : str
        Over images. "power" (default): the mean, which the strongest images decide. "log": the
        geometric mean, at which each image has the same say; lower, for white noise by about
        1 / (values in the ring) of itself.

    Returns
    -------
    RadialPower
        Frequencies in cycles per pixel and power, float64, on the CPU.

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W) or empty, or for an unknown window, padding or average.
    """
    check_images(images)
    check_estimator(window, padding, average)
    each = torch.cat([ring_products(some, some, window, padding) for some in images.split(_BATCH)])
    power = each.mean(0) if average == "power" else each.log().mean(0).exp()
    H, W = images.shape[-2:]
    return RadialPower(frequency=ring_frequencies(padding * H, padding * W), power=power)
