"""Inner products of images by frequency, image by image: what averages over images are made of.

    band_products:  <w a, band_k(w b)> / (C sum w^2)                 sum over k to a mean of a b
    ring_products:  mean over |k| in ring f of Re A(k) B(k)* / sum w^2,    A = FFT(w a)

The coefficients of real images at k and -k are each other's conjugates, so over a band or a ring
the imaginary parts cancel and nothing is lost. One value stays for each image, so that images can
be drawn again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.spectra.bands import EMPTY, OCTAVES, band_of_frequencies, check_edges, split_bands
from deco_lab.spectra.frequencies import mirrored, ring_counts, ring_of_frequencies, taper


def band_products(
    parts: Tensor, whole: Tensor, edges: Sequence[float] = OCTAVES, window: str | None = None
) -> Tensor:
    """Return each image's inner product of parts and whole in each band.

    Parameters
    ----------
    parts : Tensor
        (..., B, C, H, W).
    whole : Tensor
        (B, C, H, W).
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, as for `split_bands`.
    window : str, optional
        "hann" tapers the images to their borders before they are split; None keeps them.

    Returns
    -------
    Tensor
        (..., B, K), float64, on the CPU: mean product per pixel and channel, so the energies
        (parts = whole) of all bands sum to the mean square, weighted by w^2 under a window.

    Raises
    ------
    ValueError
        As for `split_bands`.
    """
    C, H, W = whole.shape[-3:]
    w = taper(H, W, window)
    bands = split_bands(whole.detach().cpu().double() * w, edges)
    products = torch.einsum("...bchw,kbchw->...bk", parts.detach().cpu().double() * w, bands)
    return products / (C * float(w.square().sum()))


def band_sums(products: Tensor, width: int, edges: Sequence[float] = OCTAVES) -> Tensor:
    """Return products at each frequency summed in each band.

    Parameters
    ----------
    products : Tensor
        (..., H, width // 2 + 1), such as Re A B* of coefficients that rfft2 keeps.
    width : int
        W, of the images, in pixels.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, as for `split_bands`.

    Returns
    -------
    Tensor
        (..., K), float64, on the CPU: over all bands they sum to the products of the pixels.

    Raises
    ------
    ValueError
        Where the edges do not rise within range.
    """
    check_edges(edges)
    H = products.shape[-2]
    weighted = products.detach().cpu().double() * (mirrored(width) / (H * width))
    sums = torch.zeros(*products.shape[:-2], len(edges) + 1, dtype=torch.float64)
    return sums.index_add_(-1, band_of_frequencies(H, width, edges).flatten(), weighted.flatten(-2))


def ring_products(
    parts: Tensor, whole: Tensor, window: str | None = None, padding: int = 1
) -> Tensor:
    """Return each image's mean product of parts and whole in each ring of radial frequency.

    Parameters
    ----------
    parts : Tensor
        (..., B, C, H, W).
    whole : Tensor
        (B, C, H, W).
    window, padding
        As for `radial_power`.

    Returns
    -------
    Tensor
        (..., B, R), float64, on the CPU. With parts = whole the mean over images is
        `radial_power(whole).power`; white noise of variance 1 gives 1.
    """
    H, W = whole.shape[-2:]
    w, size = taper(H, W, window), (padding * H, padding * W)
    ours, theirs = (torch.fft.rfft2(x.detach().cpu().double() * w, s=size) for x in (parts, whole))
    products = (ours * theirs.conj()).real.mean(-3) * mirrored(size[1]) / w.square().sum()
    ring, counts = ring_of_frequencies(*size), ring_counts(*size)
    inside = ring < len(counts)
    sums = torch.zeros(*products.shape[:-2], len(counts), dtype=torch.float64)
    return sums.index_add_(-1, ring[inside], products[..., inside]) / counts


def nan_if_empty(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return energies by band, (..., K), with NaN for bands that hold but rounding."""
    return np.where(energy > EMPTY * energy.sum(-1, keepdims=True), energy, np.nan)
