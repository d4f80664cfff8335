"""Radial power: how the energy of images falls with frequency, whatever the direction.

    P(f) = mean over |k| in ring f of |FFT(w x)(k)|^2 / sum w^2

so that white noise of variance 1 gives 1 in every ring, whatever the size and the window. The
photographs of this world fall as about 1 / f^2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RadialPower:
    """Mean power in rings of equal width."""

    frequency: Tensor
    """(rings,), float64: the rings' centres in cycles per pixel, from 0 to at most 0.5."""
    power: Tensor
    """(rings,), float64: 1 for white noise of variance 1."""


def radial_frequency(height: int, width: int, *, half: bool = False) -> Tensor:
    """Return |k| of each FFT coefficient in cycles per pixel, (H, W), float64.

    With `half`, (H, W // 2 + 1): the columns that rfft2 keeps. Corners reach sqrt(0.5).
    """
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(width, dtype=torch.float64)
    return torch.hypot(vertical[:, None], horizontal)


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError where `images` is not a batch that holds pixels."""
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"{name} must have shape (B, C, H, W) and hold pixels, got {tuple(images.shape)}; "
            "add the missing axes"
        )


def radial_power(images: Tensor, window: str | None = None) -> RadialPower:
    """Return the power of images by radial frequency, averaged over images and channels.

    Rings are 1 / min(H, W) cycles per pixel wide, so a square image's ring k gathers the waves of
    about k cycles per image; frequencies are physical, so images that are not square need nothing
    more. The last ring is the one around Nyquist, 0.5; what lies in the corners beyond is left
    out.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range.
    window : str, optional
        "hann" tapers each image to its borders, which removes the cross that opposite borders
        which do not match draw into the spectrum. It also spreads a wave over its neighbours, and
        the mean into ring 1: subtract the mean first where that matters. None (default) keeps the
        pixels as they are, and Parseval exact.

    Returns
    -------
    RadialPower
        Frequencies in cycles per pixel and power, float64, on the CPU.

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W) or empty, or for an unknown window.
    """
    check_images(images)
    if window not in (None, "hann"):
        raise ValueError(f'window must be None or "hann", got {window!r}')
    H, W = images.shape[-2:]
    pixels = images.detach().cpu().double()
    normalisation = float(H * W)
    if window == "hann":
        vertical = torch.hann_window(H, dtype=torch.float64)
        taper = vertical[:, None] * torch.hann_window(W, dtype=torch.float64)
        pixels = pixels * taper
        normalisation = taper.square().sum()
    power = torch.fft.fft2(pixels).abs().square().mean((0, 1)) / normalisation

    side = min(H, W)
    ring = (radial_frequency(H, W) * side + 0.5).floor().long()
    rings = side // 2 + 1
    inside = ring < rings
    total = torch.zeros(rings, dtype=torch.float64).index_add_(0, ring[inside], power[inside])
    count = ring[inside].bincount(minlength=rings)
    return RadialPower(
        frequency=torch.arange(rings, dtype=torch.float64) / side, power=total / count
    )
