"""What the frequency-aware loss weighs: its tables, a picture split by them, a model's own loss.

    FreqFM = mean_{c,u,v} w[c,u,v] (DCT(YCbCr(velocity - target))[c,u,v])^2        FM: all w are 1

w comes from JPEG's quantisation steps at a quality: fine steps weigh much. The luminance table
weighs Y, the chrominance table Cb and Cr, each with mean 1. Coefficients of weight 1 and above are
favoured: they count for more than in FM. Those below are neglected.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import CropSampler, load_photograph
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.setting import check_number, check_whole
from deco_lab.spectra import (
    OCTAVES,
    Estimate,
    band_names,
    block_dct,
    favoured_parts,
    frequency_weights,
    jpeg_table,
    loss_bands,
    rgb_to_ycbcr,
)
from deco_lab.workbench.pictures import PackedImages, plain, to_pictures, white_of

MAX_GAMMA = 4.0
"""Greatest exponent of the weights; 1 is usual."""
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where `loss_share` asks the model; 0 is noise."""
CROPS = 2 * len(PHOTOGRAPHS)
"""Crops of the bundled photographs that it asks about, two of each."""
NOISES = 8
"""Noises that it draws for a picture of one's own."""
CHANNELS = ("Y", "Cb", "Cr")
TERMS = ("FM", "FreqFM")

_AT_ONCE = 17
_LIKE_ONE = 1 - 1e-9  # weights that normalisation has rounded count as 1, as in favoured_parts


@dataclass(frozen=True, kw_only=True)
class ChannelWeights:
    """Tables of one channel; rows are vertical index u, columns horizontal index v."""

    channel: str
    """In CHANNELS: brightness, blueness, redness."""
    table: str
    """JPEG's table that it has: "luminance" or "chrominance"."""
    quantisation_steps: list[list[int]]
    """8 x 8, from 1, fine, to 255."""
    weights: list[list[float]]
    """8 x 8, of mean 1."""
    favoured: list[list[bool]]
    """8 x 8, whether a weight is 1 or more."""


@dataclass(frozen=True)
class WeightsView:
    """What a quality and gamma make of the loss; JSON-ready through `dataclasses.asdict`."""

    quality: int
    gamma: float
    cycles_per_pixel: list[float]
    """(8,), of an index along its axis: index / 16."""
    channels: list[ChannelWeights]
    """In the order of CHANNELS."""


@dataclass(frozen=True, kw_only=True)
class SplitView:
    """A picture as the sum of what the loss favours and neglects."""

    quality: int
    gamma: float
    original: PackedImages
    favoured: PackedImages
    """On the original's scale, clipped."""
    neglected: PackedImages
    """Grey is 0, white is `scale` and black -`scale`."""
    scale: float
    favoured_share: dict[str, float | None]
    """By channel and "all": share of the energy in favoured coefficients; None without energy."""
    favoured_share_of_detail: dict[str, float | None]
    """The same without coefficient (0, 0), each block's mean, which holds most energy."""


@dataclass(frozen=True, kw_only=True)
class LossShareView:
    """Which frequencies a model's loss comes from, at each time."""

    quality: int
    gamma: float
    measured_on: str
    """A sentence: on how many images."""
    interval_over: str
    """What intervals are over, with their number: photographs or noises."""
    times: list[float]
    bands: list[str]
    """Names of the bands of hypot(u, v) / 16, in cycles per pixel."""
    loss: dict[str, list[float | None]]
    """"FM" and "FreqFM": the loss at each time."""
    shares: dict[str, list[list[dict[str, float | None]]]]
    """"FM" and "FreqFM": for each time and band "value", "low" and "high", a 95% interval. The
    values of a time sum to 1."""


def weights(quality: int = 85, gamma: float = 1.0) -> WeightsView:
    """Return the JPEG tables of a quality, and the loss's weights from them.

    Parameters
    ----------
    quality : int
        JPEG quality, from 1 to 100, where all weights are 1.
    gamma : float
        Exponent of the weights, from 0, where all are 1, to MAX_GAMMA.

    Raises
    ------
    ValueError
        For a quality or gamma out of range.
    """
    w = _weights(quality, gamma)
    channels = [
        ChannelWeights(
            channel=channel,
            table="luminance" if channel == "Y" else "chrominance",
            quantisation_steps=jpeg_table(quality, chrominance=channel != "Y").tolist(),
            weights=plain(of_channel),
            favoured=(of_channel >= _LIKE_ONE).tolist(),
        )
        for channel, of_channel in zip(CHANNELS, w, strict=True)
    ]
    return WeightsView(quality, gamma, [index / 16 for index in range(8)], channels)


def split(image: Tensor, quality: int = 85, gamma: float = 1.0) -> SplitView:
    """Split a picture into what the loss favours and what it neglects.

    Parameters
    ----------
    image : Tensor
        (3, H, W) in [-1, 1], H and W multiples of 8; values beyond are clipped.
    quality, gamma
        As for `weights`.

    Raises
    ------
    ValueError
        For a quality or gamma out of range.
    """
    w = _weights(quality, gamma)
    clean = image[None].cpu().clamp(-1, 1)
    favoured, neglected = favoured_parts(clean, w)
    scale = white_of(neglected)
    energy = block_dct(rgb_to_ycbcr(clean.double())).square().sum((0, 2, 3))
    detail = energy.clone()
    detail[:, 0, 0] = 0
    kept = w >= _LIKE_ONE
    return SplitView(
        quality=quality,
        gamma=gamma,
        original=to_pictures(clean),
        favoured=to_pictures(favoured),
        neglected=to_pictures(neglected, -scale, scale),
        scale=scale,
        favoured_share=_shares_of(energy, kept),
        favoured_share_of_detail=_shares_of(detail, kept),
    )


