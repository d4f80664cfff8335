"""Images as bytes that a page draws without decoding anything: red, green, blue, row by row."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SIDE = 512
"""Longest side, in pixels, of the square that shows a run's images; larger ones are averaged."""


@dataclass(frozen=True)
class PackedImages:
    """Images of one size, ready for JSON; `drawPictures` in panel/draw.js puts them on a canvas."""

    count: int
    height: int
    width: int
    shrink: int
    """Whole factor by which the images were averaged down; 1 is none."""
    pixels: str
    """count * height * width * 3 bytes in base64."""


def to_pictures(images: Tensor, low: float = -1.0, high: float = 1.0) -> PackedImages:
    """Return images, (B, 3, H, W) or (B, 1, H, W), with low as black and high as white, clipped."""
    return pack(shades_of(images, low, high).cpu(), shrink_of(images))


def shades_of(
    images: Tensor, low: float = -1.0, high: float = 1.0, shrink: int | None = None
) -> Tensor:
    """Return the bytes of `to_pictures`, (B, height, width, 3), where the images are."""
    shrink = shrink_of(images) if shrink is None else shrink
    if shrink > 1:
        images = F.avg_pool2d(images, shrink, ceil_mode=True)
    shades = (images.float() - low).mul_(255 / (high - low)).nan_to_num_(0, 255, 0)
    shades = shades.round_().clamp_(0, 255).byte().expand(-1, 3, -1, -1)
    return shades.permute(0, 2, 3, 1).contiguous()


def pack(shades: Tensor, shrink: int) -> PackedImages:
    """Return bytes of `shades_of`, on the CPU, for JSON."""
    count, height, width, _ = shades.shape
    data = base64.b64encode(shades.numpy().tobytes()).decode()
    return PackedImages(count, height, width, shrink, data)


def shrink_of(images: Tensor) -> int:
    """Return the whole factor by which images are averaged down."""
    columns = math.ceil(math.sqrt(len(images)))
    return max(1, math.ceil(columns * max(images.shape[-2:]) / MAX_SIDE))


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU, copied together from the device of the last one.

    Each copy would make Python wait for a GPU.
    """
    device = tensors[-1].device  # on MPS, which has no float64, some are on the CPU already
    # The widest first, so that each starts at a multiple of its own width.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    flat = torch.cat([tensors[i].flatten().view(torch.uint8).to(device) for i in order]).cpu()
    parts = flat.split([tensors[i].nbytes for i in order])
    host = {i: part.view(tensors[i].dtype) for i, part in zip(order, parts, strict=True)}
    return [host[i].view(tensor.shape) for i, tensor in enumerate(tensors)]


def white_of(values: Tensor) -> float:
    """Return what white stands for: of two digits, and few values lie beyond."""
    largest = np.percentile(values.abs().cpu().numpy(), 99.5)
    return float(f"{largest:.2g}") if largest > 1e-6 else 1.0


def plain(values: Any) -> Any:
    """Return a tensor, or a number, with four significant digits; JSON knows no NaN: None."""
    values = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(values, list):
        return plain([values])[0]
    if values and isinstance(values[0], list):
        return [plain(row) for row in values]
    rounded = map(float, ("%.4g " * len(values) % tuple(values)).split())  # a run has thousands
    return [value if math.isfinite(value) else None for value in rounded]
