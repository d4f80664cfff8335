"""What a source of training images is: something that cuts a batch of labelled square crops.

What a batch holds depends on the generator alone, and every crop's numbers are drawn before any is
cut. So processes that train together can each draw the whole batch's numbers and cut their own
rows, `rows=slice(first, last)`, and their crops are those of the whole batch, bit by bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images, their labels and what they were cut from: `images, class_ids = batch` works."""

    images: Tensor
    """(B, 3, H, W), float32 in [-1, 1]."""
    class_ids: Tensor
    """(B,), int64."""
    pictures: Tensor | None = None
    """(B,), int64, on the CPU: the number of the picture that each was cut from, the `groups` of an
    analysis or evaluation; None where each has one of its own."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images and their labels."""
        yield from (self.images, self.class_ids)


class Crops(Protocol):
    """A source of labelled square crops."""

    @property
    def image_size(self) -> int:
        """Side of a crop, in pixels."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class, or none at all."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the crops end up."""
        ...

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        class_ids: Tensor | None = None,
        *,
        rows: slice | None = None,
    ) -> Batch:
        """Return `count` crops, or only those `rows` of them.

        Parameters
        ----------
        count : int
            How many crops the whole batch has.
        generator : torch.Generator
            On the CPU, so that the same seed cuts the same crops on every device. It moves on by
            the whole batch, whatever the rows.
        class_ids : Tensor, optional
            (count,), the classes to cut from; drawn uniformly when not given.
        rows : slice, optional
            The rows of the batch to cut; all when not given.

        Returns
        -------
        Batch
            On the source's device.

        Raises
        ------
        ValueError
            Where class_ids are not `count` known labels.
        """
        ...


def check_class_ids(class_ids: Tensor, count: int, num_classes: int) -> Tensor:
    """Return the labels on the CPU; raise ValueError unless they are `count` known ones."""
    class_ids = class_ids.cpu()
    known = (class_ids >= 0) & (class_ids < num_classes)
    if class_ids.shape != (count,) or not known.all():
        raise ValueError(
            f"class_ids must be {count} labels from 0 to {num_classes - 1}, one for each "
            f"crop, got {class_ids.tolist()}"
        )
    return class_ids


def check_scale_range(scale_range: tuple[float, float]) -> tuple[float, float]:
    """Return the range; raise ValueError unless crops of an image size fit into all its scales."""
    low, high = scale_range
    if not 1 <= low <= high < float("inf"):  # NaN is in no range
        raise ValueError(
            "scale_range must be two numbers of image sizes, 1 or more, the smaller first, "
            f"got {scale_range}; (1, 1) crops as much as fits"
        )
    return low, high


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
