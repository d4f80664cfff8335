"""Sources of training images: what cuts batches of labelled square crops.

What a batch holds depends on the generator only, and every crop's numbers are drawn before any is
cut. So processes that train together can each draw the whole batch's numbers and cut their own
rows, `rows=slice(first, last)`, and their crops are those of the whole batch, bit by bit.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.data.decoding import UnreadablePictureError
from deco_lab.data.pictures import PictureDataset

SCALE_RANGE = (1.1, 2.6)
"""Shorter side of a resized photograph, in image sizes."""
CACHE_BYTES = 4 * 2**30
"""How much memory copies of pictures may take; those beyond it are decoded at every use."""
_CLASS, _PICTURE, _SCALE, _TOP, _LEFT, _FLIP = range(6)
"""What each number drawn for a crop of a picture decides."""


@dataclass(frozen=True)
class ImageBatch:
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


class CropSource:
    """A source of labelled square crops; a kind of it says how numbers are drawn and crops cut."""

    def __init__(
        self,
        image_size: int,
        num_classes: int,
        class_names: Sequence[str],
        device: torch.device | str,
    ) -> None:
        self.image_size = image_size
        """Side of a crop, in pixels."""
        self.num_classes = num_classes
        """Number of labels."""
        self.class_names = tuple(class_names)
        """One name for each class, or none at all."""
        self.present = torch.arange(num_classes)
        """Labels that there are pictures of, (count,)."""
        self.device = torch.device(device)
        """Where the crops end up."""

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        class_ids: Tensor | None = None,
        *,
        rows: slice | None = None,
    ) -> ImageBatch:
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
        ImageBatch
            On the source's device.

        Raises
        ------
        ValueError
            Where class_ids are not `count` known labels, or of a class without pictures, or none of
            a class's pictures can be read.
        """
        numbers, drawn = self._draw(count, generator)
        labels = drawn if class_ids is None else class_ids.cpu()
        known = (labels >= 0) & (labels < self.num_classes)
        if labels.shape != (count,) or not known.all():
            raise ValueError(
                f"class_ids must be {count} labels from 0 to {self.num_classes - 1}, one for each "
                f"crop, got {labels.tolist()}"
            )
        rows = rows or slice(None)
        return self._cut(numbers[rows], labels[rows])

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the numbers that decide each crop, (count, ...), and the labels, (count,)."""
        raise NotImplementedError

    def _cut(self, numbers: Tensor, class_ids: Tensor) -> ImageBatch:
        """Return the crops that numbers and labels stand for."""
        raise NotImplementedError


def _checked(scale_range: tuple[float, float]) -> tuple[float, float]:
    """Return the range; raise ValueError unless crops of an image size fit into all its scales."""
    low, high = scale_range
    if not 1 <= low <= high < float("inf"):  # NaN is in no range
        raise ValueError(
            "scale_range must be two numbers of image sizes, 1 or more, the smaller first, "
            f"got {scale_range}; (1, 1) crops as much as fits"
        )
    return low, high


class CropSampler(CropSource):
    """Draws random crops of a few photographs, one class for each, cut on the device that trains.

    Every photograph is resized once, anti-aliased, to each of a row of sizes. A crop is then a
    window of one of the copies, found by indexing only, which is cheap on a CPU and does not starve
    a GPU:

        image[r, c] = pixels[offset + (top + r) * width + left + c]

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
        For a photograph that is not (H, W, 3) of uint8, or scales below 1.
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
        super().__init__(image_size, len(photographs), class_names, device)
        self.flip = flip
        low, high = _checked(scale_range)
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

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(count, 5, generator=generator, dtype=torch.float64, device="cpu")
        return drawn, (drawn[:, 0] * self.num_classes).long()

    def _cut(self, numbers: Tensor, class_ids: Tensor) -> ImageBatch:
        S = self.image_size
        copy = class_ids * len(self.sides) + (numbers[:, 1] * len(self.sides)).long()
        height, width = self._shapes[copy].unbind(1)
        top = (numbers[:, 2] * (height - S + 1)).long()
        left = (numbers[:, 3] * (width - S + 1)).long()
        flip = (numbers[:, 4] < 0.5) & self.flip
        start = self._offsets[copy] + top * width + left + flip * (S - 1)
        direction = 1 - 2 * flip.long()
        start, direction, width = (
            v.to(self.device)[:, None, None] for v in (start, direction, width)
        )
        place = torch.arange(S, device=self.device)
        index = start + place[:, None] * width + direction * place
        images = self._pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        return ImageBatch(images.contiguous(), class_ids.to(images.device), class_ids)


