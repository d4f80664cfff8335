"""A step as a screen shows it: pictures as bytes, and curves of four digits, ready for JSON."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.spectra import split_bands
from deco_lab.workbench.pictures import PackedImages, shades_of

RANGES = {"noisy": 1.0, "predicted": 1.0, "velocity": 3.0}
"""A frame's pictures: each from minus to plus this is shown from black to white, clipped."""
ADDED = 0.5
"""The same of what an image's own pixels add to it."""
BAND_RANGES = (1.0, 0.5, 0.4, 0.3)
"""The same of its bands, OCTAVES apart."""
BAND_SIDE = 64
"""Pixels to a side of a band's picture: the middle of a larger image, of the lowest band all."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One step, ready for JSON; index 0 is the noise and has no prediction."""

    index: int
    t: float
    """Time of the state, in [0, 1]."""
    t_start: float | None
    """Time at which the step started; None for the noise."""
    nfe: int
    """Network passes per image so far."""
    sampling_ms: float
    """Milliseconds the sampler took for this step, without what is measured beside it."""
    noisy: PackedImages
    """The state."""
    predicted: PackedImages | None
    """The predicted image."""
    velocity: PackedImages | None
    """The step's velocity."""
    drawn: PackedImages | None
    """What the class predicts of the first image, before guidance; what its condition draws of it
    with the pixels of others; and what its own pixels add to that, from minus to plus ADDED."""
    bands: PackedImages | None
    """The first of these by band, lowest first, see BAND_RANGES; without parts of `predicted`."""
    says: str
    """What the parts draw of the predicted image, or why they have no shares, in a sentence or two;
    "" where there are none."""
    curves: dict[str, list]
    """By name, those of CURVES with axes that there are: four digits, None where undefined."""


@dataclass(frozen=True)
class Update:
    """What a run has to say: where it stands, and its next frames."""

    status: str
    """"running", "done" or "stopped"."""
    text: str
    """The same in a sentence."""
    frames: list[Frame]
    """Those of the steps since the last update, in order."""
    settled: list[float | None] | None = None
    """When the first image's bands were settled, in t, the channels' means first; of the end of a
    run. None for a band that settled only with the last step."""


def bands_of(images: Tensor) -> Tensor:
    """Return the bytes of each image's bands, (B, 4, side, side, 3)."""
    bands = split_bands(images) / _ranges_on(images.device)
    height, width = images.shape[-2:]
    side = min(BAND_SIDE, height, width)
    if (height, width) != (side, side):
        top, left = (height - side) // 2, (width - side) // 2
        cut = bands[..., top : top + side, left : left + side].clone()
        cut[0] = F.adaptive_avg_pool2d(bands[0], side)
        bands = cut
    flat = bands.transpose(0, 1).flatten(0, 1)
    return shades_of(flat, shrink=1).unflatten(0, (len(images), -1))


@lru_cache(maxsize=4)
def _ranges_on(device: torch.device) -> Tensor:
    """Return BAND_RANGES, (4, 1, 1, 1, 1), so that a GPU gets them once."""
    return torch.tensor(BAND_RANGES, device=device).view(-1, 1, 1, 1, 1)


def shades(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the bytes of a frame's pictures."""
    return {
        name: shades_of(images[name], -most, most)
        for name, most in RANGES.items()
        if name in images
    }
