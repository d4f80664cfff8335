"""Where the loss comes from: each frequency's share of FM, of FreqFM and of their gradients.

The error e = predicted - target of a velocity, (B, 3, H, W), has the block DCT E[b, c, u, v] in
RGB; M is the 3 x 3 matrix of YCbCr, so M E is the DCT in YCbCr. With n = 3 B H W both losses are
sums of squares of coefficients,

    FM     = 1/n sum |E|^2                     FreqFM = 1/n sum w |M E|^2

(Parseval, exact where H and W are multiples of 8), and so are their gradients with respect to the
velocity, each coefficient's from itself only:

    dFM = 2/n E          dFreqFM = 2/n A E,  A[u, v] = M^T diag(w[:, u, v]) M
    |d(FM + lambda FreqFM)|^2 = 4/n^2 sum |(1 + lambda A) E|^2

The three colours of a coefficient mix in A, so shares are those of a coefficient with all of its
colours. Weights multiply the loss once and the squared gradient twice.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.result import Estimate, Result
from deco_lab.spectra.bands import OCTAVES, band_names, bands_of, check_edges
from deco_lab.spectra.bootstrap import (
    RECIPE,
    Groups,
    bootstrap_intervals,
    count_groups,
    group_numbers,
)
from deco_lab.spectra.dct import block_dct, inverse_block_dct
from deco_lab.spectra.frequencies import check_images, radius
from deco_lab.spectra.jpeg import frequency_weights, rgb_to_ycbcr
from deco_lab.spectra.states import check_batch_size

Array = NDArray[np.float64]

TERMS = ("FM", "FreqFM", "total")
TABLES = ("luminance", "chrominance")
_BLOCK = 8
_LIKE_ONE = 1 - 1e-9
"""Weights that normalisation has rounded count as 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossBands(Result):
    """What each coefficient and band of M images gives to the loss, and to its gradient."""

    frequency: Array
    """(8,), cycles per pixel of a DCT index, u / 16."""
    terms: tuple[str, ...] = TERMS
    """FM, FreqFM and FM + lambda FreqFM: the first axis of what follows."""
    bands: tuple[str, ...]
    """K names of bands of radial frequency, hypot(u, v) / 16 cycles per pixel; the lowest of
    `OCTAVES` holds each block's mean only."""
    band_of: Array
    """(8, 8), the number of each coefficient's band."""
    loss: Array
    """(3, M, 8, 8), of each image's own loss: the sum over coefficients is an image's loss, and
    the mean of that over images the batch's."""
    gradient: Array
    """(3, M, 8, 8), squared gradient of each image's own loss with respect to its velocity, summed
    over colours and blocks; a batch's is the sum over images / M**2."""
    channels: Array
    """(3, M), what Y, Cb and Cr each give to an image's FreqFM."""
    groups: NDArray[np.int64] | None = None
    """(M,), the group of each image, a number from 0; None where every image is by itself."""

    def shares(self, of: str = "loss") -> Array:
        """Return each coefficient's share, (3, 8, 8), of the terms' loss or squared gradient.

        Parameters
        ----------
        of : str
            "loss" or "gradient"; each term's shares sum to 1, and are NaN where it is 0.
        """
        pooled = self._of(of).sum(1)
        total = pooled.sum((1, 2), keepdims=True)
        return np.divide(pooled, total, out=np.full_like(pooled, np.nan), where=total > 0)

    def band_shares(self, of: str = "loss") -> dict[str, Estimate]:
        """Return each term's shares by band, (K,), lowest first, with intervals over images.

        Parameters
        ----------
        of : str
            "loss" or "gradient"; shares sum to 1, and are NaN where the term is 0.
        """
        values = self._of(of)
        in_band = np.stack([values[..., self.band_of == k].sum(-1) for k in range(len(self.bands))])

        def shares(means: Array) -> Array:
            total = means.sum(-1, keepdims=True)
            return means / np.where(total > 0, total, np.nan)

        return {
            name: bootstrap_intervals(shares, in_band[:, term].T, groups=self.groups)
            for term, name in enumerate(self.terms)
        }

    def _of(self, of: str) -> Array:
        if of not in ("loss", "gradient"):
            raise ValueError(f"of must be loss or gradient, got {of!r}")
        return self.loss if of == "loss" else self.gradient