class PictureCrops(CropSource):
    """Draws crops of any number of pictures, decoded as they are needed, kept small in memory.

    A picture larger than the largest scale asks for is reduced once, anti-aliased, and the reduced
    copy is kept. A crop is then one window of the copy as if the whole of it were resized to the
    drawn side:

        ratio = side / shorter side of the copy,  side = round(scale * image_size)
        window = [left, left + image_size) x [top, top + image_size) of the resized copy's pixels

    The window lies on the pixels of the resized copy, not between them: at the copy's own scale it
    is the copy's pixels unchanged, and no spectrum is smoothed by a shift of half a pixel.

    A class is drawn uniformly among those that have pictures, and then a picture uniformly in the
    class: rare classes are seen as often as frequent ones. A crop is the picture resized,
    anti-aliased, so that its shorter side is uniform in `scale_range` image sizes, a square window
    of it, flipped left to right half of the time. Small pictures are enlarged. A picture that
    cannot be read is replaced by the next of its class that can.

    What is cut depends only on the generator and the pictures, not on what is kept in memory, the
    threads or the rows.

    Parameters
    ----------
    pictures : PictureDataset
        What to cut from.
    image_size : int
        Side of a crop, in pixels.
    scale_range : tuple of float
        Shorter side of a resized picture, smallest and largest, in image sizes; at (1, 1) a crop
        shows as much of the picture as a square can.
    crop : {"random", "center"}
        Where the window lies.
    flip : bool
        Whether half of the crops are flipped.
    device : torch.device or str
        Where the crops end up.

    Raises
    ------
    ValueError
        For scales below 1.
    """

    def __init__(
        self,
        pictures: PictureDataset,
        image_size: int,
        *,
        scale_range: tuple[float, float] = (1.0, 1.0),
        crop: str = "random",
        flip: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(image_size, len(pictures.class_names), pictures.class_names, device)
        self.pictures = pictures
        self.scale_range = _checked(scale_range)
        self.crop = crop
        self.flip = flip
        order = np.argsort(pictures.labels, kind="stable")
        sizes = np.bincount(pictures.labels, minlength=self.num_classes)
        self._members = np.split(order, sizes.cumsum()[:-1])
        self.present = torch.from_numpy(np.flatnonzero(sizes))
        self._copies: dict[int, Image.Image] = {}
        self._kept_bytes = 0
        self._unreadable: set[int] = set()
        self._threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "crops")

    @property
    def skipped(self) -> int:
        """How many pictures were met so far that cannot be read."""
        return len(self._unreadable)

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(count, 6, generator=generator, dtype=torch.float64, device="cpu")
        return drawn, self.present[(drawn[:, _CLASS] * len(self.present)).long()]

    def _cut(self, numbers: Tensor, class_ids: Tensor) -> ImageBatch:
        S = self.image_size
        # The crops of one picture are cut together, so that it is decoded once a batch at most.
        drawn = numbers.numpy()
        rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, label in enumerate(class_ids.tolist()):
            members = self._members[label]
            if not len(members):
                raise ValueError(
                    f"class_ids must name classes that have pictures, got {label}, "
                    f"{self.class_names[label]}, which has none here"
                )
            rows_of[label, int(drawn[row, _PICTURE] * len(members))].append(row)
        # Pinned memory is copied to a GPU while others compute there.
        pinned = self.device.type == "cuda"
        held = torch.empty(len(class_ids), S, S, 3, dtype=torch.uint8, pin_memory=pinned)
        pixels = held.numpy()
        pictures = torch.empty(len(class_ids), dtype=torch.int64)

        def cut(place: tuple[int, int]) -> None:
            picture, copy = self._readable_copy(*place)
            for row in rows_of[place]:
                pixels[row] = self._window(copy, drawn[row])
                pictures[row] = picture

        for _ in self._threads.map(cut, rows_of):
            pass  # the loop raises what a thread raised
        # In place and in order of memory, which takes a third of the time at 256 pixels.
        images = held.to(self.device, non_blocking=pinned).permute(0, 3, 1, 2).contiguous()
        return ImageBatch(images.float().div_(127.5).sub_(1), class_ids.to(self.device), pictures)

    def _window(self, copy: Image.Image, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the crop that a row of six numbers in [0, 1) stands for, (S, S, 3)."""
        S = self.image_size
        low, high = self.scale_range
        side = round(S * (low + (high - low) * numbers[_SCALE]))
        shorter = min(copy.size)
        width, height = (round(length * side / shorter) for length in copy.size)
        if self.crop == "center":
            left, top = (width - S) // 2, (height - S) // 2
        else:
            left = int(numbers[_LEFT] * (width - S + 1))
            top = int(numbers[_TOP] * (height - S + 1))
        x, y = copy.width / width, copy.height / height
        right, bottom = min((left + S) * x, copy.width), min((top + S) * y, copy.height)
        box = (left * x, top * y, right, bottom)
        window = np.asarray(copy.resize((S, S), Image.Resampling.BICUBIC, box))
        return window[:, ::-1] if self.flip and numbers[_FLIP] < 0.5 else window

    def _readable_copy(self, label: int, place: int) -> tuple[int, Image.Image]:
        """Return number and copy of a class's picture at a place, or the next that can be read."""
        members = self._members[label]
        for step in range(len(members)):
            picture = int(members[(place + step) % len(members)])
            if picture not in self._unreadable:
                try:
                    return picture, self._copy(picture)
                except UnreadablePictureError:
                    self._unreadable.add(picture)
        raise ValueError(
            f"class {self.class_names[label]} has no picture that can be read, of {len(members)} "
            f"such as {self.pictures.name(int(members[0]))}; check that they are still there"
        )

    def _copy(self, index: int) -> Image.Image:
        """Return a picture, no larger than the largest scale asks for.

        Always reduced in the same way, so that the crops are the same whether it is kept or not.
        """
        if index in self._copies:
            return self._copies[index]
        picture = self.pictures.open(index)
        largest, shorter = round(self.scale_range[1] * self.image_size), min(picture.size)
        if shorter > largest:
            width, height = (round(length * largest / shorter) for length in picture.size)
            # Pillow's bicubic filter widens with the reduction, so it does not alias.
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        taken = 4 * picture.width * picture.height  # as Pillow keeps RGB
        if self._kept_bytes + taken <= CACHE_BYTES:
            self._copies[index] = picture
            self._kept_bytes += taken
        return picture


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
