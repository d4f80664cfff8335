"""The spectra that a run shows of each step: energies of DCT blocks, powers in rings and in bands.

All images of several steps are transformed together: of small images, most of a transform's time is
what it takes to call it. The values are those of `dct_energy`, `radial_power` and `split_bands`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from deco_lab.spectra import OCTAVES
from deco_lab.spectra.bands import band_of_frequencies
from deco_lab.spectra.dct import zigzag_index
from deco_lab.spectra.energy import image_energies
from deco_lab.spectra.frequencies import mirrored, ring_counts, ring_of_frequencies

_BANDS = len(OCTAVES) + 1
_IN_BLOCKS = ("noisy", "predicted", "velocity")


def spectra_of(steps: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return the curves of each step's images.

    Parameters
    ----------
    steps : sequence of mapping
        Of each step "noisy", and where there are any "predicted" and "velocity", and "guidance"
        and "class" (what guidance added to the class's velocity): (B, 3, H, W), all of one shape.

    Returns
    -------
    list of dict
        Of each step and signal but "class", on the CPU, "{signal}_power", (R,), and for the first
        three "{signal}_energy", (64,), in zigzag order; with "class" also "guidance_bands", (4,),
        the energy of "guidance" over that of "class".
    """
    stacked = torch.stack([images for step in steps for images in step.values()]).float()
    in_blocks = [name in _IN_BLOCKS for step in steps for name in step]
    blocks = image_energies(stacked[in_blocks].flatten(0, 1))
    energies = iter(in_zigzag(blocks.unflatten(0, (-1, stacked.shape[1])).mean(1)))
    powers = iter(zip(*_powers(stacked), strict=True))
    measured = []
    for step in steps:
        curves, bands = {}, {}
        for name in step:
            rings, bands[name] = next(powers)
            if name in _IN_BLOCKS:
                curves[f"{name}_energy"] = next(energies)
            if name != "class":
                curves[f"{name}_power"] = rings
        if "class" in step:
            curves["guidance_bands"] = bands["guidance"] / bands["class"]
        measured.append(curves)
    return measured


def in_zigzag(energy: Tensor) -> Tensor:
    """Return 8 x 8 energies, (..., 8, 8), as (..., 64), low frequencies first."""
    return energy.flatten(-2)[..., zigzag_index(energy.shape[-1], energy.device)]


def _powers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power in rings, (S, R), and energy in octaves, (S, 4), of images (S, B, C, H, W).

    As `radial_power` and `split_bands` have them, in one transform.
    """
    H, W = images.shape[-2:]
    parts = torch.view_as_real(torch.fft.rfft2(images))
    power = parts.square().sum(-1).mean((1, 2)).cpu().double() / (H * W)
    sums = _sums(H, W)
    rings, bands = (power.flatten(1) @ sums).tensor_split([sums.shape[1] - _BANDS], dim=1)
    return rings, bands


@lru_cache(maxsize=8)
def _sums(height: int, width: int) -> Tensor:
    """Return what sums rfft2's power to means in rings and sums in octaves, (H (W//2+1), R + 4)."""
    copies = mirrored(width).expand(height, -1).flatten()
    ring = ring_of_frequencies(height, width).flatten()
    counts = ring_counts(height, width)
    in_ring = (ring[:, None] == torch.arange(len(counts))) * (copies[:, None] / counts)
    band = band_of_frequencies(height, width, OCTAVES).flatten()
    return torch.cat([in_ring, (band[:, None] == torch.arange(_BANDS)) * copies[:, None]], 1)
