"""A picture's file decoded to what everything else takes: eight bits of RGB, upright and opaque.

    orientation (EXIF) applied, transparency laid on white, palettes and CMYK resolved,
    16 bits scaled by 255 / 65535, floating point by 255, both rounded.

A TIFF file may declare another range (SMinSampleValue, SMaxSampleValue). Without it, floating point
lies in [0, 1], or up to half beyond where resampling overshoots, and is clipped; other values, and
integers of 32 or of 16 signed bits, are refused: which of them is white is not known. All other
metadata may be damaged; colour profiles are not applied. Of an animation the first frame is taken.

Pillow decodes several channels of 16 bits to their high bytes. Unpacked once more in the other byte
order a file gives the low bytes, and with both

    round(value * 255 / 65535) = round((256 high + low) / 257) = high + round((low - high) / 257)

except for SGI, JPEG 2000 and premultiplied alpha, where the high bytes are taken: off by 1 at most.

Decoders stumble over metadata: a text that is too long, a rational number where a word should be, a
colour profile of the wrong length. So a JPEG, PNG or TIFF file is handed on with nothing in it but
what its pixels are made of, and of the metadata a single number is read, as browsers read it: the
orientation of the first directory of EXIF. Where that number cannot be read, the pixels are upright
as they are stored. XMP, which may repeat it, is not asked. In AVIF and HEIC the orientation stands
beside the pixels too, so that EXIF is only hidden. WebP, and formats beyond these, keep EXIF apart
from the pixels as it is.
"""

import functools
import os
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# EPS would run another program; Pillow only knows the names of the others, and reads none of them.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}

# What Pillow's decoders raise for damaged files.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip

_TURNS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
), 2))  # fmt: skip
"""What turns a picture of each orientation upright; of 1, nothing need be done."""

