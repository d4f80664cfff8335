"""A picture's file decoded to what everything else takes: eight bits of RGB, upright and opaque.

    orientation (EXIF) applied, transparency laid on white, palettes and CMYK resolved,
    16 bits scaled by 255 / 65535, floating point by 255, both rounded.

A TIFF file may declare another range (SMinSampleValue, SMaxSampleValue). Without it, floating point
lies in [0, 1], or up to half beyond where resampling overshoots, and is clipped; other values, and
integers of 32 or of 16 signed bits, are refused: which of them is white is not known. All other
metadata are left alone and may be damaged; colour profiles are not applied. Of an animation the
first frame is taken.

Pillow decodes several channels of 16 bits to their high bytes. Unpacked once more in the other byte
order a file gives the low bytes, and with both

    round(value * 255 / 65535) = round((256 high + low) / 257) = high + round((low - high) / 257)

except for SGI, JPEG 2000 and premultiplied alpha, where the high bytes are taken: off by 1 at most.
"""

import functools
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
