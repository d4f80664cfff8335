"""A picture's file decoded to what everything else takes: eight bits of RGB, upright and opaque.

    orientation (EXIF) applied, transparency laid on white, palettes and CMYK resolved; of grey,
    16 bits scaled by 255 / 65535 and floating point by 255, both rounded; of colour, the high bytes

Floating point lies in [0, 1], or up to half beyond where resampling overshoots, and is clipped.
Other values, and integers of 32 or of 16 signed bits, are refused: which of them is white is not
known. Colour profiles are not applied. Of an animation the first frame is taken.

Decoders stumble over metadata: a text that is too long, a rational number where a word should be, a
colour profile of the wrong length. So a JPEG, PNG or TIFF file is handed on with nothing in it but
what its pixels are made of, and of the metadata a single number is read, as browsers read it: the
orientation of the first directory of EXIF. Where that number cannot be read, the pixels are upright
as they are stored.
"""

import functools
import os
import re
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

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
            image.load()
            orientation = max(orientation, exif_orientation(image.info.get("exif") or b""))
            picture = _opaque(_grey(image) if image.mode[0] in "IF" else image)
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


def _grey(image: Image.Image) -> Image.Image:
    """Return a decoded picture of one deep channel as grey of 8 bits, or as grey and alpha."""
    tags = getattr(image, "tag_v2", {})
    values = np.nan_to_num(np.array(image), nan=0)
    if image.mode == "F":
        white, kind = 1.0, "floating point in [0, 1]"
        known = not ((values < -0.5) | (values > 1.5)).any()
    else:
        white, kind = 2.0 ** max(tags.get(_BITS, (16,))) - 1, "8 or 16 unsigned bits"
        known = image.mode != "I" or image.format == "PPM"  # of which Pillow makes 16 bits
    if not known:
        raise UnknownRangeError(
            f"a picture must have {kind}, so that it is known which values are black and white, "
            f"got values from {values.min():g} to {values.max():g}; save it with 8 or 16 bits"
        )
    pixels = (values * (255 / white)).round().clip(0, 255).astype(np.uint8)
    grey = Image.fromarray(255 - pixels if tags.get(_PHOTOMETRIC) == 0 else pixels)
    key = image.info.get("transparency")
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


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
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
_BITS, _PHOTOMETRIC, _ORIENTATION, _PLANES = 258, 262, 274, 284
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530, 531, 532),
    50674,
}
"""Tags of what a picture and its compression need."""


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """Return a file of the same pixels without metadata, and its EXIF orientation, 1 to 8.

    Formats other than JPEG, PNG and TIFF are returned as they are, with orientation 1.
    """
    if data.startswith(_JPEG):
        kept, exif = _jpeg_pixels(data)
    elif data.startswith(_PNG):
        kept, exif = _png_pixels(data)
    elif data[:4] in _TIFF:
        kept, exif = _tiff_pixels(data), data
    else:
        kept, exif = data, b""
    return kept, exif_orientation(exif)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF declares, 1 to 8, or 1 where none can be read."""
    order, _, entries = _directory(exif.removeprefix(b"Exif\0\0"))
    for entry in entries:
        tag, kind, count, value = struct.unpack_from(order + "HHLH", entry)
        if (tag, kind, count) == (_ORIENTATION, 3, 1) and 1 <= value <= 8:
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
    order, start, entries = _directory(data)
    kept = [e for e in entries if struct.unpack_from(order + "H", e)[0] in _TIFF_PIXELS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]


def _directory(data: bytes) -> tuple[str, int, list[bytes]]:
    """Return the byte order, place and entries of the first directory of TIFF, none if damaged."""
    order = _TIFF.get(data[:4], "<")
    start = struct.unpack_from(order + "L", data, 4)[0] if len(data) >= 8 else 0
    head = data[start : start + 2]
    if data[:4] not in _TIFF or len(head) < 2:
        return order, len(data), []
    entries = data[start + 2 : start + 2 + 12 * struct.unpack(order + "H", head)[0]]
    return order, start, [entries[at : at + 12] for at in range(0, len(entries) - 11, 12)]
