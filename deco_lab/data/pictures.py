"""Labelled pictures of any source, each decoded to RGB when it is asked for.

Whatever a file holds becomes eight bits of red, green and blue, upright:

    orientation (EXIF) applied, transparency laid on white, palettes and CMYK resolved,
    16 bits scaled by 255 / 65535, floating point by 255 where it lies in [0, 1].

All other metadata are left alone and may be damaged; colour profiles are not applied. Of an
animation the first frame is taken.
"""

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deco_lab.data.metadata import exif_orientation, pixels_alone

# EPS would run another program; Pillow only knows the names of the others, and reads none of them.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}

# What Pillow's decoders raise for damaged files.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each orientation upright; of 1, nothing need be done."""


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded: cut short, damaged, empty, too large or no picture."""


class Names(Protocol):
    """A name for each picture: a list, or something that makes them as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures of any source.

    Raises
    ------
    ValueError
        Where the labels are not whole numbers below the number of class names, or the names are
        not as many as the labels.
    """

    open: Callable[[int], Image.Image]
    """Decodes the picture at an index to RGB, as `open_picture` does; it may be called from several
    threads at once, and raises `UnreadablePictureError`."""
    labels: NDArray[np.int64]
    """(count,), the class of each picture."""
    class_names: tuple[str, ...]
    """One name for each class."""
    names: Names
    """What to call each picture in a message."""

    def __post_init__(self) -> None:
        labels, classes = self.labels, len(self.class_names)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels must be a row of whole numbers, got {labels.dtype} of shape {labels.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"labels must lie in 0 to {classes - 1}, one class name for each, "
                f"got {labels.min()} to {labels.max()}"
            )
        if len(self.names) != len(labels):
            raise ValueError(
                f"names must be as many as the labels, {len(labels)}, got {len(self.names)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: NDArray[np.bool_]) -> "Pictures":
        """Return the pictures where `chosen`, (count,), is true."""
        indices = np.flatnonzero(chosen)
        return Pictures(
            lambda index: self.open(int(indices[index])),
            self.labels[indices],
            self.class_names,
            _Chosen(self.names, indices),
        )


class _Chosen:
    """Some of the names."""

    def __init__(self, names: Names, indices: NDArray[np.int64]) -> None:
        self._names, self._indices = names, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> str:
        return self._names[int(self._indices[index])]


class Folder(NamedTuple):
    """The pictures of a folder or a dataset, in two disjoint shares."""

    training: Pictures
    """To train on; it has a picture of every class."""
    held_out: Pictures
    """To measure against. Where a class has a single picture, none of that class."""
    unreadable: tuple[str, ...]
    """Names of the pictures left out because they cannot be decoded."""


def open_picture(
    file: str | os.PathLike[str] | IO[bytes], formats: Sequence[str] | None = None
) -> Image.Image:
    """Return the picture in a file as upright, opaque RGB of 8 bits a channel.

    Parameters
    ----------
    file : path or binary file
        What to read.
    formats : sequence of str, optional
        Pillow's names of the formats to allow, such as "PNG"; any that it reads by default, but
        those that run other programs or are no pictures.

    Raises
    ------
    UnreadablePictureError
        Where it cannot be decoded in full, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    Image.init()
    if formats is None:
        formats = [name for name in Image.OPEN if name not in _NOT_PICTURES]
    try:
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as stream:
                return _read(stream, formats)
        return _read(file, formats)
    except _DAMAGED as error:
        raise UnreadablePictureError(str(error) or type(error).__name__) from error


def _read(file: IO[bytes], formats: Sequence[str]) -> Image.Image:
    pixels, orientation = pixels_alone(file)
    with Image.open(pixels, formats=list(formats)) as image:
        # Pillow raises at twice its limit and only warns below.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise UnreadablePictureError(
                f"{image.width} x {image.height} pixels are more than Pillow's limit of {limit}"
            )
        image.load()
        orientation = max(orientation, exif_orientation(image.info.get("exif") or b""))
        picture = _to_rgb(image)
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def picture_suffixes() -> set[str]:
    """Return the file suffixes of the formats that `open_picture` reads, such as ".jpg"."""
    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name not in _NOT_PICTURES}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture of any mode as RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(image, np.float64))
        if image.mode != "F":
            values *= 255 / 65535
        elif values.max() <= 1:
            values *= 255
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert("RGB")


def hold_out(labels: NDArray[np.int64], keys: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which pictures to hold out, (count,): those whose key's hash falls into `share`.

    A picture's own key decides, so pictures that are added later do not move the others, but for
    one: every class of two or more has at least one picture on either side, that of the smallest
    and that of the largest hash. A class of one picture has none held out, and `share` 0 none.

    Parameters
    ----------
    labels : array
        (count,), the class of each picture.
    keys : sequence of str
        What tells a picture from the others of its class, and stays.
    share : float
        In [0, 1).

    Raises
    ------
    ValueError
        Where `share` lies outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out must be a share in [0, 1), got {share}; 0.1 is a tenth")
    hashes = (sha256(os.fsencode(key)).digest()[:8] for key in keys)
    places = np.array([int.from_bytes(digest) for digest in hashes], np.float64) / 2.0**64
    chosen = places < share
    for label in np.unique(labels) if share else ():
        members = np.flatnonzero(labels == label)
        chosen[members[places[members].argmin()]] = True
        chosen[members[places[members].argmax()]] = False
    return chosen
