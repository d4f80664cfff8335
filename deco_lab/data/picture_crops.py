"""Square crops of any number of pictures, decoded as they are needed and kept small in memory.

A picture larger than the largest scale asks for is reduced once, anti-aliased, and the reduced copy
is kept. A crop is then one window of the copy as if the whole of it were resized to the drawn side:

    ratio = side / shorter side of the copy,  side = round(scale * image_size)
    window = [left, left + image_size) x [top, top + image_size) of the resized copy's pixels

The window lies on the pixels of the resized copy, not between them: at the copy's own scale it is
the copy's pixels unchanged, and no spectrum is smoothed by a shift of half a pixel.
"""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.data.crops import Batch, check_class_ids, check_scale_range
from deco_lab.data.decoding import UnreadablePictureError
from deco_lab.data.pictures import Pictures

_CLASS, _PICTURE, _SCALE, _TOP, _LEFT, _FLIP = range(6)
"""What each number drawn for a crop decides."""


class PictureCrops:
    """Draws crops of labelled pictures.

    A class is drawn uniformly among those that have pictures, and then a picture uniformly in the
    class: rare classes are seen as often as frequent ones. A crop is the picture resized,
    anti-aliased, so that its shorter side is uniform in `scale_range` image sizes, a square window
    of it, flipped left to right half of the time. Small pictures are enlarged. A picture that
    cannot be read is replaced by the next of its class that can.

    What is cut depends on the generator and the pictures alone, not on what is kept in memory, the
    threads or the rows.

    Parameters
    ----------
    pictures : Pictures
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
    cache_bytes : int
        How much memory the copies may take; pictures beyond it are decoded at every use.

    Raises
    ------
    ValueError
        Without pictures, or for an argument outside its range.
    """

    def __init__(
        self,
        pictures: Pictures,
        image_size: int,
        *,
        scale_range: tuple[float, float] = (1.0, 1.0),
        crop: Literal["random", "center"] = "random",
        flip: bool = True,
        device: torch.device | str = "cpu",
        cache_bytes: int = 4 * 2**30,
    ) -> None:
        if not len(pictures):
            raise ValueError("pictures must hold at least one picture, got none")
        if image_size < 1:
            raise ValueError(f"image_size must be 1 or more, got {image_size}")
        if crop not in ("random", "center"):
            raise ValueError(f"crop must be random or center, got {crop!r}")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be 0 or more, got {cache_bytes}; 0 keeps nothing")
        self.pictures = pictures
        self.image_size = image_size
        self.class_names = pictures.class_names
        self.num_classes = len(pictures.class_names)
        self.device = torch.device(device)
        self.scale_range = check_scale_range(scale_range)
        self.crop = crop
        self.flip = flip
        self.cache_bytes = cache_bytes
        order = np.argsort(pictures.labels, kind="stable")
        sizes = np.bincount(pictures.labels, minlength=self.num_classes)
        self._members = np.split(order, sizes.cumsum()[:-1])
        self._present = torch.from_numpy(np.flatnonzero(sizes))
        self._copies: dict[int, NDArray[np.uint8]] = {}
        self._kept_bytes = 0
        self._unreadable: set[int] = set()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "crops")

    @property
    def skipped(self) -> int:
        """How many pictures were met so far that cannot be read."""
        return len(self._unreadable)

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        class_ids: Tensor | None = None,
        *,
        rows: slice | None = None,
    ) -> Batch:
        """Return `count` crops, or only those `rows` of them, as `Crops.sample` says.

        Raises
        ------
        ValueError
            Where class_ids are not `count` labels of classes that have pictures, or none of a
            class's pictures can be read.
        """
        S = self.image_size
        drawn = torch.rand(count, 6, generator=generator, dtype=torch.float64, device="cpu")
        if class_ids is None:
            class_ids = self._present[(drawn[:, _CLASS] * len(self._present)).long()]
        class_ids = check_class_ids(class_ids, count, self.num_classes)
        if rows is not None:
            drawn, class_ids = drawn[rows], class_ids[rows]
        numbers = drawn.numpy()
        # The crops of one picture are cut together, so that it is decoded once a batch at most.
        rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, label in enumerate(class_ids.tolist()):
            members = self._members[label]
            if not len(members):
                raise ValueError(
                    f"class_ids must name classes that have pictures, got {label}, "
                    f"{self.class_names[label]}, which has none here"
                )
            rows_of[label, int(numbers[row, _PICTURE] * len(members))].append(row)
        # Pinned memory is copied to a GPU while others compute there.
        pinned = self.device.type == "cuda"
        held = torch.empty(len(numbers), S, S, 3, dtype=torch.uint8, pin_memory=pinned)
        pixels = held.numpy()
        pictures = torch.empty(len(numbers), dtype=torch.int64)

        def cut(place: tuple[int, int]) -> None:
            picture, kept = self._readable_copy(*place)
            copy = Image.fromarray(kept)
            for row in rows_of[place]:
                pixels[row] = self._cut(copy, numbers[row])
                pictures[row] = picture

        for _ in self._threads.map(cut, rows_of):
            pass  # the loop raises what a thread raised
        # In place and in order of memory, which takes a third of the time at 256 pixels.
        images = held.to(self.device, non_blocking=pinned).permute(0, 3, 1, 2).contiguous()
        return Batch(images.float().div_(127.5).sub_(1), class_ids.to(self.device), pictures)

    def _cut(self, copy: Image.Image, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
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
        box = (
            left * x,
            top * y,
            min((left + S) * x, copy.width),
            min((top + S) * y, copy.height),
        )
        window = np.asarray(copy.resize((S, S), Image.Resampling.BICUBIC, box))
        return window[:, ::-1] if self.flip and numbers[_FLIP] < 0.5 else window

    def _readable_copy(self, label: int, place: int) -> tuple[int, NDArray[np.uint8]]:
        """Return number and copy of a class's picture at a place, or the next that can be read."""
        members = self._members[label]
        for step in range(len(members)):
            picture = int(members[(place + step) % len(members)])
            copy = self._copy(picture)
            if copy is not None:
                return picture, copy
        raise ValueError(
            f"class {self.class_names[label]} has no picture that can be read, of {len(members)} "
            f"such as {self.pictures.names[int(members[0])]}; check that they are still there"
        )

    def _copy(self, index: int) -> NDArray[np.uint8] | None:
        """Return a picture, (H, W, 3), no larger than the largest scale asks for; None if damaged.

        Always reduced in the same way, so that the crops are the same whether it is kept or not.
        """
        with self._lock:
            if index in self._unreadable:
                return None
            if index in self._copies:
                return self._copies[index]
        try:
            picture = self.pictures.open(index)
        except UnreadablePictureError:
            with self._lock:
                self._unreadable.add(index)
            return None
        largest, shorter = round(self.scale_range[1] * self.image_size), min(picture.size)
        if shorter > largest:
            width, height = (round(length * largest / shorter) for length in picture.size)
            # Pillow's bicubic filter widens with the reduction, so it does not alias.
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        copy = np.array(picture)
        with self._lock:
            if index not in self._copies and self._kept_bytes + copy.nbytes <= self.cache_bytes:
                self._copies[index] = copy
                self._kept_bytes += copy.nbytes
        return copy
