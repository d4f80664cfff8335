"""A few photographs to images in [-1, 1]: random square crops, cut on the device that trains.

Every photograph is resized once, anti-aliased, to each of a row of sizes. A crop is then a window
of one of the copies, found by indexing alone, which is cheap on a CPU and does not starve a GPU:

    image[r, c] = pixels[offset + (top + r) * width + left + c]

References
----------
[1] van der Walt et al., "scikit-image: image processing in Python", PeerJ 2:e453, 2014; its wheel
    carries fourteen of the bundled photographs, those of scikit-learn (china and flower, CC BY 2.0)
    and matplotlib (grace_hopper, public domain) the other three.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data.crops import Batch, check_class_ids, check_scale_range

SCALE_RANGE = (1.1, 2.6)
"""Shorter side of a resized photograph, in image sizes."""


def load_photograph(name: str) -> NDArray[np.uint8]:
    """Return one of the bundled photographs by name, (H, W, 3), uint8; grey ones repeated.

    Raises
    ------
    ValueError
        For a name that is not one of the bundled photographs.
    """
    from matplotlib import cbook
    from skimage import color, data
    from sklearn.datasets import load_sample_image

    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    if name == "motorcycle_left":
        picture = data.stereo_motorcycle()[0]
    elif name in ("china", "flower"):
        picture = load_sample_image(f"{name}.jpg")
    elif name == "grace_hopper":
        picture = np.array(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    else:
        picture = getattr(data, "immunohistochemistry" if name == "ihc" else name)()
    return color.gray2rgb(picture) if picture.ndim == 2 else picture


class CropSampler:
    """Draws random crops of photographs, one class for each photograph.

    A crop: the photograph resized, anti-aliased, so that its shorter side is uniform in
    `scale_range` image sizes (on `num_scales` evenly spaced sizes), a uniformly random square
    window of it, flipped left to right half of the time.

    Parameters
    ----------
    photographs : sequence of array
        Each (H, W, 3), uint8.
    image_size : int
        Side of a crop, in pixels.
    class_names : sequence of str
        One name for each photograph, or none at all.
    scale_range : tuple of float
        Shorter side of a resized photograph, smallest and largest, in image sizes.
    flip : bool
        Whether half of the crops are flipped.
    num_scales : int
        How many sizes to keep each photograph in.
    device : torch.device or str
        Where the copies live and the crops are cut.

    Raises
    ------
    ValueError
        Without photographs, for one that is not (H, W, 3) of uint8, for names that are not as many,
        or scales below 1.
    """

    def __init__(
        self,
        photographs: Sequence[NDArray[np.uint8]],
        image_size: int,
        *,
        class_names: Sequence[str] = (),
        scale_range: tuple[float, float] = SCALE_RANGE,
        flip: bool = True,
        num_scales: int = 32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not photographs:
            raise ValueError("photographs must hold at least one picture, got none")
        if class_names and len(class_names) != len(photographs):
            raise ValueError(
                f"class_names must hold one name for each of {len(photographs)} photographs or "
                f"none, got {len(class_names)}"
            )
        self.image_size = image_size
        self.num_classes = len(photographs)
        self.class_names = tuple(class_names)
        self.flip = flip
        low, high = check_scale_range(scale_range)
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
        self,
        count: int,
        generator: torch.Generator,
        class_ids: Tensor | None = None,
        *,
        rows: slice | None = None,
    ) -> Batch:
        """Return `count` crops, or only those `rows` of them, as `Crops.sample` says."""
        S = self.image_size
        drawn = torch.rand(count, 5, generator=generator, dtype=torch.float64, device="cpu")
        if class_ids is None:
            class_ids = (drawn[:, 0] * self.num_classes).long()
        class_ids = check_class_ids(class_ids, count, self.num_classes)
        if rows is not None:
            drawn, class_ids = drawn[rows], class_ids[rows]
        copy = class_ids * len(self.sides) + (drawn[:, 1] * len(self.sides)).long()
        height, width = self._shapes[copy].unbind(1)
        top = (drawn[:, 2] * (height - S + 1)).long()
        left = (drawn[:, 3] * (width - S + 1)).long()
        flip = (drawn[:, 4] < 0.5) & self.flip
        start = self._offsets[copy] + top * width + left + flip * (S - 1)
        direction = 1 - 2 * flip.long()
        start, direction, width = (
            v.to(self.device)[:, None, None] for v in (start, direction, width)
        )
        place = torch.arange(S, device=self.device)
        index = start + place[:, None] * width + direction * place
        images = self._pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(images.contiguous(), class_ids.to(images.device), class_ids)


def bundled_crops(image_size: int = 64, device: torch.device | str = "cpu") -> CropSampler:
    """Return the sampler over the seventeen photographs, in the bundled label order."""
    photographs = [load_photograph(name) for name in PHOTOGRAPHS]
    return CropSampler(photographs, image_size, class_names=PHOTOGRAPHS, device=device)
