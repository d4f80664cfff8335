"""Seams: whether images show the grid of the patches they were drawn in. Three detectors together.

Each is a logarithm of a ratio that is 0 on average for images which know nothing of the grid, since
it compares the grid of patch_size P with what is no such grid in the same image:

    comb        mean over k < P/2 of log S(k/P) - mean log S beside k/P
                S is the power along an axis, of the mean over the other one
    gradient    log G(0) - mean over o = 1..P-1 of log G(o)
                G(o) is the mean absolute step into rows or columns that are o modulo P
    block_dct   log E of a P x P block shifted by P/2 both ways, less the mean of log E over the
                four aligned blocks that it overlaps; E is the energy of the block's DCT at and
                above 1/4 cycles per pixel

and no one of them sees every seam:

    comb        sees a pattern that repeats in every patch. Blind to steps of random sign, which
                leave no line at k/P, and to patterns without energy on the axes.
    gradient    sees steps at borders (above 0) and smeared borders (below 0). Blind to patches that
                differ in blur or contrast and meet without a step, and to wide, smooth patterns.
    block_dct   sees steps, and patches that differ in blur or contrast: the energy of a mixture is
                above the geometric mean of its parts. Blind to a pattern that every patch repeats
                without a step, and to whatever is below 1/4 cycles per pixel.

Steps off the grid, as in a crop that has lost it, bring `gradient` below 0 and may raise
`block_dct`; `step_by_offset` shows where they are.

Images are the replicates: z = mean / (standard deviation / sqrt(M)). Content that keeps a fixed
place, such as text on a regular grid or a frame around every image, is no replicate and may pass
for a seam; so do the blocks of JPEG files where P is 8 or 16.

References
----------
[1] Karras et al., "Alias-Free Generative Adversarial Networks", arXiv 2106.12423: spectra of
    generated images averaged over many.
[2] Wang, Bovik, Evans, "Blind measurement of blocking artifacts in images", ICIP 2000: peaks at
    multiples of 1/8 in the spectrum of differences.
[3] Luo, Ward, "Removing the blocking artifacts of block-based DCT compressed images", IEEE
    Transactions on Image Processing 12, 2003: the block that straddles a border.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis
from deco_lab.spectra.bootstrap import Estimate, estimates
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.frequencies import check_images
from deco_lab.spectra.states import check_batch_size

Array = NDArray[np.float64]

DETECTORS = ("comb", "gradient", "block_dct")
TWO_SIDED = ("gradient",)
MIN_IMAGES = 8
_FLOOR = 1e-3
"""Part of an image's mean energy that is added before a logarithm, so that flat sky says little."""
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Seams(Analysis):
    """What the three detectors say of M images, and how sure they are."""

    patch_size: int
    """P, in pixels."""
    excess: Array
    """(3, M), natural logarithm of each detector's ratio in each image, in the order of
    `DETECTORS`; 0 is no seam."""
    z: Array
    """(3,), mean of the excess over its standard error. For images that know nothing of the grid it
    is Student's t of M - 1 degrees of freedom; NaN where all images say exactly the same."""
    step_by_offset: Array
    """(P,), mean absolute step into rows and columns that are o modulo P, over its mean over o;
    mean over images. Seams of steps stand out at 0, those of a crop off the grid elsewhere."""

    def estimates(self) -> dict[str, Estimate]:
        """Return each detector's mean excess by name, with its interval over images."""
        found = estimates(lambda means: means, self.excess.T)
        return dict(zip(DETECTORS, found, strict=True))

    def found(self, threshold: float = 4.0) -> tuple[str, ...]:
        """Return the names of the detectors whose z is above a threshold.

        Parameters
        ----------
        threshold : float
            Of z; of its absolute value for "gradient", which smeared borders bring below 0. At 4
            about 1 set of 32 images in 1400 without seams is flagged by some detector, of 8 images
            about 1 in 100.
        """
        values = {name: float(z) for name, z in zip(DETECTORS, self.z, strict=True)}
        return tuple(n for n, z in values.items() if (abs(z) if n in TWO_SIDED else z) > threshold)


