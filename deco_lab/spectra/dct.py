"""The orthonormal 8 x 8 block DCT-II, its inverse and the zigzag order.

    X[u, v] = sum_{r, c} D[u, r] D[v, c] x[r, c],    D[u, r] = a_u cos(pi (2r + 1) u / (2n))

with a_0 = sqrt(1/n) and a_u = sqrt(2/n) otherwise, so D is orthogonal and Parseval holds exactly.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.fast.build import KernelError, call, library, only_numbers


@lru_cache(maxsize=64)
def dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix D, (size, size); row u holds frequency u."""
    with torch.inference_mode(False):  # made on the CPU: MPS has no float64
        u = torch.arange(size, dtype=torch.float64)[:, None]
        r = torch.arange(size, dtype=torch.float64)
        matrix = torch.cos(torch.pi * (2 * r + 1) * u / (2 * size)) * (2 / size) ** 0.5
        matrix[0] /= 2**0.5
        return matrix.to(device, dtype)


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


_LARGE = 2**16
"""Numbers from which on the kernel is used; a product of fewer takes a tenth of a millisecond."""

_PIECE = 2**17
"""Numbers that a CPU's cache holds from their copy into order to their product."""


def _product(blocks: Tensor, D: Tensor) -> Tensor:
    """Return D X D^T for each of the blocks X, (..., n, n)."""
    n = len(D)
    if n > 16:  # n^4 numbers are too many
        return D @ blocks @ D.T
    basis = torch.kron(D.T, D.T)  # of rows (r, c) and columns (u, v)
    if blocks.numel() <= _PIECE or not (blocks.is_cpu and only_numbers(blocks)):
        return (blocks.reshape(-1, n * n) @ basis).view(blocks.shape)
    products = torch.empty(blocks.shape, dtype=blocks.dtype, device=blocks.device)
    pieces = -(-blocks.numel() // _PIECE)
    for some, out in zip(
        blocks.flatten(0, 2).chunk(pieces), products.flatten(0, 2).chunk(pieces), strict=True
    ):
        torch.mm(some.reshape(-1, n * n), basis, out=out.view(-1, n * n))
    return products


def _by_kernel(x: Tensor, D: Tensor, columns: int, from_images: bool) -> Tensor | None:
    """Return the flat products of blocks in images or in order, or None where it cannot be had."""
    large = x.is_cpu and x.numel() >= _LARGE
    if len(D) != 8 or not large or x.dtype != torch.float32 or not only_numbers(x):
        return None
    try:
        library("dct")
    except KernelError:
        return None
    products = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    matrices = [D.contiguous(), D.T.contiguous()]
    sizes = [x.numel() // (64 * columns), columns, from_images]
    call("dct", "blocks", [products, x.contiguous(), *matrices], sizes)
    return products


def pad_to_blocks(images: Tensor, block_size: int = 8) -> Tensor:
    """Reflect images (B, C, H, W) at the right and bottom up to whole blocks."""
    H, W = images.shape[-2:]
    bottom, right = -H % block_size, -W % block_size
    if not (bottom or right):
        return images
    if bottom >= H or right >= W:
        raise ValueError(
            f"images must be at least as large as their reflected margin of {bottom} x {right} "
            f"pixels, got {H} x {W}; use larger images or a smaller block_size"
        )
    return F.pad(images, (0, right, 0, bottom), mode="reflect")


@takes_arrays
def block_dct(images: Tensor, block_size: int = 8) -> Tensor:
    """Return the orthonormal DCT-II of every block of every channel.

    A product of each block's pixels with the block_size**2 basis images. (A strided convolution
    does the same, but cuDNN rounds it to TF32 by default, and its gradient is slow on a CPU.) On a
    CPU, for large float32 images without gradients and blocks of 8, a native kernel, which a C++
    compiler builds once; without one, the product.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range. Sizes that are no multiple of block_size are padded by reflection
        at the right and bottom.
    block_size : int
        Side of a block, in pixels.

    Returns
    -------
    Tensor
        (B, C, rows, columns, block_size, block_size), the last two axes vertical and horizontal
        frequency index; index u is u / (2 * block_size) cycles per pixel. float64 for float64
        images and float32 for all others, also under autocast.

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W), empty, or smaller than their padding.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"images must have shape (B, C, H, W) and hold pixels, got {tuple(images.shape)}; "
            "add the missing axes"
        )
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}; the paper uses 8")
    dtype = _working_dtype(images.dtype)
    with torch.autocast(images.device.type, enabled=False):
        padded = pad_to_blocks(images.to(dtype), block_size)
        B, C, H, W = padded.shape
        n, rows, columns = block_size, H // block_size, W // block_size
        D = dct_matrix(n, dtype, images.device)
        coefficients = _by_kernel(padded, D, columns, from_images=True)
        if coefficients is None:
            blocks = padded.reshape(B, C, rows, n, columns, n).transpose(3, 4)
            coefficients = _product(blocks, D)
        return coefficients.reshape(B, C, rows, columns, n, n)


@takes_arrays
def inverse_block_dct(coefficients: Tensor, height: int | None = None, width: int | None = None):
    """Return the images, (B, C, H, W), of `block_dct` coefficients (B, C, rows, columns, n, n).

    Parameters
    ----------
    coefficients : Tensor
        (B, C, rows, columns, n, n).
    height, width : int, optional
        Size to cut the images to, in pixels, where `block_dct` had padded them.

    Returns
    -------
    Tensor
        (B, C, height, width), float64 for float64 coefficients and float32 for all others.

    Raises
    ------
    ValueError
        Where the last two axes are not square blocks.
    """
    if coefficients.ndim != 6 or coefficients.shape[-1] != coefficients.shape[-2]:
        raise ValueError(
            "coefficients must have shape (B, C, rows, columns, n, n), "
            f"got {tuple(coefficients.shape)}; pass what block_dct returned"
        )
    B, C, rows, columns, n, _ = coefficients.shape
    dtype = _working_dtype(coefficients.dtype)
    with torch.autocast(coefficients.device.type, enabled=False):
        given, inverse = coefficients.to(dtype), dct_matrix(n, dtype, coefficients.device).T
        images = _by_kernel(given, inverse, columns, from_images=False)
        if images is None:
            images = _product(given, inverse).permute(0, 1, 2, 4, 3, 5)
    return images.reshape(B, C, rows * n, columns * n)[..., :height, :width]


@lru_cache(maxsize=16)
def zigzag_order(block_size: int = 8) -> tuple[int, ...]:
    """Return the flat indices of an n x n block in JPEG's zigzag order, low frequencies first."""
    places = [(row, column) for row in range(block_size) for column in range(block_size)]

    def along_diagonals(place: tuple[int, int]) -> tuple[int, int]:
        row, column = place
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return tuple(row * block_size + column for row, column in sorted(places, key=along_diagonals))


@lru_cache(maxsize=32)
def zigzag_index(block_size: int, device: torch.device) -> Tensor:
    """Return `zigzag_order` as an index, (n * n,), int64."""
    with torch.inference_mode(False):
        return torch.tensor(zigzag_order(block_size), device=device)