@torch.no_grad()
def loss_share(
    model: Any,
    quality: int = 85,
    gamma: float = 1.0,
    *,
    image: Tensor | None = None,
    class_id: int | None = None,
    seed: int = 0,
    name: str = "this model",
) -> LossShareView:
    """Measure which bands a model's loss comes from, over t.

    Without an image: CROPS fresh crops of the bundled photographs, for models of these classes.
    With one: only that picture, with NOISES noises.

    Parameters
    ----------
    model : object
        velocity = model(x, t, class_ids), with `config`; needs no pixel decoder.
    quality, gamma
        As for `weights`: they weigh the errors of the model as it is, and train nothing.
    image : Tensor, optional
        (3, S, S) in [-1, 1], S the model's image size.
    class_id : int, optional
        The image's label, from 0 to num_classes, the null class; needed with an image.
    seed : int
        Of crops and noises.
    name : str
        What to call the model in a message.

    Raises
    ------
    ValueError
        Without an image for a model of other classes, where an argument breaks its rule, or
        where the model's answer is not finite.
    """
    _weights(quality, gamma)
    check_whole("seed", seed, 0, 2**31)
    config = model.config
    if image is None:
        if tuple(config.class_names) != PHOTOGRAPHS:
            raise ValueError(
                f"{name} does not draw the bundled photographs, so its loss on them would say "
                "nothing; choose a picture of your own, and its class"
            )
        images, labels = _crops(config.image_size, seed)
        groups, over = labels, f"{len(PHOTOGRAPHS)} photographs"
        measured_on = (
            f"{CROPS} crops of the bundled photographs, two of each, with one noise each: the "
            "photographs that this model has learned"
        )
    else:
        label = check_whole("class_id", class_id, 0, config.num_classes)
        images = image.cpu().clamp(-1, 1).expand(NOISES, -1, -1, -1)
        labels = torch.full((NOISES,), label)
        groups, over = None, f"{NOISES} noises"
        measured_on = f"one picture with {NOISES} noises: intervals say nothing of other pictures"
    device = next(model.parameters()).device
    noise = seeded_noise(len(images), images.shape[1:], seed)
    at_times = []
    for t in TIMES:
        x = interpolate(images, noise, t).to(device)
        at, given = torch.full((len(x),), t, device=device), labels.to(device)
        pieces = zip(x.split(_AT_ONCE), at.split(_AT_ONCE), given.split(_AT_ONCE), strict=True)
        velocity = torch.cat([model(*piece).float().cpu() for piece in pieces])
        if not bool(velocity.isfinite().all()):
            raise ValueError(
                f"{name} must answer with finite numbers, got NaN or infinity; check its weights"
            )
        at_times.append(
            loss_bands(
                velocity, images - noise, quality=int(quality), gamma=float(gamma), groups=groups
            )
        )
    shares = [bands.band_shares() for bands in at_times]
    return LossShareView(
        quality=quality,
        gamma=gamma,
        measured_on=f"Measured on {measured_on}.",
        interval_over=over,
        times=list(TIMES),
        bands=band_names(OCTAVES),
        loss={
            term: [plain(bands.loss[row].sum((1, 2)).mean()) for bands in at_times]
            for row, term in enumerate(TERMS)
        },
        shares={
            term: [[_ends(share) for share in at_time[term]] for at_time in shares]
            for term in TERMS
        },
    )


def _weights(quality: Any, gamma: Any) -> Tensor:
    check_whole("quality", quality, 1, 100)
    check_number("gamma", gamma, 0, MAX_GAMMA)
    return frequency_weights(quality, gamma)


@lru_cache(maxsize=4)
def _crops(image_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the crops and their labels: kept, since resizing the photographs takes a while."""
    # Eight sizes of each photograph in place of training's 32, over the same range: a quarter of
    # the time.
    photographs = [load_photograph(name) for name in PHOTOGRAPHS]
    sampler = CropSampler(photographs, image_size, num_scales=8)
    labels = torch.arange(len(PHOTOGRAPHS)).repeat(CROPS // len(PHOTOGRAPHS))
    generator = torch.Generator().manual_seed(seed)
    batch = sampler.sample(CROPS, generator, labels)
    return batch.images, batch.class_ids


def _shares_of(energy: Tensor, kept: Tensor) -> dict[str, float | None]:
    """Return kept energy over energy, (3, 8, 8), of each channel and of all."""
    parts, totals = (
        torch.cat([each, each.sum(0, keepdim=True)])
        for each in ((energy * kept).sum((1, 2)), energy.sum((1, 2)))
    )
    floor = 1e-12 * totals[-1].clamp(min=1)  # a grey picture's colour is rounding
    shares = torch.where(totals > floor, parts / totals, torch.nan)
    return dict(zip((*CHANNELS, "all"), plain(shares), strict=True))


def _ends(share: Estimate) -> dict[str, float | None]:
    return {end: plain(getattr(share, end)) for end in ("value", "low", "high")}
