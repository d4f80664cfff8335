"""Bands of radial frequency: an image as a sum of orthogonal parts, and who supplied each band.

    band_k = FFT^-1( FFT(x) where e_k <= |f| < e_{k+1} ),      sum_k band_k = x

The energies of parts do not add, for parts may cancel or repeat each other. Their shares do:

    share_k(part) = <part, band_k(whole)> / <whole, band_k(whole)>

is linear in the part, so the shares of parts that sum to the whole sum to 1 in every band.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.frequencies import check_images, mirrored, radial_frequency

OCTAVES = (1 / 16, 1 / 8, 1 / 4)
"""Edges of four bands in cycles per pixel: the octaves below Nyquist, and all that is lower."""

MEAN_AND_OCTAVES = (0.0, *OCTAVES)
"""Edges of five bands: the channels' means, which outweigh all waves below 1/16, and the rest."""

EMPTY = 1e-12
"""A band below this part of the whole's energy holds nothing but rounding of float32 pixels."""


def check_edges(edges: Sequence[float]) -> None:
    """Raise ValueError for edges that do not rise, or lie where no frequency is."""
    rising = all(a < b for a, b in pairwise(edges))
    if not rising or not all(0 <= edge < 0.5**0.5 for edge in edges):
        raise ValueError(
            "edges must rise and lie between 0 and sqrt(0.5) = 0.707 cycles per pixel, "
            f"got {tuple(edges)}; divide cycles per image by the image's side"
        )


def band_names(edges: Sequence[float]) -> list[str]:
    """Return what to call the bands between edges in cycles per pixel, such as "1/8 to 1/4".

    An edge at 0 cuts off the "mean".
    """
    if edges and edges[0] == 0:
        return ["mean", *(band_names(edges[1:]) if len(edges) > 1 else ["all but the mean"])]
    said = [str(Fraction(edge).limit_denominator(512)) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(said)]
    return [f"below {said[0]}", *between, f"above {said[-1]}"] if said else ["all"]


def bands_of(frequency: Tensor, edges: Sequence[float]) -> Tensor:
    """Return the number of the band of each frequency, as `split_bands` has them."""
    boundaries = torch.tensor(edges, dtype=torch.float64)
    return torch.bucketize(frequency, boundaries, right=True) * (frequency > 0)


def band_of_frequencies(height: int, width: int, edges: Sequence[float]) -> Tensor:
    """Return the number of the band of each coefficient that rfft2 keeps, (H, W // 2 + 1)."""
    return bands_of(radial_frequency(height, width, half=True), edges)


@takes_arrays
def split_bands(images: Tensor, edges: Sequence[float] = OCTAVES) -> Tensor:
    """Return the images' orthogonal bands of radial frequency, which sum to the images.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel. A frequency that equals an edge is in the band
        above it; the first band holds the mean, and nothing else where the first edge is 0; the
        last holds the corners up to sqrt(0.5).

    Returns
    -------
    Tensor
        (K, B, C, H, W), lowest band first; float64 for float64 images and float32 for all others.

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W) or empty, or the edges do not rise within range.
    """
    check_images(images)
    check_edges(edges)
    H, W = images.shape[-2:]
    pixels = images if images.dtype == torch.float64 else images.float()
    kept = torch.fft.rfft2(pixels) * _masks_on(H, W, tuple(edges), images.device)
    return torch.fft.irfft2(kept, s=(H, W))


@lru_cache(maxsize=16)
def _masks_on(height: int, width: int, edges: tuple[float, ...], device: torch.device) -> Tensor:
    """Return which coefficients that rfft2 keeps are in each band, (K, 1, 1, H, W // 2 + 1)."""
    with torch.inference_mode(False):
        band = band_of_frequencies(height, width, edges)
        masks = band == torch.arange(len(edges) + 1)[:, None, None]
        return masks[:, None, None].to(device)


@takes_arrays
def band_shares(part: Tensor, whole: Tensor, edges: Sequence[float] = OCTAVES) -> Tensor:
    """Return the share of `whole` that `part` supplies in each band, summed over all images.

    Parameters
    ----------
    part, whole : Tensor
        (B, C, H, W), such as a part of a `Decomposition` and its velocity.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, as for `split_bands`.

    Returns
    -------
    Tensor
        (K,), float64, on the CPU. The shares of parts that sum to the whole sum to 1. A share
        can be negative (the part works against the whole there) or exceed 1 (others do). NaN in
        a band where the whole has no energy (less than 1e-12 of its total).

    Raises
    ------
    ValueError
        Where the shapes differ, or as for `split_bands`.
    """
    check_images(whole, "whole")
    if part.shape != whole.shape:
        raise ValueError(
            f"part must have the shape of whole, {tuple(whole.shape)}, got {tuple(part.shape)}"
        )
    check_edges(edges)
    H, W = whole.shape[-2:]
    ours, theirs = (torch.fft.rfft2(x.detach().cpu().double()) for x in (part, whole))
    # Parseval: inner products per coefficient. rfft2 keeps one of each pair of mirrored columns.
    products = torch.stack([(x * theirs.conj()).real.sum((0, 1)) for x in (ours, theirs)])
    products *= mirrored(W)
    band = band_of_frequencies(H, W, edges)
    sums = torch.zeros(2, len(edges) + 1, dtype=torch.float64)
    supplied, energy = sums.index_add_(1, band.flatten(), products.flatten(1))
    energy[energy <= EMPTY * energy.sum()] = torch.nan
    return supplied / energy
