"""A model looked into block by block, where it draws one image: what each adds, and what is there.

    change_i  = |s_i - s_{i-1}| / |s_{i-1}|        s_i the tokens after block i, s_0 the patches'
    decoded_i = x_t + (1 - t) velocity(s_i)        as if block i were the last: the "logit lens" [1]

What is decoded after the last block is the model's own prediction. Maps show the tokens' first
three principal components as red, green and blue, in one basis for all blocks, so that a colour
means the same in each: of every block's tokens, less their mean over the patches and at a root mean
square of 1.

References
----------
[1] nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.labels import labels_of
from deco_lab.setting import check_number, check_whole
from deco_lab.spectra import OCTAVES, band_names, block_tokens, split_bands, token_map
from deco_lab.spectra.bands import EMPTY, bands_of
from deco_lab.spectra.frequencies import radial_frequency
from deco_lab.workbench.parts import name_of_class
from deco_lab.workbench.pictures import PackedImages, plain, to_pictures

Array = NDArray[np.float64]

GRAIN = (0.0, 1 / 4, 1 / 2)
"""Edges in cycles per patch, of three bands above the mean: of a grid of 8 x 8 patches the first
has waves of 8 patches, the last the finest along an axis and the corners beyond."""
NEAR = 0.1
"""A band is near where the difference has less than this part of the prediction's energy."""
ROWS_AT_ONCE = 8
"""Blocks that are decoded together."""


@dataclass(frozen=True, kw_only=True)
class BlockView:
    """What is known of the tokens after one block."""

    change: float | None
    """Norm of what the block adds to the tokens, over the norm of those that it was given."""
    map: PackedImages
    """A pixel for each patch: components 1 to 3 as red, green and blue, grey where they are 0."""
    explained: float | None
    """Share of the tokens' variance over the patches that the map's three components hold."""
    grain: list[float | None]
    """Share of that variance in each band of frequency over the patches, see GRAIN; they sum to 1.
    None where the tokens are all alike."""
    decoded: PackedImages
    """The predicted image if this were the last block."""
    energy: list[float | None]
    """By octave: that image's energy over the prediction's; None where the prediction has none."""
    differs: list[float | None]
    """By octave: energy of its difference from the prediction over the prediction's."""


@dataclass(frozen=True, kw_only=True)
class LayersView:
    """All that is shown of a model's blocks; JSON-ready through `dataclasses.asdict`."""

    settings: dict[str, Any]
    """"name", "class_id", "class_name", "t", "image_size" and "patch_size"."""
    says: str
    """From which block on the picture is near the prediction, in two sentences."""
    blocks: list[BlockView]
    bands: list[str]
    """Names of the octaves, in cycles per pixel."""
    grain_bands: list[str]
    """Names of the bands of GRAIN, in cycles per patch."""
    white_grain: list[float | None]
    """The shares that tokens without any order would have of them."""
    dit_passes: int
    heads: int
    """Passes of the pixel decoder, or of a single DiT's last layer: one for each block."""
    milliseconds: float


class TokenColours(NamedTuple):
    """Tokens of L blocks as colours."""

    maps: Tensor
    """(L, 3, rows, columns), in [-1, 1]."""
    explained: Array
    """(L,), NaN where the tokens are all alike."""


@torch.no_grad()
def look_inside(
    model: Any, x: Tensor, t: float, class_id: int, *, name: str = "this model"
) -> LayersView:
    """Return what each block of the DiT adds to one image's tokens, and what is drawn of them.

    Costs one pass of the DiT, and one of the decoder (or last layer) for each block.

    Parameters
    ----------
    model : object
        A `DeCo` or a `DiT`.
    x : Tensor
        (3, S, S), what the model is given at t, such as the state of a run.
    t : float
        In [0, 1]: 0 is noise.
    class_id : int
        From 0 to num_classes, the null class.
    name : str
        What to call the model in a message.

    Raises
    ------
    ValueError
        For a model without blocks or whose answer is not finite, and where an argument breaks a
        rule above.
    """
    started = time.perf_counter()
    if not (hasattr(model, "backbone") and hasattr(model, "from_features")):
        raise ValueError(f"{name} has no blocks to look into; choose a DeCo or a single DiT")
    config = model.config
    side = x.shape[-1] // config.patch_size
    check_whole("class_id", class_id, 0, config.num_classes)
    check_number("t", t, 0, 1)

    device = next(model.parameters()).device
    given = x[None].to(device)
    label = labels_of([class_id], 1, model).to(device).values
    before, *stream = (tokens.float() for tokens in block_tokens(model, given, t, label))
    decoded = _decoded(model, given, stream, t, label)
    if not bool(decoded.isfinite().all()):
        raise ValueError(
            f"{name} must answer with finite numbers, got NaN or infinity; check its weights"
        )
    change = [float((new - old).norm() / old.norm()) for old, new in pairwise([before, *stream])]
    tokens = torch.cat(stream).cpu()
    colours = token_colours(tokens, side)
    grain = token_grain(tokens, side)
    bands, off = (_energy(images) for images in (decoded, decoded - decoded[-1:]))
    whole = np.where(bands[-1] > EMPTY * bands[-1].sum(), bands[-1], np.nan)
    blocks = [
        BlockView(
            change=plain(change[i]),
            map=to_pictures(colours.maps[i : i + 1]),
            explained=plain(float(colours.explained[i])),
            grain=plain(grain[i].tolist()),
            decoded=to_pictures(decoded[i : i + 1]),
            energy=plain((bands[i] / whole).tolist()),
            differs=plain((off[i] / whole).tolist()),
        )
        for i in range(len(stream))
    ]
    return LayersView(
        settings={
            "name": name,
            "class_id": class_id,
            "class_name": name_of_class(config, class_id),
            "t": t,
            "image_size": x.shape[-1],
            "patch_size": config.patch_size,
        },
        says=_said(t, off / whole, change),
        blocks=blocks,
        bands=band_names(OCTAVES),
        grain_bands=band_names(GRAIN)[1:],
        white_grain=plain(_white_grain(side)),
        dit_passes=1,
        heads=len(stream),
        milliseconds=round(1000 * (time.perf_counter() - started), 1),
    )


