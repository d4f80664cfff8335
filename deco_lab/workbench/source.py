"""Where a picture comes from that is looked into: a photograph, the last run, or a person."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import CropSampler, bundled_crops
from deco_lab.workbench.record import Record

SOURCES = {
    "photograph": "A crop of the bundled photograph of the class.",
    "last run": "An image that the Sample tab drew last, of its own class.",
    "own picture": "A picture of your own, cut to its centre square.",
}
"""Names of the sources, and what each is."""


def picture_from(
    source: str,
    *,
    image_size: int,
    class_id: int = 0,
    seed: int = 0,
    record: Record | None = None,
    index: int = 0,
    picture: Image.Image | None = None,
) -> Tensor:
    """Return a picture of a model's size, (3, image_size, image_size) in [-1, 1].

    Parameters
    ----------
    source : str
        A name in SOURCES.
    image_size : int
        Sides, in pixels.
    class_id, seed : int
        Of "photograph": the bundled photograph's number, and which crop of it.
    record, index : Record, int
        Of "last run": the run, and which of its images, from 0.
    picture : PIL.Image.Image
        Of "own picture".

    Raises
    ------
    ValueError
        For another source, or where what it needs is missing or cannot be read.
    """
    if source == "photograph":
        whole = isinstance(class_id, int) and not isinstance(class_id, bool)
        if not whole or class_id not in range(len(PHOTOGRAPHS)):
            raise ValueError(
                f"class_id must be that of a bundled photograph, from 0 to {len(PHOTOGRAPHS) - 1}, "
                f"got {str(class_id)[:60]}; choose another source"
            )
        generator = torch.Generator().manual_seed(seed)
        return _photographs(image_size).sample(1, generator, torch.tensor([class_id])).images[0]
    if source == "last run":
        if record is None:
            raise ValueError("there is no run to take an image from yet; draw one first")
        if index not in range(len(record.images)):
            raise ValueError(
                f"image must be one of 1 to {len(record.images)}, those of the last run, "
                f"got {_counted(index)}"
            )
        image = record.images[index]
        if image.shape[-1] != image_size:
            raise ValueError(
                f"the last run's images must have the model's size, {image_size}, got "
                f"{image.shape[-1]}; draw with this model first"
            )
        return image.clamp(-1, 1)
    if source == "own picture":
        if picture is None:
            raise ValueError("there is no picture of your own yet; choose a file, or drop one")
        return prepare(picture, image_size)
    raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {str(source)[:60]!r}")


def prepare(picture: Image.Image, image_size: int) -> Tensor:
    """Return a picture's centre square as an image, (3, S, S) in [-1, 1], reduced without aliasing.

    Parameters
    ----------
    picture : PIL.Image.Image
        Such as `deco_lab.data.open_picture` returns, which turns it upright and opaque.
    image_size : int
        S, in pixels.
    """
    # Pillow's bicubic filter widens with the reduction.
    square = ImageOps.fit(
        picture.convert("RGB"), (image_size, image_size), Image.Resampling.BICUBIC
    )
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1


def _counted(index: Any) -> str:
    return str(index + 1) if isinstance(index, int) else str(index)[:60]


@lru_cache(maxsize=2)
def _photographs(image_size: int) -> CropSampler:
    """Return the sampler, kept: resizing fourteen photographs takes longer than a model."""
    return bundled_crops(image_size)
