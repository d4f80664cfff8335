"""Mean energy of each DCT coefficient, of images or of token maps, and the paper's curve.

    E[u, v] = mean over images, channels and blocks of X[u, v]^2
    curve   = log(1 + E) / max log(1 + E), read in zigzag order

A token map has one "pixel" for each patch of P x P pixels: its index u is u / (16 P) cycles per
pixel, P times less than the same index on pixels, and its Nyquist is 1 / (2P). The curve depends
on the scale of its input, through the 1 and the maximum; the raw energies are what to compare.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, Figure 4 and Algorithm 3.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.dct import block_dct, zigzag_index, zigzag_order
from deco_lab.spectra.frequencies import check_estimator, check_images


def image_energies(images: Tensor, block_size: int = 8, offset: int = 0) -> Tensor:
    """Return each image's mean squared DCT coefficient over channels and blocks, (B, n, n).

    As `dct_energy`, which averages them: float64, on the device of the images (on the CPU for MPS).
    """
    check_images(images)
    H, W = images.shape[-2:]
    if not 0 <= offset < min(H, W):
        raise ValueError(
            f"offset must be from 0 to {min(H, W) - 1}, below the image's sides, got {offset}; "
            "half a block_size is usual"
        )
    coefficients = block_dct(images[..., offset:, offset:], block_size)
    return _wide(coefficients).square().mean((1, 2, 3))


def _wide(values: Tensor) -> Tensor:
    """Return values in float64, on their device or, from MPS, which has none, on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


@takes_arrays
def dct_energy(
    images: Tensor, block_size: int = 8, *, offset: int = 0, average: str = "power"
) -> Tensor:
    """Return the mean squared DCT coefficient over images, channels and blocks.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range: images, velocities, or tokens through `token_map`. Sizes that are
        no multiple of block_size are padded by reflection at the right and bottom.
    block_size : int
        Side n of a block, in pixels.
    offset : int
        Where the first block begins, in pixels from the top and from the left; what lies before is
        left out. Energy that depends on it is that of a grid, such as a JPEG file's.
    average : str
        Over images. "power" (default): the mean, which the strongest images decide. "log": the
        geometric mean of the images' own energies, at which each has the same say; 0 where an
        image has none.

    Returns
    -------
    Tensor
        (n, n), float64, rows are vertical frequency. By "power" its sum is n**2 times the mean
        square of the (cut and padded) images; white noise of variance 1 gives 1 everywhere.

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W), empty, or smaller than their padding (a token grid
        below 5 x 5 with blocks of 8: use a smaller block_size), or for an offset outside them or an
        unknown average.
    """
    check_estimator(average=average)
    each = image_energies(images, block_size, offset)
    return each.mean(0) if average == "power" else each.log().mean(0).exp()


@takes_arrays
def log_energy(energy: Tensor) -> Tensor:
    """Return the curve of [1], log(1 + E) / max log(1 + E), low frequencies first.

    Parameters
    ----------
    energy : Tensor
        (..., n, n), at least 0, as `dct_energy` returns it.

    Returns
    -------
    Tensor
        (..., n * n), float64, in [0, 1] and in zigzag order; each curve divided by its own
        maximum, zeros where there is no energy at all.

    Raises
    ------
    ValueError
        Where the last two axes are not square.
    """
    if energy.ndim < 2 or energy.shape[-1] != energy.shape[-2]:
        raise ValueError(
            f"energy must have shape (..., n, n), got {tuple(energy.shape)}; "
            "pass what dct_energy returned"
        )
    curve = _wide(energy).log1p().flatten(-2)
    curve = curve[..., zigzag_index(energy.shape[-1], curve.device)]
    largest = curve.amax(-1, keepdim=True)
    return curve / torch.where(largest > 0, largest, 1)


def token_grid(tokens: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the square patches that N tokens, (B, N, D), make of an image."""
    P = max(1, round((height * width / tokens.shape[1]) ** 0.5))
    return height // P, width // P


@takes_arrays
def token_map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Return tokens as an image with D channels, one pixel for each patch.

    Parameters
    ----------
    tokens : Tensor
        (B, N, D), in row-major order.
    rows, columns : int
        The token grid: image height and width divided by the patch size; N = rows * columns.

    Returns
    -------
    Tensor
        (B, D, rows, columns), a view where it can be.

    Raises
    ------
    ValueError
        Where the grid does not hold N tokens.
    """
    if tokens.ndim != 3 or tokens.shape[1] != rows * columns:
        raise ValueError(
            f"tokens must have shape (B, N, D) with N = rows * columns = {rows * columns}, "
            f"got {tuple(tokens.shape)}; rows and columns are the image's size / patch_size"
        )
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def raw_share(energy: NDArray[np.float64]) -> float:
    """Return the share of the upper half of the zigzag order in the energy without DC, in [0, 1].

    No scale changes it. The energy is that of each image, (M, n, n), and its mean is taken.
    """
    n = energy.shape[-1]
    ordered = energy.mean(0).ravel()[list(zigzag_order(n))]
    return float(ordered[len(ordered) // 2 :].sum() / ordered[1:].sum())
