"""Inner products of images by frequency, image by image: what averages over images are made of.

    band_products:  <a, band_k(b)> / (C H W)                     sums over k to the mean of a b
    ring_products:  mean over |k| in ring f of Re A(k) B(k)* / sum w^2,    A = FFT(w a)

The coefficients of real images at k and -k are each other's conjugates, so over a band or a ring
the imaginary parts cancel and nothing is lost. One value stays for each image, so that images can
be drawn anew.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deco_lab.spectra.bands import OCTAVES, split_bands
from deco_lab.spectra.radial import radial_frequency

WINDOWS = (None, "hann")


def check_window(window: str | None) -> None:
    """Raise ValueError for an unknown window."""
    if window not in WINDOWS:
        raise ValueError(f'window must be None or "hann", got {window!r}')


def band_products(parts: Tensor, whole: Tensor, edges: Sequence[float] = OCTAVES) -> Tensor:
    """Return each image's inner product of parts and whole in each octave band.

    Parameters
    ----------
    parts : Tensor
        (..., B, C, H, W).
    whole : Tensor
        (B, C, H, W).
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, as for `split_bands`.

    Returns
    -------
    Tensor
        (..., B, K), float64, on the CPU: mean product per pixel and channel, so the energies
        (parts = whole) of all bands sum to the mean square.

    Raises
    ------
    ValueError
        As for `split_bands`.
    """
    bands = split_bands(whole.detach().cpu().double(), edges)
    products = torch.einsum("...bchw,kbchw->...bk", parts.detach().cpu().double(), bands)
    return products / whole[0].numel()


def ring_of_frequencies(height: int, width: int) -> Tensor:
    """Return the ring of each coefficient that rfft2 keeps, (H, W // 2 + 1), as `radial_power`.

    Rings are 1 / min(H, W) wide; those from min(H, W) // 2 + 1 up lie beyond Nyquist.
    """
    side = min(height, width)
    return (radial_frequency(height, width, half=True) * side + 0.5).floor().long()


def _copies(width: int) -> Tensor:
    """Return how many coefficients of the full FFT each column of rfft2 stands for, (W//2+1,)."""
    copies = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    copies[0] = 1
    if width % 2 == 0:
        copies[-1] = 1
    return copies


def ring_frequencies(height: int, width: int) -> Tensor:
    """Return the rings' centres in cycles per pixel, (R,), float64."""
    side = min(height, width)
    return torch.arange(side // 2 + 1, dtype=torch.float64) / side


def ring_counts(height: int, width: int) -> Tensor:
    """Return how many coefficients of the full FFT each ring holds, (R,), float64."""
    ring = ring_of_frequencies(height, width)
    rings = min(height, width) // 2 + 1
    weights = _copies(width).expand(ring.shape)
    inside = ring < rings
    return torch.zeros(rings, dtype=torch.float64).index_add_(0, ring[inside], weights[inside])


def ring_products(parts: Tensor, whole: Tensor, window: str | None = None) -> Tensor:
    """Return each image's mean product of parts and whole in each ring of radial frequency.

    Parameters
    ----------
    parts : Tensor
        (..., B, C, H, W).
    whole : Tensor
        (B, C, H, W).
    window : str, optional
        "hann" tapers the images to their borders, as for `radial_power`; None keeps them.

    Returns
    -------
    Tensor
        (..., B, R), float64, on the CPU. With parts = whole the mean over images is
        `radial_power(whole).power`; white noise of variance 1 gives 1.

    Raises
    ------
    ValueError
        For an unknown window.
    """
    check_window(window)
    H, W = whole.shape[-2:]
    taper = torch.ones(H, W, dtype=torch.float64)
    if window == "hann":
        taper = torch.hann_window(H, dtype=torch.float64)[:, None] * torch.hann_window(
            W, dtype=torch.float64
        )
    ours, theirs = (torch.fft.rfft2(x.detach().cpu().double() * taper) for x in (parts, whole))
    products = (ours * theirs.conj()).real.mean(-3) * _copies(W) / taper.square().sum()
    ring, counts = ring_of_frequencies(H, W), ring_counts(H, W)
    inside = ring < len(counts)
    sums = torch.zeros(*products.shape[:-2], len(counts), dtype=torch.float64)
    return sums.index_add_(-1, ring[inside], products[..., inside]) / counts
