"""A picture's file decoded to what everything else takes: eight bits of RGB, upright and opaque.

    orientation (EXIF) applied, transparency laid on white, palettes and CMYK resolved; of grey,
    16 bits scaled by 255 / 65535 and floating point by 255, both rounded; of colour likewise

Floating point lies in [0, 1], or up to half beyond where resampling overshoots, and is clipped.
Other values, and integers of 32 or of 16 signed bits, are refused unless a TIFF declares which of
them are black and white. Colour profiles are not applied. Of an animation the first frame is
taken.

Decoders stumble over metadata: a text that is too long, a rational number where a word should be, a
colour profile of the wrong length. So a JPEG, PNG or TIFF file is handed on with nothing in it but
what its pixels are made of, and of the metadata a single number is read, as browsers read it: the
orientation of the first directory of EXIF. Where that number cannot be read, the pixels are upright
as they are stored. In AVIF and HEIC it stands beside the pixels too, so that EXIF is only hidden.
"""

import functools
import os
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

# EPS would run another program, the values of FITS have no known range, and of the others Pillow
# only knows the names.
_NOT_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}

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

OTHER_BYTES = {"LA;16B": "RGBA"} | {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX", "CMYK")
    for order, other in ("BL", "LB", "NB" if sys.byteorder == "little" else "NL")
}
"""For each layout of which Pillow takes the high bytes, one of which it takes the low ones."""


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded: cut short, damaged, empty, too large or no picture."""


class UnknownRangeError(UnreadablePictureError):
    """A picture of which it is not known which values are black and white."""


def open_picture(
    file: str | os.PathLike[str] | bytes, formats: Sequence[str] | None = None
) -> Image.Image:
    """Return the picture in a file as upright, opaque RGB of 8 bits a channel.

    Parameters
    ----------
    file : path or bytes
        A file, or what one holds.
    formats : sequence of str, optional
        Pillow's names of the formats to allow, such as "PNG"; any that it reads by default,
        except those that run other programs or are no pictures.

    Raises
    ------
    UnreadablePictureError
        Where it cannot be decoded in full, or has more pixels than Pillow allows;
        `UnknownRangeError` where it is not known which of its values are black and white.
    """
    _init()
    if formats is None:
        formats = [name for name in Image.OPEN if name not in _NOT_PICTURES]
    try:
        data = file if isinstance(file, bytes) else Path(file).read_bytes()
        pixels, orientation = without_metadata(data)
        with Image.open(BytesIO(pixels), formats=list(formats)) as image:
            _refuse_deep_planes(image)
            layout = layout_of(image)
            key = image.info.get("transparency")
            if layout in ("L;2", "L;4") and isinstance(key, int):  # as the pixels are
                image.info["transparency"] = key * 255 // (2 ** int(layout[2:]) - 1)
            image.load()
            orientation = max(orientation, exif_orientation(image.info.get("exif") or b""))
            picture = image
            if image.mode[0] in "IF":
                picture = _grey(image, layout)
            elif layout in OTHER_BYTES:
                with Image.open(BytesIO(pixels), formats=list(formats)) as again:
                    again.tile = [_laid_out(tile, OTHER_BYTES[layout]) for tile in again.tile]
                    picture = _rounded(image, again, layout)
            picture = _opaque(picture)
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:
        raise UnreadablePictureError("it is no picture of a known format") from None
    except _DAMAGED as error:
        raise UnreadablePictureError(str(error) or type(error).__name__) from error
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


def _grey(image: Image.Image, layout: str) -> Image.Image:
    """Return a decoded picture of one deep channel as grey of 8 bits, or as grey and alpha."""
    tags = getattr(image, "tag_v2", {})
    with np.errstate(all="ignore"):  # NaN is black, infinity and what overflows is clipped
        values = np.array(image, np.float64)
        if layout == "I;32N":  # unsigned
            values %= 2.0**32
        transparent = values == image.info.get("transparency")
        black, white, kind = 0.0, 1.0, "floating point in [0, 1]"
        if image.mode == "F":
            known = not ((values < -0.5) | (values > 1.5)).any()
        else:
            white, kind = 2.0 ** max(tags.get(_BITS, (16,))) - 1, "8 or 16 unsigned bits"
            known = image.mode != "I" or image.format == "PPM"  # of which Pillow makes 16 bits
        if _WHITE in tags:
            black, white = (float(np.ravel(tags.get(tag, 0))[0]) for tag in (_BLACK, _WHITE))
            known = -np.inf < black < white < np.inf
        if not known:
            raise UnknownRangeError(
                f"a picture must have {kind}, or declare which values are black and white "
                "(SMinSampleValue and SMaxSampleValue of TIFF), so that it is known, got values "
                f"from {np.nanmin(values):g} to {np.nanmax(values):g}; save it with 8 or 16 bits"
            )
        values[np.isnan(values)] = black
        if tags.get(_PHOTOMETRIC) == 0:  # white is zero
            black, white = white, black
        values = (values - black) * 255 / (white - black)
        grey = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if np.any(transparent):
        grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


def layout_of(image: Image.Image) -> str:
    """Return what Pillow calls the layout of an opened file's pixels, such as "RGB;16B"."""
    tiles = getattr(image, "tile", ())
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _laid_out(tile: Any, layout: str) -> Any:
    """Return a part of a file to decode with its pixels taken to lie as `layout` says."""
    return tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)


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