def _ycbcr_matrix() -> Tensor:
    """Return M, (3, 3), float64: its columns are the colours red, green and blue in YCbCr."""
    return rgb_to_ycbcr(torch.eye(3, dtype=torch.float64)[..., None, None])[..., 0, 0].T


def _radius() -> Tensor:
    u = torch.arange(_BLOCK, dtype=torch.float64)
    return radius(u, 2 * _BLOCK, u, 2 * _BLOCK)


@takes_arrays
def loss_bands(
    predicted: Tensor,
    target: Tensor,
    *,
    quality: int = 85,
    gamma: float = 1.0,
    frequency_weight: float = 1.0,
    edges: Sequence[float] = OCTAVES,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> LossBands:
    """Return which frequencies the loss of a prediction comes from, and its gradient.

    Parameters
    ----------
    predicted, target : Tensor
        (M, 3, H, W), velocities; H and W are multiples of 8. Computed in float64.
    quality : int
        JPEG quality of FreqFM's tables, 1 to 100.
    gamma : float
        Exponent of FreqFM's weights, at least 0.
    frequency_weight : float
        Lambda, the weight of FreqFM in the total, at least 0.
    edges : sequence of float
        K - 1 rising edges of the bands, in cycles per pixel.
    batch_size : int
        Images at a time.
    groups : sequence or array, optional
        As for `band_effects`.

    Raises
    ------
    ValueError
        Where the shapes differ, are not (M, 3, H, W) or no multiples of 8, where pixels are not
        finite, or an option is out of range.
    """
    check_images(predicted, "predicted")
    if predicted.shape != target.shape:
        raise ValueError(
            f"target must have the shape of predicted, {tuple(predicted.shape)}, "
            f"got {tuple(target.shape)}; compare like with like"
        )
    M, C, H, W = predicted.shape
    if C != 3 or H % _BLOCK or W % _BLOCK:
        raise ValueError(
            f"predicted must be (M, 3, H, W) with H and W multiples of {_BLOCK}, got "
            f"{tuple(predicted.shape)}; crop both to {H - H % _BLOCK} x {W - W % _BLOCK}"
        )
    if not bool(predicted.isfinite().all() and target.isfinite().all()):
        raise ValueError("predicted and target must be finite, got NaN; drop those images")
    if not 0 <= frequency_weight < float("inf"):
        raise ValueError(f"frequency_weight must be at least 0, got {frequency_weight}; 1 is usual")
    check_edges(edges)
    check_batch_size(batch_size)
    numbers = group_numbers(groups, M)
    names = band_names(edges)
    band_of = bands_of(_radius(), edges)

    w, matrix = frequency_weights(quality, gamma), _ycbcr_matrix()
    A = torch.einsum("ki,kuv,kj->uvij", matrix, w, matrix)
    steering = torch.stack(
        [torch.eye(3).to(A).expand_as(A), A, torch.eye(3) + frequency_weight * A]
    )
    n = 3 * H * W
    loss, gradient = np.zeros((2, len(TERMS), M, _BLOCK, _BLOCK))
    channels = np.zeros((3, M))
    for first in range(0, M, batch_size):
        rows = slice(first, first + batch_size)
        error = predicted[rows].detach().cpu().double() - target[rows].detach().cpu().double()
        E = block_dct(error).flatten(2, 3)  # (B, 3, blocks, 8, 8)
        flow = E.square().sum((1, 2)) / n
        weighted = torch.einsum("ki,bipuv->bkpuv", matrix, E).square().sum(2) * w / n
        frequency = weighted.sum(1)
        terms = torch.stack([flow, frequency, flow + frequency_weight * frequency])
        loss[:, rows] = terms.numpy()
        channels[:, rows] = weighted.sum((2, 3)).T.numpy()
        for term, S in enumerate(steering):
            moved = torch.einsum("uvij,bjpuv->bipuv", S, E)
            gradient[term, rows] = (moved * (2 / n)).square().sum((1, 2)).numpy()
    return LossBands(
        frequency=np.arange(_BLOCK) / (2 * _BLOCK),
        bands=tuple(names),
        band_of=band_of.double().numpy(),
        loss=loss,
        gradient=gradient,
        channels=channels,
        groups=numbers,
        recipe={
            "quality": quality,
            "gamma": gamma,
            "frequency_weight": frequency_weight,
            "edges": list(edges),
            "images": M,
            "groups": count_groups(numbers),
            "interval": RECIPE,
        },
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightTable(Result):
    """How FreqFM's weights depend on its options; tables are (2, Q, G), luminance first."""

    tables: tuple[str, ...] = TABLES
    """Luminance weighs Y, chrominance Cb and Cr."""
    quality: Array
    """(Q,)."""
    gamma: Array
    """(G,)."""
    weights: Array
    """(2, Q, G, 8, 8), each of mean 1."""
    smallest: Array
    """The least weight."""
    largest: Array
    """The greatest weight."""
    mean: Array
    """The weight of the blocks' mean, coefficient (0, 0)."""
    share_above: Array
    """Share of the weight at and above 1/4 cycles per pixel, half of Nyquist: the share of the
    loss, where the error is white. Even weights give 0.765625, 49 of 64 coefficients."""
    effective: Array
    """Effective number of coefficients, (sum w)^2 / sum w^2: 64 for even weights."""


def weight_table(
    qualities: Sequence[int] = (1, 10, 25, 50, 75, 85, 90, 95, 100),
    gammas: Sequence[float] = (0.0, 0.5, 1.0, 2.0),
) -> WeightTable:
    """Return what quality, gamma and the choice of table do to the weights of FreqFM.

    Parameters
    ----------
    qualities : sequence of int
        Q JPEG qualities, 1 to 100.
    gammas : sequence of float
        G exponents, at least 0.

    Raises
    ------
    ValueError
        Without a quality or gamma, or for one out of range.
    """
    if not qualities or not gammas:
        raise ValueError(
            f"qualities and gammas must each hold a value, got {list(qualities)}, {list(gammas)}"
        )
    rows = [torch.stack([frequency_weights(q, g)[:2] for g in gammas]) for q in qualities]
    w = torch.stack(rows).permute(2, 0, 1, 3, 4).numpy()
    flat = w.reshape(*w.shape[:3], -1)
    high = (_radius() >= 0.25).flatten().numpy()
    return WeightTable(
        quality=np.array(qualities, np.float64),
        gamma=np.array(gammas, np.float64),
        weights=w,
        smallest=flat.min(-1),
        largest=flat.max(-1),
        mean=flat[..., 0],
        share_above=flat[..., high].sum(-1) / flat.sum(-1),
        effective=np.square(flat.sum(-1)) / np.square(flat).sum(-1),
        recipe={"normalisation": "each table by itself to mean 1"},
    )


@takes_arrays
def favoured_parts(images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return what images hold in coefficients of weight 1 and above, and in those below.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W) in RGB, any range; H and W are multiples of 8.
    weights : Tensor
        (3, 8, 8), from `frequency_weights`.

    Returns
    -------
    tuple of Tensor
        Favoured and neglected, (B, 3, H, W) each, float64 on the CPU, in RGB: they sum to the
        images. Y, Cb and Cr are split each by its own weights.

    Raises
    ------
    ValueError
        For images or weights of another shape.
    """
    check_images(images)
    _, C, H, W = images.shape
    if C != 3 or H % _BLOCK or W % _BLOCK or weights.shape != (3, _BLOCK, _BLOCK):
        raise ValueError(
            f"images must be (B, 3, H, W) with H and W multiples of {_BLOCK} and weights "
            f"(3, {_BLOCK}, {_BLOCK}), got {tuple(images.shape)} and {tuple(weights.shape)}; crop "
            "the images, and pass what frequency_weights returned"
        )
    pixels = images.detach().cpu().double()
    favoured = (weights.cpu().double() >= _LIKE_ONE)[:, None, None]
    coefficients = block_dct(rgb_to_ycbcr(pixels)) * favoured
    back = torch.linalg.inv(_ycbcr_matrix())
    kept = torch.einsum("ij,bjhw->bihw", back, inverse_block_dct(coefficients))
    return kept, pixels - kept
