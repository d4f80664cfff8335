"""JPEG's view of frequencies: YCbCr, the Annex K quantisation tables, and weights from them.

    w = (mean(Q) / Q)**gamma / mean((mean(Q) / Q)**gamma)

for each table Q by itself: the coarser JPEG quantises a frequency, the less it weighs.

References
----------
[1] ITU-T T.81 (JPEG), Annex K.1, tables K.1 and K.2.
[2] Ma et al., "DeCo", arXiv 2511.19365, section 4.3.
"""

from functools import lru_cache

import torch
from torch import Tensor

from deco_lab.arrays import takes_arrays

LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Table K.1 of [1]: rows are vertical frequency."""

CHROMINANCE = torch.full((8, 8), 99)
CHROMINANCE[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
)
"""Table K.2 of [1]."""

_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)


@takes_arrays
def rgb_to_ycbcr(images: Tensor) -> Tensor:
    """Return JPEG's Y, Cb and Cr of RGB images, (B, 3, H, W), without offsets.

    The map is linear but not orthonormal: the mean square over YCbCr is not that over RGB.

    Raises
    ------
    ValueError
        Where images are not (B, 3, H, W).
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be RGB of shape (B, 3, H, W), got {tuple(images.shape)}; "
            "repeat a grey channel three times"
        )
    return torch.einsum("ij,bjhw->bihw", _matrix_on(images.dtype, images.device), images)


@lru_cache(maxsize=32)
def _matrix_on(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(_YCBCR, dtype=dtype, device=device)


def jpeg_table(quality: int = 85, chrominance: bool = False) -> Tensor:
    """Return the 8 x 8 quantisation table of a JPEG quality, integers from 1 to 255.

    The scale is 200 - 2 quality from 50 up and 5000 / quality below, in floating point: libjpeg
    truncates the latter to an integer, so below 50 a value may differ from libjpeg's by one, at 41
    by two.

    Parameters
    ----------
    quality : int
        From 1 (coarsest) to 100 (all ones).
    chrominance : bool
        The table of Cb and Cr instead of that of Y.

    Returns
    -------
    Tensor
        (8, 8), int64; rows are vertical frequency.

    Raises
    ------
    ValueError
        For a quality that is not a whole number from 1 to 100.
    """
    if not 1 <= quality <= 100 or quality != int(quality):
        raise ValueError(
            f"quality must be a whole number from 1 to 100, got {quality!r}; the paper uses 85"
        )
    quality = int(quality)
    scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
    base = (CHROMINANCE if chrominance else LUMINANCE).double()
    return ((base * scale + 50) / 100).floor().clamp(1, 255).long()


def frequency_weights(quality: int = 85, gamma: float = 1.0) -> Tensor:
    """Return the weights of the frequency-aware loss, (3, 8, 8) for Y, Cb, Cr, each of mean 1.

    Parameters
    ----------
    quality : int
        JPEG quality of the tables, 1 to 100; 100 gives all ones.
    gamma : float
        Exponent, at least 0; 0 gives all ones.

    Returns
    -------
    Tensor
        (3, 8, 8), float64; rows are vertical frequency.

    Raises
    ------
    ValueError
        For a quality or gamma out of range.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma must be a finite number of at least 0, got {gamma!r}; 1 is usual")
    tables = [jpeg_table(quality).double(), *[jpeg_table(quality, chrominance=True).double()] * 2]
    Q = torch.stack(tables)
    weights = (Q.mean((1, 2), keepdim=True) / Q) ** gamma
    return weights / weights.mean((1, 2), keepdim=True)
