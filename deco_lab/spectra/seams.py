"""Seams: whether images show the grid of the patches they were drawn in. Three detectors together.

Each is a logarithm of a ratio that is 0 on average for images which know nothing of the grid, since
it compares the grid of patch_size P with what is no such grid in the same image:

    comb        mean over k < P/2 of log S(k/P) - what lies beside it
                S is the power along an axis, of the mean over the other one; beside k/P lies a
                straight line in log f through its neighbours, so that a power law has no comb
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

How rare is that? The same images tell, with the grid at other places: p is the share of places at
which the mean excess is as large as at its own.

    gradient, block_dct     the P x P places of the grid's corner in a patch
    comb, which no shift    the n places of the comb of lines between k/P and (k + 1)/P on an axis
    of the grid changes     of n patches, so n m for both axes

Of one image every place is taken in turn, so p is 1 / P^2 at least: a single image tells nothing of
patches below 8 pixels. Of several, each group of images has a place of its own, drawn at random.
That needs no image to be like another, and holds for one picture as for thousands.

What `found` sees, in percent of sets of crops of the bundled photographs, rounded to 8 bits, with a
grid of a contrast in grey levels of 255: patches half of it lighter or darker at random (steps),
darker first rows and columns (mesh), the same white noise of that deviation on each (pattern):

                                      .25   .5    1    2    4    8   16
    one picture of 256    steps  P  8             15   45   45   85  100
    pixels, native                 14              5   15   60   95  100
                                   16              6   19   56   81
                          mesh   P  8        35   65   85  100
                                   14        25   25   65   90
                                   16        19   25   81   94
                        pattern  P  8   10   50   60   90  100
                                   14        31   31   69
                                   16        25   38   62
    28 pictures of 64     steps  P  8         0   12  100
    pixels, resized       mesh            0  38  100
                        pattern          25  88

Of one picture, half of whose patches are blurred over 3 pixels, 75, 81 and 100% are seen. So a
faint grid takes many pictures, or larger ones: "none found" of a single one says little below 8
grey levels of random steps.

With no grid planted, single pictures of 256 pixels of 16 photographs that are flagged at P 8,
by where they are cut: at multiples of 8 pixels, anywhere, or after being resized:

    cut                          at 8 m    anywhere     resized
    10 that were JPEG files           47           7           1  of 60
    6 that never were                 4           4           2  of 36

JPEG's blocks are a grid of 8, also in a PNG that was a JPEG file before, as four of the ten are.
It is found where it lies; cut elsewhere it is at another place, and only the comb, which no shift
changes, sees it now and then; resized it is gone. Where there is no grid, 5% are flagged by chance:
here 11 of 168, of which six are of a wall of bricks, which is a grid of its own.

Content that keeps a fixed place, such as text on a regular grid or a frame around every image, may
pass for a seam; so do the blocks of JPEG files where P is 8 or 16.

References
----------
[1] Karras et al., "Alias-Free Generative Adversarial Networks", arXiv 2106.12423: spectra of
    generated images averaged over many.
[2] Wang, Bovik, Evans, "Blind measurement of blocking artifacts in images", ICIP 2000: peaks at
    multiples of 1/8 in the spectrum of differences.
[3] Luo, Ward, "Removing the blocking artifacts of block-based DCT compressed images", IEEE
    Transactions on Image Processing 12, 2003: the block that straddles a border.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import as_tensor, takes_arrays
from deco_lab.result import Estimate, Result
from deco_lab.spectra.bootstrap import Groups, bootstrap_intervals, group_numbers
from deco_lab.spectra.dct import dct_matrix
from deco_lab.spectra.frequencies import check_images
from deco_lab.spectra.states import check_batch_size

Array = NDArray[np.float64]

DETECTORS = ("comb", "gradient", "block_dct")
TWO_SIDED = ("gradient",)
_DRAWS = 2000
"""Of the places of the grid, for many images; the grid's own is one of them."""
_FLOOR = 1e-3
"""Part of an image's mean energy that is added before a logarithm, so that flat sky says little."""
_TINY = 1e-30
_PIECE = 2**19
"""Numbers at a time, of blocks that overlap."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seams(Result):
    """What the three detectors say of M images, and how likely chance says as much."""

    patch_size: int
    """P, in pixels."""
    excess: Array
    """(3, M), natural logarithm of each detector's ratio in each image, in the order of
    `DETECTORS`; 0 is no seam."""
    p: Array
    """(3,), share of places of the grid, its own among them, where the mean excess is as large."""
    steps: Array
    """(M, P), mean absolute step into rows and columns that are o modulo P, over their mean."""
    lines: Array
    """(M, K), natural logarithm of the power at k/P over that beside it, k = 1 ... K < P/2."""
    group: NDArray[np.int64]
    """(M,), the group of each image, as a number from 0."""

    @property
    def step_by_offset(self) -> Array:
        """Mean of `steps` over images, (P,): seams stand out at 0, a lost grid's elsewhere."""
        return self.steps.mean(0)

    def estimates(self) -> dict[str, Estimate]:
        """Return each detector's mean excess by name, with its interval over groups of images."""
        found = bootstrap_intervals(lambda means: means, self.excess.T, groups=self.group)
        return dict(zip(DETECTORS, found, strict=True))

    def ratios(self) -> Estimate:
        """Return mean steps into each offset over those into all others, (P,).

        The first is the ratio of differences across the patches' edges to those inside, and the
        others what it would be for a grid that lies elsewhere.
        """
        P = self.patch_size
        return bootstrap_intervals(
            lambda m: (P - 1) * m / (m.sum(-1, keepdims=True) - m + _TINY),
            self.steps,
            groups=self.group,
        )

    def line_levels(self) -> Estimate:
        """Return levels above what lies beside, in dB: all lines k/P together, then each."""

        def levels(means: Array) -> Array:
            together = means.mean(-1, keepdims=True)
            return 10 / np.log(10) * np.concatenate([together, means], -1)

        return bootstrap_intervals(levels, self.lines, groups=self.group)

    def found(self, level: float = 0.05) -> tuple[str, ...]:
        """Return the names of the detectors that find seams.

        Parameters
        ----------
        level : float
            How often images without seams may be flagged by any of the detectors, each of which
            has a third of it.
        """
        return tuple(n for n, p in zip(DETECTORS, self.p, strict=True) if 3 * p <= level)


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


