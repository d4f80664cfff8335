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


def measure(steps: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return what is computed where the images are, for `spectra_of` to go on with on the CPU.

    Parameters
    ----------
    steps : sequence of mapping
        Of each step "noisy", and where there are any "predicted" and "velocity", and "guidance"
        and "class" (what guidance added to the class's velocity): (B, 3, H, W), all of one shape.

    Returns
    -------
    energies, power : Tensor
        (K, 8, 8) of the first three signals of all steps, and (S, H, W // 2 + 1) of all signals.
    """
    images = [(name in _IN_BLOCKS, images) for step in steps for name, images in step.items()]
    blocks = torch.stack([one for in_blocks, one in images if in_blocks]).float()
    energies = image_energies(blocks.flatten(0, 1)).unflatten(0, blocks.shape[:2]).mean(1)
    parts = torch.view_as_real(torch.fft.rfft2(torch.stack([one for _, one in images]).float()))
    return energies, parts.square().sum(-1).mean((1, 2))


def spectra_of(
    steps: Sequence[Mapping[str, Tensor]], energies: Tensor, power: Tensor
) -> list[dict[str, Tensor]]:
    """Return the curves of each step's images from what `measure` made of them, on the CPU.

    Returns
    -------
    list of dict
        Of each step and signal but "class" "{signal}_power", (R,), and for the first three
        "{signal}_energy", (64,), in zigzag order; with "predicted" also "predicted_bands", (4,),
        the mean square of its octaves, and with "class" "guidance_bands", (4,), the energy of
        "guidance" over that of "class".
    """
    in_order = iter(in_zigzag(energies))
    height, width = next(iter(steps[0].values())).shape[-2:]
    powers = iter(zip(*_powers(power, height, width), strict=True))
    measured = []
    for step in steps:
        curves, bands = {}, {}
        for name in step:
            rings, bands[name] = next(powers)
            if name in _IN_BLOCKS:
                curves[f"{name}_energy"] = next(in_order)
            if name != "class":
                curves[f"{name}_power"] = rings
        if "predicted" in step:
            curves["predicted_bands"] = bands["predicted"] / (height * width)
        if "class" in step:
            curves["guidance_bands"] = bands["guidance"] / bands["class"]
        measured.append(curves)
    return measured


def in_zigzag(energy: Tensor) -> Tensor:
    """Return 8 x 8 energies, (..., 8, 8), as (..., 64), low frequencies first."""
    return energy.flatten(-2)[..., zigzag_index(energy.shape[-1], energy.device)]


def _powers(power: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return mean power in rings, (S, R), and energy in octaves, (S, 4).

    As `radial_power` and `split_bands` have them, in one transform.
    """
    sums = _sums(height, width)
    power = power.double().flatten(1) / (height * width)
    rings, bands = (power @ sums).tensor_split([sums.shape[1] - _BANDS], dim=1)
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