def _decoded(model: Any, x: Tensor, stream: list[Tensor], t: float, label: Tensor) -> Tensor:
    """Return the predicted image of the tokens after each block, (L, 3, S, S)."""
    images = []
    for some in torch.cat(stream).split(ROWS_AT_ONCE):
        count = len(some)
        rows, at = x.expand(count, *x.shape[1:]), x.new_full((count,), t)
        features = some.to(model.backbone.patch_embedding.weight.dtype)
        velocity = model.from_features(rows, features, at, label.expand(count))
        images.append(rows + (1 - t) * velocity)
    return torch.cat(images).float()


def token_colours(tokens: Tensor, side: int) -> TokenColours:
    """Return tokens of L blocks, (L, N, D), as colours of a grid, in one basis for all blocks.

    Each component has its own scale, at which 1% of all patches are beyond black or white; its sign
    is that of its largest weight.
    """
    centred = tokens.double() - tokens.double().mean(1, keepdim=True)
    rms = centred.square().mean((1, 2), keepdim=True).sqrt()
    known = rms > 1e-6 * tokens.double().square().mean((1, 2), keepdim=True).sqrt()
    alike = torch.where(known, centred / rms, torch.zeros_like(centred))
    values, vectors = torch.linalg.eigh(sum(each.T @ each for each in alike))
    basis = vectors[:, -3:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    basis = basis * (values[-3:].flip(0) > 1e-9 * values.sum())  # what is only rounding stays grey
    components = alike @ basis  # (L, N, 3)
    scale = np.percentile(components.abs().numpy(), 99, axis=(0, 1))
    shown = (components / torch.from_numpy(np.where(scale > 0, scale, 1))).clamp(-1, 1)
    total = alike.square().sum((1, 2)).numpy()
    held = components.square().sum((1, 2)).numpy()
    maps = token_map(shown.float(), side, side).contiguous()
    return TokenColours(maps, held / np.where(total > 0, total, np.nan))


def token_grain(tokens: Tensor, side: int) -> Array:
    """Return the share of variance over a grid's patches in each band of GRAIN, (L, 3).

    Of tokens (L, N, D), all their D values together; NaN where the tokens are all alike.
    """
    maps = (token_map(each[None].double(), side, side) for each in tokens)
    energy = torch.stack([split_bands(each, GRAIN).square().sum((1, 2, 3, 4)) for each in maps])
    varying = energy[:, 1:].sum(1, keepdim=True)
    varying[varying <= EMPTY * energy.sum(1, keepdim=True)] = torch.nan
    return (energy[:, 1:] / varying).numpy()


def _white_grain(side: int) -> Tensor:
    """Return the share of a grid's frequencies above 0 in each band of GRAIN, (3,)."""
    band = bands_of(radial_frequency(side, side), GRAIN)
    counts = band.flatten().bincount(minlength=len(GRAIN) + 1)[1:].double()
    return counts / counts.sum()


def _energy(images: Tensor) -> Array:
    """Return the energy of images, (L, 3, S, S), by octave, (L, 4)."""
    bands = split_bands(images, OCTAVES).cpu().double()
    return bands.square().sum((2, 3, 4)).T.numpy()


def _said(t: float, differs: Array, change: list[float]) -> str:
    """Return from which block on the coarsest and finest band are near, and which adds most."""
    names, depth = band_names(OCTAVES), len(differs)
    most = int(np.argmax(change))
    added = f"Block {most + 1} adds most: {change[most]:.2f} times the tokens that it is given."
    where = []
    for k in (0, -1):
        far = [block for block in range(1, depth) if differs[block - 1, k] > NEAR]
        where += [] if np.isnan(differs[-1, k]) else [(names[k], max(far, default=0) + 1)]
    if not where:
        return f"t = {t:.2f}: the predicted image is empty. {added}"
    (name, block), finest = where[0], where[-1]
    said = (
        f"t = {t:.2f}: decoded from block {block} of {depth} on, the picture is within {NEAR:.0%} "
    )
    said += f"of the prediction, by energy, {name} cycles a pixel"
    if finest[0] != name:
        said += f"; {finest[0]} {'too' if finest[1] == block else f'from block {finest[1]} on'}"
    return f"{said}. {added}"