def _above_beside(power: Tensor, length: int, patches: int) -> Tensor:
    """Return log power above what lies beside it, (..., F), of the F bins of an rfft of `length`.

    What lies beside is a straight line in log f through the nearest bins but DC and Nyquist, up to
    two to either side, by least squares: above a power law it is 0, however few the patches.
    """
    logarithm = (power + 1e-12 * power.sum(-1, keepdim=True) + _TINY).log()
    bins = torch.arange(power.shape[-1], dtype=torch.float64).clamp(min=1)[:, None]
    reach = min(2, patches // 2)
    at = bins + torch.tensor([d for d in range(-reach, reach + 1) if d])
    inside = ((at >= 1) & (2 * at < length)).double()
    count = inside.sum(-1, keepdim=True).clamp(min=1)
    x = (at.clamp(min=1) / bins).log() * inside
    centred = (x - x.sum(-1, keepdim=True) / count) * inside
    slope = centred / (centred.square().sum(-1, keepdim=True) + _TINY)
    weights = inside / count - slope * x.sum(-1, keepdim=True) / count
    beside = logarithm[..., at.long().clamp(0, power.shape[-1] - 1)]
    return logarithm - (weights * beside).sum(-1)


def _comb(images: Tensor, P: int) -> Tensor:
    """Return the excess, (B,), along the last axis of images (B, C, H, W)."""
    W = images.shape[-1]
    power = torch.fft.rfft(images.mean(-2)).abs().square().sum(1)
    harmonic = torch.arange(1, (P + 1) // 2) * (W // P)
    return _above_beside(power, W, W // P)[:, harmonic].mean(-1)


def _steps(images: Tensor, P: int) -> Tensor:
    """Return the mean step by offset, (B, P), along the last axis; as many columns for each."""
    W = images.shape[-1]
    step = images.diff(dim=-1).abs().mean((1, 2))  # entry i is the step into column i + 1
    whole = step[:, P // 2 - 1 : P // 2 - 1 + W - P]
    by_offset = whole.unflatten(-1, (-1, P)).mean(1)
    return by_offset.roll(P // 2, -1)


def _gradient(by_offset: Tensor) -> Tensor:
    floor = _FLOOR * by_offset.mean(-1, keepdim=True) + _TINY
    logarithm = (by_offset + floor).log()
    return logarithm[:, 0] - logarithm[:, 1:].mean(-1)


def _block_energy(images: Tensor, P: int) -> Tensor:
    u = torch.arange(P, dtype=torch.float64)
    high = (torch.hypot(u[:, None], u) >= P / 2).to(images.device)
    return (block_dct(images, P).square() * high).sum((1, -1, -2))


def _block_dct(images: Tensor, P: int) -> Tensor:
    """Return the excess, (B,): each shifted block against the four aligned ones it overlaps."""
    half = P // 2
    H, W = images.shape[-2:]
    aligned = _block_energy(images, P)
    shifted = _block_energy(images[..., half : H - P + half, half : W - P + half], P)
    floor = _FLOOR * aligned.mean((1, 2), keepdim=True) + _TINY
    aligned, shifted = (aligned + floor).log(), (shifted + floor).log()
    around = aligned.unfold(1, 2, 1).unfold(2, 2, 1).mean((-1, -2))
    return (shifted - around).mean((1, 2))


@takes_arrays
@torch.no_grad()
def find_seams(images: Tensor, patch_size: int, *, batch_size: int = 16) -> Seams:
    """Return what three detectors say of seams at multiples of patch_size.

    Parameters
    ----------
    images : Tensor
        (M, C, H, W), any range, at least 8 of them and each at least 2 x 2 patches; sides are
        multiples of patch_size. What is sampled, not what is cut: a random crop has lost its grid.
        Computed in float64.
    patch_size : int
        P, in pixels, at least 3.
    batch_size : int
        Images at a time.

    Raises
    ------
    ValueError
        Where images are fewer than 8, not (M, C, H, W), smaller than 2 x 2 patches, no multiple of
        patch_size or not finite, for a patch_size below 3 or a batch_size below 1.
    """
    check_images(images)
    check_batch_size(batch_size)
    M, _, H, W = images.shape
    P = patch_size
    if M < MIN_IMAGES:
        raise ValueError(
            f"images must be at least {MIN_IMAGES}, which are each other's error bar, got {M}; "
            "sample more, or cut large ones at multiples of patch_size"
        )
    if P < 3:
        raise ValueError(f"patch_size must be at least 3, got {P}; 1/2 is Nyquist, not a seam")
    if H % P or W % P or min(H, W) < 2 * P:
        raise ValueError(
            f"image height and width must be multiples of patch_size={P} and at least {2 * P}, "
            f"got {H} x {W}; crop from the top left, which keeps the grid"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite, got NaN or infinite pixels; drop those images")
    excess, by_offset = np.zeros((3, M)), np.zeros(P)
    for first in range(0, M, batch_size):
        rows = slice(first, first + batch_size)
        pixels = images[rows].detach().cpu().double()
        axes = (pixels, pixels.mT.contiguous())
        steps = torch.stack([_steps(axis, P) for axis in axes])
        comb = torch.stack([_comb(axis, P) for axis in axes]).mean(0)
        gradient = torch.stack([_gradient(step) for step in steps]).mean(0)
        excess[:, rows] = torch.stack([comb, gradient, _block_dct(pixels, P)]).numpy()
        mean = steps.mean(0)
        by_offset += (mean / (mean.mean(-1, keepdim=True) + _TINY)).sum(0).numpy() / M
    error = excess.std(1, ddof=1) / M**0.5
    flat = error <= 1e-9
    z = np.where(flat, np.nan, excess.mean(1) / np.where(flat, 1, error))
    return Seams(
        patch_size=P,
        excess=excess,
        z=z,
        step_by_offset=by_offset,
        recipe={
            "detectors": list(DETECTORS),
            "images": M,
            "null": "the same images beside the harmonics, at other offsets, and half a block off",
            "floor": _FLOOR,
        },
    )