def _refuse_deep_planes(image: Image.Image) -> None:
    """Raise UnreadablePictureError for 16 bits of one plane a channel, which Pillow misreads."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise UnreadablePictureError("it has 16 bits a channel in separate planes; interleave them")


def _opaque(image: Image.Image) -> Image.Image:
    """Return a decoded picture of 8 bits and any mode as RGB, transparency laid on white."""
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert("RGB")


_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_JPEG = b"\xff\xd8\xff"
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd9])")
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""Segments among the metadata that decide whether three channels are RGB or YCbCr."""
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""Byte orders; + is BigTIFF, whose counts and places have 64 bits."""
_HEIF_EXIF = re.compile(rb"(infe.{8})Exif", re.DOTALL)
"""What names an item of AVIF or HEIC as EXIF; which way is up is also told beside the pixels."""
_WHOLE = {3: "H", 4: "L"}
"""Types of whole numbers of 16 and of 32 bits."""
_BITS, _PHOTOMETRIC, _ORIENTATION, _PLANES, _BLACK, _WHITE = 258, 262, 274, 284, 340, 341
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530),
    *(531, 532, 50674),
}
"""Tags of what a picture and its compression need."""


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """Return a file of the same pixels without metadata, and its EXIF orientation, 1 to 8.

    Of AVIF and HEIC, EXIF is only hidden; other formats are returned as they are. Of all these the
    orientation is 1.
    """
    if data.startswith(_JPEG):
        kept, exif = _jpeg_pixels(data)
    elif data.startswith(_PNG):
        kept, exif = _png_pixels(data)
    elif data[:4] in _TIFF:
        kept, exif = _tiff_pixels(data), data
    elif data[4:8] == b"ftyp":
        kept, exif = _HEIF_EXIF.sub(rb"\1free", data), b""
    else:
        kept, exif = data, b""
    return kept, exif_orientation(exif)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF declares, 1 to 8, or 1 where none can be read."""
    order, wide, _, entries = _directory(exif.removeprefix(b"Exif\0\0"))
    for entry in entries:
        tag, kind = struct.unpack_from(order + "HH", entry)
        if tag == _ORIENTATION and kind in _WHOLE:
            count, value = struct.unpack_from(order + wide + _WHOLE[kind], entry, 4)
            if count == 1 and 1 <= value <= 8:
                return value
    return 1


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


def _tiff_pixels(data: bytes) -> bytes:
    """Return a TIFF file whose first directory is its only one and holds no metadata."""
    order, wide, start, entries = _directory(data)
    kept = [e for e in entries if struct.unpack_from(order + "H", e)[0] in _TIFF_PIXELS]
    count = struct.pack(order + ("H" if wide == "L" else "Q"), len(kept))
    directory = count + b"".join(kept) + struct.pack(order + wide, 0)
    return data[:start] + directory + data[start + len(directory) :]


def _directory(data: bytes) -> tuple[str, str, int, list[bytes]]:
    """Return byte order, kind of a place, place and entries of the first directory of TIFF.

    There are no entries where it is damaged.
    """
    if data[:4] not in _TIFF:
        return "<", "L", len(data), []
    order = _TIFF[data[:4]]
    wide, number, at, size = ("Q", "Q", 8, 20) if b"+" in data[:4] else ("L", "H", 4, 12)

    def read(kind: str, at: int) -> int:
        length = struct.calcsize(order + kind)
        return struct.unpack(order + kind, data[at : at + length].ljust(length, b"\0"))[0]

    start = read(wide, at)
    first = start + struct.calcsize(order + number)
    stop = min(first + size * read(number, start), len(data))
    return order, wide, start, [data[e : e + size] for e in range(first, stop - size + 1, size)]
