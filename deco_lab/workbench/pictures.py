"""Images as bytes that a page draws without decoding anything: red, green, blue, row by row."""

import base64
import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

MAX_SIDE = 512
"""Longest side, in pixels, of the square that shows a run's images; larger ones are averaged."""


@dataclass(frozen=True)
class Pictures:
    """Images of one size, ready for JSON; `drawPictures` in panel/draw.js puts them on a canvas."""

    count: int
    height: int
    width: int
    shrink: int
    """Whole factor by which the images were averaged down; 1 is none."""
    pixels: str
    """count * height * width * 3 bytes in base64."""


def to_pictures(images: Tensor, low: float = -1.0, high: float = 1.0) -> Pictures:
    """Return images, (B, 3, H, W) or (B, 1, H, W), with low as black and high as white, clipped."""
    columns = math.ceil(math.sqrt(len(images)))
    shrink = max(1, math.ceil(columns * max(images.shape[-2:]) / MAX_SIDE))
    if shrink > 1:
        images = F.avg_pool2d(images, shrink, ceil_mode=True)
    count, _, height, width = images.shape
    shades = (images.float() - low).mul_(255 / (high - low)).nan_to_num_(0, 255, 0)
    shades = shades.round_().clamp_(0, 255).byte().expand(-1, 3, -1, -1)
    data = shades.permute(0, 2, 3, 1).contiguous().cpu().numpy().tobytes()
    return Pictures(count, height, width, shrink, base64.b64encode(data).decode())


def plain(values: Tensor) -> list:
    """Return a tensor as nested lists of four significant digits; JSON knows no NaN: None."""
    if values.ndim > 1:
        return [plain(row) for row in values]
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values.tolist()]