def _comb(images: Tensor, P: int) -> tuple[Tensor, Tensor]:
    """Return the excess of each line k/P of the last axis, (B, K), and their mean, (B, n).

    The n patches leave n places for the comb of lines, of which the first is its own.
    """
    W = images.shape[-1]
    n = W // P
    power = torch.fft.rfft(images.mean(-2)).abs().square().sum(1)
    above = _above_beside(power, W, n)
    harmonic = torch.arange(1, (P + 1) // 2) * n
    place = (torch.arange(n) + (n - 1) // 2) % n - (n - 1) // 2
    return above[:, harmonic], above[:, harmonic[:, None] + place].mean(1)


def _steps(images: Tensor, P: int) -> Tensor:
    """Return the mean step by offset, (B, P), along the last axis; as many columns for each."""
    W = images.shape[-1]
    step = images.diff(dim=-1).abs().mean((1, 2))  # entry i is the step into column i + 1
    whole = step[:, P // 2 - 1 : P // 2 - 1 + W - P]
    by_offset = whole.unflatten(-1, (-1, P)).mean(1)
    return by_offset.roll(P // 2, -1)


def _gradient(by_offset: Tensor) -> Tensor:
    """Return log G at each place less its mean over the others, (B, P); the first is the grid's."""
    P = by_offset.shape[-1]
    logarithm = (by_offset + _FLOOR * by_offset.mean(-1, keepdim=True) + _TINY).log()
    return (P * logarithm - logarithm.sum(-1, keepdim=True)) / (P - 1)


def _block_energies(images: Tensor, P: int) -> Tensor:
    """Return the energy from 1/4 cycles per pixel up of the P x P blocks at every pixel.

    (B, C, H, W) of whole patches to (B, H - P, W - P): the energy of all coefficients of a block's
    DCT (Parseval) less that of the lower ones. Of the two axes, each strip of 2 P - 1 pixels holds
    P blocks, so one matrix takes all of their coefficients at once.
    """
    D = dct_matrix(P, torch.float64, torch.device("cpu"))
    B, C, H, W = images.shape
    u = range((P + 1) // 2)
    strips = torch.stack([F.pad(D[: len(u)], (o, P - 1 - o)) for o in range(P)], 1)
    box = images.square().sum(1).unfold(-1, P, 1).sum(-1).unfold(-2, P, 1).sum(-1)
    energy = box[:, : H - P, : W - P].unflatten(1, (-1, P))
    across = images.unfold(-1, 2 * P - 1, P) @ strips.flatten(0, 1).mT  # (B, C, H, n, U P)
    for first in u:
        lower = sum(4 * (first**2 + v**2) < P**2 for v in u)
        wave = across[..., first * P : (first + 1) * P].reshape(B, C, H, W - P)
        down = strips[:lower].flatten(0, 1) @ wave.unfold(-2, 2 * P - 1, P).mT
        energy = energy - down.square().unflatten(-2, (lower, P)).sum((1, 3))
    return energy.flatten(1, 2).clamp(min=0)


def _block_dct(images: Tensor, P: int) -> Tensor:
    """Return the excess at every place of the grid, (B, P P), of which the first is its own.

    Each shifted block stands against the four aligned ones that it overlaps.
    """
    H, W = images.shape[-2:]
    rows = max(P, _PIECE // images[:, :, :P].numel() * P)
    pieces = [images[..., y : y + rows + P, :] for y in range(0, H - P, rows)]
    energy = torch.cat([_block_energies(piece, P) for piece in pieces], 1)
    logarithm = (energy + _FLOOR * energy.mean((1, 2), keepdim=True) + _TINY).log()
    y, x = H - 2 * P, W - 2 * P
    aligned = sum(logarithm[:, i : i + y, j : j + x] for i in (0, P) for j in (0, P))
    half = P // 2
    excess = logarithm[:, half : half + y, half : half + x] - aligned / 4
    return excess.unflatten(2, (-1, P)).unflatten(1, (-1, P)).mean((1, 3)).flatten(1)


def _of_both_axes(vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Return the means of all pairs of places, (B, n m), of (B, n) and (B, m)."""
    return (vertical[:, :, None] + horizontal[:, None]).flatten(1) / 2


class _Measured(NamedTuple):
    """Of a batch of images of one size."""

    steps: Array
    lines: Array
    places: tuple[Array, ...]
    """For each detector the excess of each image at each place of the grid, its own the first."""


def _measure(images: Tensor, P: int) -> _Measured:
    check_images(images)
    H, W = (side // P * P for side in images.shape[-2:])
    if min(H, W) < 3 * P:
        raise ValueError(
            f"images must be at least 3 x 3 patches of patch_size={P}, {3 * P} x {3 * P} pixels, "
            f"got {images.shape[-2]} x {images.shape[-1]}; use larger ones"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite, got NaN or infinite pixels; drop those images")
    pixels = images[..., :H, :W].detach().cpu().double()
    axes = (pixels.mT.contiguous(), pixels)
    steps = [_steps(axis, P) for axis in axes]
    lines, combs = zip(*(_comb(axis, P) for axis in axes), strict=True)
    mean = (steps[0] + steps[1]) / 2
    return _Measured(
        (mean / (mean.mean(-1, keepdim=True) + _TINY)).numpy(),
        ((lines[0] + lines[1]) / 2).numpy(),
        (
            _of_both_axes(*combs).numpy(),
            _of_both_axes(*map(_gradient, steps)).numpy(),
            _block_dct(pixels, P).numpy(),
        ),
    )


def _chance(places: Sequence[Array], group: NDArray[np.int64], two_sided: bool) -> float:
    """Return how often the mean excess over images is as large with the grid at other places.

    One place for each group, drawn at random; of a single group every place in turn.
    """
    groups = int(group.max()) + 1
    draws = _DRAWS if groups > 1 else max(map(len, places))
    generator = np.random.default_rng(0)
    where, total = np.zeros(draws), np.zeros(draws)
    last = -1
    for i in np.argsort(group, kind="stable"):
        if group[i] != last:
            where = generator.random(draws) if groups > 1 else (np.arange(draws) + 0.5) / draws
            where[0], last = 0, group[i]
        total += places[i][(where * len(places[i])).astype(int)]
    total = np.abs(total) if two_sided else total
    return float((total >= total[0] - 1e-9 * len(places)).mean())


def edge_steps(images: Tensor, patch_size: int) -> Tensor:
    """Return each patch's mean absolute step across its four edges, and inside it.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), any range; what is beyond whole patches is left out.
    patch_size : int
        P, in pixels, of which H and W hold at least two.

    Returns
    -------
    Tensor
        (B, 2, H // P, W // P), float64: across, inside. The picture's border is no edge.
    """
    P = patch_size
    H, W = (side // P * P for side in images.shape[-2:])
    pixels = images[..., :H, :W].detach().cpu().double()
    across, inside = [], []
    for axis in (pixels, pixels.mT):
        step = F.pad(axis.diff(dim=-1).abs().mean(1), (1, 0), value=torch.nan)
        patches = step.unflatten(2, (-1, P)).unflatten(1, (-1, P)).mean(2)  # (B, R, C, P)
        first = patches[..., 0]
        edges = (first, F.pad(first[..., 1:], (0, 1), value=torch.nan))
        means = (*edges, patches[..., 1:].mean(-1))
        first, last, within = (m.mT if axis is not pixels else m for m in means)
        across += [first, last]
        inside.append(within)
    return torch.stack([torch.stack(across).nanmean(0), torch.stack(inside).mean(0)], 1)


@takes_arrays
@torch.no_grad()
def find_seams(
    images: Tensor | Iterable[Tensor],
    patch_size: int,
    *,
    groups: Groups | None = None,
    batch_size: int = 16,
) -> Seams:
    """Return what three detectors say of seams at multiples of patch_size.

    Parameters
    ----------
    images : Tensor, or iterable of Tensor
        (M, C, H, W), or M times (C, H, W) of any sizes, which are taken one by one; any range, at
        least 3 x 3 patches each. What is beyond whole patches at the right and bottom is left out.
        What is sampled, not what is cut: a random crop has lost its grid. Computed in float64.
    patch_size : int
        P, in pixels, at least 3.
    groups : sequence or array, optional
        (M,), a label for each image, such as the photograph that a crop was cut from; None for
        every image by itself.
    batch_size : int
        Images at a time.

    Raises
    ------
    ValueError
        Where there are no images, or they are not (M, C, H, W), smaller than 3 x 3 patches or not
        finite, for groups that do not fit, a patch_size below 3 or a batch_size below 1.
    """
    check_batch_size(batch_size)
    if patch_size < 3:
        raise ValueError(
            f"patch_size must be at least 3, got {patch_size}; 1/2 is Nyquist, not a seam"
        )
    if isinstance(images, Tensor):
        check_images(images)
        batches = iter(images.split(batch_size))
    else:
        batches = (as_tensor(image)[None] for image in images)
    measured = [_measure(batch, patch_size) for batch in batches]
    if not measured:
        raise ValueError("images must hold at least one image, got none; give one or more")
    group = group_numbers(groups, sum(len(found.steps) for found in measured))
    places = [[row for found in measured for row in found.places[d]] for d in range(3)]
    return Seams(
        patch_size=patch_size,
        excess=np.array([[row[0] for row in rows] for rows in places]),
        p=np.array(
            [
                _chance(rows, group, name in TWO_SIDED)
                for name, rows in zip(DETECTORS, places, strict=True)
            ]
        ),
        steps=np.concatenate([found.steps for found in measured]),
        lines=np.concatenate([found.lines for found in measured]),
        group=group,
        recipe={
            "detectors": list(DETECTORS),
            "images": len(group),
            "groups": int(group.max()) + 1,
            "null": "the same images with the grid, or the comb of lines, at other places",
            "draws": _DRAWS,
            "floor": _FLOOR,
        },
    )