_BLACK, _WHITE, _PHOTOMETRIC = 340, 341, 262
"""Tags of TIFF."""
_OTHER_BYTES = {"LA;16B": "RGBA"} | {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX", "CMYK", "R", "G", "B")
    for order, other in ("BL", "LB", "NB" if sys.byteorder == "little" else "NL")
}
"""For each layout of which Pillow takes the high bytes, one of which it takes the low ones."""


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded: cut short, damaged, empty, too large or no picture."""


class UnknownRangeError(UnreadablePictureError):
    """A picture of which it is not known which values are black and white."""


def open_picture(
    file: str | os.PathLike[str] | IO[bytes], formats: Sequence[str] | None = None
) -> Image.Image:
    """Return the picture in a file as upright, opaque RGB of 8 bits a channel.

    Parameters
    ----------
    file : path or binary file
        What to read.
    formats : sequence of str, optional
        Pillow's names of the formats to allow, such as "PNG"; any that it reads by default,
        except those that run other programs or are no pictures.

    Raises
    ------
    UnreadablePictureError
        Where it cannot be decoded in full, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`;
        `UnknownRangeError` where it is not known which of its values are black and white.
    """
    _init()
    if formats is None:
        formats = [name for name in Image.OPEN if name not in _NOT_PICTURES]
    try:
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as stream:
                return _read(stream, formats)
        return _read(file, formats)
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:
        raise UnreadablePictureError("it is no picture of a known format") from None
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
        layout = _mend(image)
        image.load()
        orientation = max(orientation, exif_orientation(image.info.get("exif") or b""))
        picture = image
        if image.mode[0] in "IF":
            picture = _scaled(image, layout)
        elif layout in _OTHER_BYTES:
            with Image.open(pixels, formats=list(formats)) as again:
                _mend(again)
                again.tile = [_laid_out(t, _OTHER_BYTES[_layout_of(t)]) for t in again.tile]
                picture = _rounded(image, again, layout)
        picture = _opaque(picture)
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def picture_suffixes() -> set[str]:
    """Return the file suffixes of the formats that `open_picture` reads, such as ".jpg"."""
    _init()
    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name not in _NOT_PICTURES}


@functools.cache
def _init() -> None:
    """Have Pillow know all formats, HEIC too where pillow-heif is installed."""
    Image.init()
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return
    pillow_heif.register_heif_opener()


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened picture that is not decoded yet has more than 8 bits a channel."""
    return image.mode[0] in "IF" or _layout(image) in _OTHER_BYTES or _bits(image) > 8


def _bits(image: Image.Image) -> int:
    """Return the bits of a channel that a TIFF file declares; of others, 8."""
    return max(getattr(image, "tag_v2", {}).get(258, (8,)))


def _layout(image: Image.Image) -> str:
    """Return what Pillow calls the layout of an opened file's pixels, such as "RGB;16B"."""
    tiles = getattr(image, "tile", ())
    return _layout_of(tiles[0]) if tiles else ""


def _layout_of(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)


def _laid_out(tile: Any, layout: str) -> Any:
    """Return a part of a file to decode with its pixels taken to lie as `layout` says."""
    return tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)


def _mend(image: Any) -> str:
    """Mend what Pillow gets wrong of an opened file, and return the layout of its pixels."""
    layout = _layout(image)
    if layout in ("L;2", "L;4") and isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * 255 // (2 ** int(layout[2:]) - 1)  # as the pixels are
    if image.format == "TIFF" and len(layout) == 1 and _bits(image) == 16:  # one plane a channel
        depth = ";16L" if image.tag_v2.prefix == b"II" else ";16B"
        image.tile = [_laid_out(tile, _layout_of(tile) + depth) for tile in image.tile]
    return _layout(image)


def _scaled(image: Image.Image, layout: str) -> Image.Image:
    """Return a decoded picture of one deep channel as grey of 8 bits, or as grey and alpha."""
    with np.errstate(all="ignore"):  # NaN is black, infinity and what overflows is clipped
        values = np.array(image, np.float64)
        if layout == "I;32N":  # unsigned
            values %= 2.0**32
        transparent = values == image.info.get("transparency")
        black, white = _range(image, layout, values)
        values[np.isnan(values)] = black
        values -= black
        values *= 255
        values /= white - black
        pixels = values.round(out=values).clip(0, 255, out=values).astype(np.uint8)
    grey = Image.fromarray(pixels)
    if np.any(transparent):
        grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


def _range(image: Image.Image, layout: str, values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the values of black and white."""
    tags = getattr(image, "tag_v2", {})
    if _WHITE in tags:
        black, white = (float(np.ravel(tags.get(tag, 0))[0]) for tag in (_BLACK, _WHITE))
        known = -np.inf < black < white < np.inf
    elif image.mode == "F":
        black, white = 0.0, 1.0
        known = not ((values < -0.5) | (values > 1.5)).any()
    else:
        black, white = 0.0, 4095.0 if layout == "I;12" else 65535.0
        # FITS has signed numbers, which Pillow takes for others; of PPM it scales to 16 bits.
        known = image.format == "PPM" or (image.mode != "I" and image.format != "FITS")
    if not known:
        kind = "floating point in [0, 1]" if image.mode == "F" else "8 or 16 unsigned bits"
        raise UnknownRangeError(
            f"a picture must have {kind}, or declare which values are black and white "
            "(SMinSampleValue and SMaxSampleValue of TIFF), got values from "
            f"{np.nanmin(values):g} to {np.nanmax(values):g}; save it with 8 or 16 bits"
        )
    return (white, black) if tags.get(_PHOTOMETRIC) == 0 else (black, white)  # 0: white is zero


def _rounded(image: Image.Image, again: Image.Image, layout: str) -> Image.Image:
    """Return a picture of several channels of 16 bits with 8, of its high and its low bytes."""
    high, low = np.array(image), np.array(again)
    if layout == "LA;16B":  # high and low bytes side by side
        low = low[..., [1, 1, 1, 3]]
    key = image.info.get("transparency")
    up, down = (low > high) & (low - high > 128), (high > low) & (high - low > 128)
    picture = Image.frombytes(image.mode, image.size, (high + up - down).tobytes())
    if key is not None:
        opaque = ((high != np.array(key) >> 8) | (low != np.array(key) & 255)).any(-1)
        picture.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return picture


def _opaque(image: Image.Image) -> Image.Image:
    """Return a decoded picture of 8 bits and any mode as RGB, transparency laid on white."""
    palette_with_alpha = image.mode == "P" and image.palette and image.palette.mode == "RGBA"
    if palette_with_alpha or image.mode[-1] in "Aa" or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image if image.mode == "RGB" else image.convert("RGB")


_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_JPEG = b"\xff\xd8\xff"
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd9])")
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""Segments among the metadata that decide whether three channels are RGB or YCbCr."""
_HEIF_EXIF = re.compile(rb"(infe.{8})Exif", re.DOTALL)
"""What names an item of AVIF or HEIC as EXIF; which way is up is also told beside the pixels."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530),
    *(531, 532, 50674),
}
"""Tags, from the width to the range of the values and what compression needs."""
_ORIENTATION = 274


def pixels_alone(file: IO[bytes]) -> tuple[IO[bytes], int]:
    """Return a file of the same pixels without metadata, and its EXIF orientation, 1 to 8.

    Parameters
    ----------
    file : binary file
        Of any format; others than JPEG, PNG, TIFF, AVIF and HEIC are returned as they are. Of the
        last two and others the orientation is 1.
    """
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if head.startswith(_JPEG):
        kept, exif = _jpeg_pixels(file.read())
        return BytesIO(kept), exif_orientation(exif)
    if head == _PNG:
        kept, exif = _png_pixels(file.read())
        return BytesIO(kept), exif_orientation(exif)
    if head.startswith(_TIFF):
        return _tiff_pixels(file)
    if head[4:] == b"ftyp":
        return BytesIO(_HEIF_EXIF.sub(rb"\1free", file.read())), 1
    return file, 1


def exif_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF declares, 1 to 8, or 1 where none can be read."""
    content = exif.removeprefix(b"Exif\0\0")
    if not content.startswith(_TIFF):
        return 1
    return _orientation(*_directory(BytesIO(content))[:2])


def _jpeg_pixels(data: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG file without comments and application data, and its EXIF."""
    kept, exif, end = [data[:2]], b"", 2
    while found := _JPEG_SEGMENT.search(data, end):
        start, kind = found.start(), found[1][0]
        if kind == 0xDA:  # of the scans
            kept.append(data[start:])
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        content = data[start + 4 : end]
        if kind == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        if kind in _JPEG_COLOURS:
            is_kept = content.startswith(_JPEG_COLOURS[kind]) and len(content) >= 12
        else:
            is_kept = not (0xE0 <= kind <= 0xEF or kind == 0xFE)
        if is_kept:
            kept.append(data[start:end])
    return b"".join(kept), exif


def _png_pixels(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG file with the chunks of its (first) picture, and its EXIF."""
    kept, exif, start = [data[:8]], b"", 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if kind in _PNG_PIXELS:
            kept.append(data[start:end])
        elif kind == b"eXIf":
            exif = data[start + 8 : end - 4]
        start = len(data) if kind == b"IEND" else end
    return b"".join(kept), exif


def _tiff_pixels(file: IO[bytes]) -> tuple[IO[bytes], int]:
    """Return a TIFF file whose first directory is its only one and holds no metadata."""
    order, entries, start, widths = _directory(file)
    kept = [entry for entry in entries if int.from_bytes(entry[:2], order) in _TIFF_PIXELS]
    count, following = (len(kept).to_bytes(widths[0], order), bytes(widths[1]))
    patched = _Patched(file, start, b"".join([count, *kept, following]))
    return BufferedReader(patched), _orientation(order, entries)


def _directory(
    file: IO[bytes],
) -> tuple[Literal["little", "big"], list[bytes], int, tuple[int, int]]:
    """Return the byte order, entries, place and widths of the counts of the first directory."""
    magic = file.read(4)
    order: Literal["little", "big"] = "little" if magic.startswith(b"II") else "big"
    # 43 is BigTIFF, which writes 8 before its wider numbers.
    widths, size = ((8, 8), 20) if 43 in magic else ((2, 4), 12)
    file.read(4 if 43 in magic else 0)
    start = int.from_bytes(file.read(widths[1]), order)
    file.seek(min(start, 2**62))
    data = file.read(size * min(int.from_bytes(file.read(widths[0]), order), 2**16))
    entries = [data[at : at + size] for at in range(0, len(data) - size + 1, size)]
    return order, entries, start, widths


def _orientation(order: Literal["little", "big"], entries: list[bytes]) -> int:
    """Return the value of the tag where it is one whole number, 1 to 8, of 16 or 32 bits."""
    for entry in entries:
        tag, kind = (int.from_bytes(entry[at : at + 2], order) for at in (0, 2))
        if tag == _ORIENTATION and kind in (3, 4):
            middle = 2 + len(entry) // 2
            value = int.from_bytes(entry[middle : middle + (2 if kind == 3 else 4)], order)
            if int.from_bytes(entry[4:middle], order) == 1 and 1 <= value <= 8:
                return value
    return 1


class _Patched(RawIOBase):
    """A file that reads as another in one place."""

    def __init__(self, file: IO[bytes], start: int, patch: bytes) -> None:
        self._file, self._start, self._patch = file, start, patch
        self.seek, self.tell = file.seek, file.tell
        self.fileno = file.fileno  # lets libtiff read a file on disk in pieces

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        at = self._file.tell()
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        low, high = max(at, self._start), min(at + len(data), self._start + len(self._patch))
        if low < high:
            buffer[low - at : high - at] = self._patch[low - self._start : high - self._start]
        return len(data)
