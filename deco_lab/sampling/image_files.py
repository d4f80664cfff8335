"""Images in files, a batch at a time: one PNG each, or one NPZ as ADM's evaluator reads it.

    png    000000.png, 000001.png, ...      all in one folder, where FID tools look for them
    npz    samples_{count}x{H}x{W}x3.npz    arr_0 uint8 (count, H, W, 3), arr_1 int64 labels [1]

Until all images are there the NPZ is in parts, `parts/000032-000064.npy`, which are then streamed
into it: however many there are, one image at a time is in memory. Every file is whole at any
moment. An NPZ of fewer images is a part like others, and stays.

References
----------
[1] Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", arXiv 2105.05233; its
    evaluator, https://github.com/openai/guided-diffusion/tree/main/evaluations.
"""

import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.data import to_picture
from deco_lab.files import remove_leftovers, replacing

MAX_IMAGES = 10**6
"""As many as six digits number."""


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return images, (B, 3, H, W), as `to_picture` draws them, (B, H, W, 3)."""
    B, _, H, W = images.shape
    return np.asarray(to_picture(images, columns=1)).reshape(B, H, W, 3)


@dataclass(frozen=True)
class ImageFiles(ABC):
    """Numbered images of one size in a folder."""

    folder: Path
    """Where they are, among whatever else."""
    image_size: int
    """Side of the square images, in pixels."""

    @abstractmethod
    def present(self, count: int) -> NDArray[np.bool_]:
        """Return which of the first `count` images are written, (count,)."""

    @abstractmethod
    def write(self, first: int, images: Tensor) -> None:
        """Write images `first` and on, (B, 3, H, W) in [-1, 1]; what is written already stays."""

    @abstractmethod
    def finish(self, class_ids: Sequence[int]) -> None:
        """Give the files their last form; as many images as labels are all written."""

    @abstractmethod
    def remove_leftovers(self) -> None:
        """Remove what killed processes left half written; no other process may be writing."""


class PngFiles(ImageFiles):
    """A PNG for each image."""

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.png"

    def present(self, count: int) -> NDArray[np.bool_]:
        """Return which of the first `count` images are written, (count,)."""
        names = {path.name for path in self.folder.glob("*.png")}
        return np.array([self._path(index).name in names for index in range(count)])

    def write(self, first: int, images: Tensor) -> None:
        """Write images `first` and on, (B, 3, H, W) in [-1, 1]; what is written already stays."""
        for index, pixels in enumerate(to_pixels(images), start=first):
            path = self._path(index)
            if not path.exists():
                with replacing(path) as beside:
                    Image.fromarray(pixels).save(beside, format="PNG")

    def finish(self, class_ids: Sequence[int]) -> None:
        """Do nothing: PNGs are final as they are written."""

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half written; no other process may be writing."""
        remove_leftovers(self.folder / "*.png")


class _Span(NamedTuple):
    """Images from `first` to before `stop`, in one file."""

    first: int
    stop: int
    path: Path


class NpzFile(ImageFiles):
    """One NPZ for all images and their labels."""

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    def path(self, count: int) -> Path:
        """Return the file of the first `count` images."""
        side = self.image_size
        return self.folder / f"samples_{count}x{side}x{side}x3.npz"

    def _part_spans(self) -> list[_Span]:
        found = [(re.fullmatch(r"(\d+)-(\d+)", p.stem), p) for p in self._parts.glob("*.npy")]
        return [_Span(int(name[1]), int(name[2]), path) for name, path in found if name]

    def _spans(self) -> list[_Span]:
        """Return all files with images, in the order of their first ones; they may overlap."""
        found = [
            (re.match(r"samples_(\d+)x", p.name), p) for p in self.folder.glob("samples_*.npz")
        ]
        wholes = [_Span(0, int(name[1]), path) for name, path in found if name]
        return sorted(wholes + self._part_spans())

    def present(self, count: int) -> NDArray[np.bool_]:
        """Return which of the first `count` images are written, (count,)."""
        written = np.zeros(count, bool)
        for first, stop, _ in self._spans():
            written[first:stop] = True
        return written

    def write(self, first: int, images: Tensor) -> None:
        """Write images `first` and on, (B, 3, H, W) in [-1, 1], as one part."""
        path = self._parts / f"{first:06d}-{first + len(images):06d}.npy"
        pixels = to_pixels(images)
        header = np.lib.format.header_data_from_array_1_0(pixels)
        with replacing(path) as beside, beside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(pixels.tobytes())  # NumPy's own way does not notice a disk that is full

    def finish(self, class_ids: Sequence[int]) -> None:
        """Join the parts, unless it was done before, and remove those that are in the whole."""
        count = len(class_ids)
        if not self.path(count).exists():
            self._join(np.array(class_ids, np.int64))
        for _, stop, path in self._part_spans():
            if stop <= count:
                path.unlink()
        if self._parts.exists() and not any(self._parts.iterdir()):
            self._parts.rmdir()

    def _join(self, labels: NDArray[np.int64]) -> None:
        shape = (len(labels), self.image_size, self.image_size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        # A ZipInfo made of a name alone has a fixed date: the same images are the same bytes.
        with replacing(self.path(len(labels))) as beside, zipfile.ZipFile(beside, "w") as archive:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for image in self._images(len(labels)):
                    member.write(image)
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, labels, version=(1, 0))

    def _images(self, count: int) -> Iterator[bytes]:
        """Yield the first `count` images, H * W * 3 bytes each."""
        size, reached = self.image_size**2 * 3, 0
        for first, stop, path in self._spans():
            if stop <= reached:
                continue
            if first > reached:
                break
            with _array_in(path) as file:
                file.seek((reached - first) * size, 1)
                while reached < min(stop, count):
                    yield file.read(size)
                    reached += 1
        if reached < count:
            raise ValueError(
                f"{self._parts} lacks image {reached}, which was written; give the command again"
            )

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half written; no other process may be writing."""
        remove_leftovers(self._parts / "*.npy")
        remove_leftovers(self.folder / "samples_*.npz")


@contextmanager
def _array_in(path: Path) -> Iterator[IO[bytes]]:
    """Give the file of an array, or of the first array of an NPZ, just behind its header."""
    with path.open("rb") as file:
        if path.suffix == ".npy":
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            yield file
            return
        with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as member:
            np.lib.format.read_magic(member)
            np.lib.format.read_array_header_1_0(member)
            yield member


FORMATS: dict[str, type[ImageFiles]] = {"png": PngFiles, "npz": NpzFile}
"""What keeps images, by the name of the option `--format`."""
