"""Photographs to images in [-1, 1] and back: random square crops, cut on the device that trains.

Every photograph is resized once, anti-aliased, to each of a row of sizes. A crop is then a window
of one of the copies, found by indexing alone, which is cheap on a CPU and does not starve a GPU:

    image[r, c] = pixels[offset + (top + r) * width + left + c]

References
----------
[1] van der Walt et al., "scikit-image: image processing in Python", PeerJ 2:e453, 2014; its wheel
    carries the bundled photographs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS

SCALE_RANGE = (1.1, 2.6)
"""Shorter side of a resized photograph, in image sizes."""


class Batch(NamedTuple):
    """Images and their labels."""

    images: Tensor
    """(B, 3, H, W), float32 in [-1, 1]."""
    class_ids: Tensor
    """(B,), int64."""


def load_photograph(name: str) -> NDArray[np.uint8]:
    """Return one of scikit-image's photographs by name, (H, W, 3), uint8; grey ones repeated.

    Raises
    ------
    ValueError
        For a name that is not one of the bundled photographs.
    """
    from skimage import color, data

    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    if name == "motorcycle_left":
        picture = data.stereo_motorcycle()[0]
    else:
        picture = getattr(data, "immunohistochemistry" if name == "ihc" else name)()
    return color.gray2rgb(picture) if picture.ndim == 2 else picture


class CropSampler:
    """Draws random crops of photographs, one class for each photograph.

    A crop: the photograph resized, anti-aliased, so that its shorter side is uniform in 1.1 to 2.6
    image sizes (on `num_scales` evenly spaced sizes), a uniformly random square window of it,
    flipped left to right half of the time.

    Parameters
    ----------
    photographs : sequence of array
        Each (H, W, 3), uint8.
    image_size : int
        Side of a crop, in pixels.
    num_scales : int
        How many sizes to keep each photograph in.
    device : torch.device or str
        Where the copies live and the crops are cut.

    Raises
    ------
    ValueError
        Without photographs, or for one that is not (H, W, 3) of uint8.
    """

    def __init__(
        self,
        photographs: Sequence[NDArray[np.uint8]],
        image_size: int,
        *,
        num_scales: int = 32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not photographs:
            raise ValueError("photographs must hold at least one picture, got none")
        self.image_size = image_size
        self.num_classes = len(photographs)
        low, high = SCALE_RANGE
        self.sides = np.unique(
            np.round(np.linspace(low * image_size, high * image_size, num_scales)).astype(int)
        )
        copies, shapes = [], []
        for index, picture in enumerate(photographs):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(
                    f"photographs must be (H, W, 3) arrays of uint8, got {picture.shape} of "
                    f"{picture.dtype} at index {index}; convert it to RGB"
                )
            height, width = picture.shape[:2]
            for side in self.sides:
                ratio = side / min(height, width)
                size = (max(side, round(width * ratio)), max(side, round(height * ratio)))
                # Pillow's bicubic filter widens with the reduction, so it does not alias.
                copy = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
                copies.append(torch.from_numpy(np.array(copy)).reshape(-1, 3))
                shapes.append((size[1], size[0]))
        self._shapes = torch.tensor(shapes)
        lengths = self._shapes.prod(1)
        self._offsets = lengths.cumsum(0) - lengths
        self._pixels = torch.cat(copies).to(device)

    @property
    def device(self) -> torch.device:
        """Where the crops are cut."""
        return self._pixels.device

    def sample(
        self, count: int, generator: torch.Generator, class_ids: Tensor | None = None
    ) -> Batch:
        """Return `count` crops.

        Parameters
        ----------
        count : int
            How many.
        generator : torch.Generator
            On the CPU, so that the same seed cuts the same crops on every device.
        class_ids : Tensor, optional
            (count,), the photographs to cut from; drawn uniformly when not given.

        Returns
        -------
        Batch
            On the sampler's device.

        Raises
        ------
        ValueError
            Where class_ids are not `count` known labels.
        """
        S = self.image_size
        drawn = torch.rand(count, 5, generator=generator, dtype=torch.float64, device="cpu")
        if class_ids is None:
            class_ids = (drawn[:, 0] * self.num_classes).long()
        class_ids = class_ids.cpu()
        known = (class_ids >= 0) & (class_ids < self.num_classes)
        if class_ids.shape != (count,) or not known.all():
            raise ValueError(
                f"class_ids must be {count} labels from 0 to {self.num_classes - 1}, one for each "
                f"crop, got {class_ids.tolist()}"
            )
        copy = class_ids * len(self.sides) + (drawn[:, 1] * len(self.sides)).long()
        height, width = self._shapes[copy].unbind(1)
        top = (drawn[:, 2] * (height - S + 1)).long()
        left = (drawn[:, 3] * (width - S + 1)).long()
        flip = drawn[:, 4] < 0.5
        start = self._offsets[copy] + top * width + left + flip * (S - 1)
        direction = 1 - 2 * flip.long()
        start, direction, width = (
            v.to(self.device)[:, None, None] for v in (start, direction, width)
        )
        place = torch.arange(S, device=self.device)
        index = start + place[:, None] * width + direction * place
        images = self._pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(images.contiguous(), class_ids.to(images.device))


def bundled_crops(image_size: int = 64, device: torch.device | str = "cpu") -> CropSampler:
    """Return the sampler over scikit-image's fourteen photographs, in the bundled label order."""
    return CropSampler([load_photograph(name) for name in PHOTOGRAPHS], image_size, device=device)


def to_picture(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return images side by side on one picture of 8 bits a channel, row by row.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W); values outside [-1, 1] are clipped, NaN is grey.
    columns : int, optional
        Images in a row; all in one row when not given. Places left over are black.
    """
    pixels = ((images.detach().float().nan_to_num(0).clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    columns = columns or len(pixels)
    rows = -(-len(pixels) // columns)
    padded = torch.zeros(rows * columns, *pixels.shape[1:], dtype=torch.uint8)
    padded[: len(pixels)] = pixels
    grid = padded.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return Image.fromarray(grid.numpy())
