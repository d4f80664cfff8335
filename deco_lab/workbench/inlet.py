"""Pictures that strangers send: checked before anything is decoded, and decoded once.

`deco_lab.data.open_picture` makes eight-bit RGB of whatever Pillow reads; here stands what a server
needs before it: few formats, and bounds on bytes and pixels that hold before memory is spent.
"""

import base64
import io

from PIL import Image

from deco_lab.data import (
    UnknownRangeError,
    UnreadablePictureError,
    open_picture,
    without_metadata,
)
from deco_lab.data.decoding import OTHER_BYTES, layout_of

MAX_BYTES = 16 * 2**20
"""Longest file."""
MAX_PICTURE_PIXELS = 64 * 10**6
"""Most pixels of a picture, as its header says."""
MAX_DEEP_PIXELS = 16 * 10**6
"""Most pixels of one of a deep channel, 16 or 32 bits: scaling them takes 35 bytes a pixel."""
MAX_PICTURE_SIDE = 16384
"""Longest side, in pixels."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def from_data_uri(text: str) -> bytes:
    """Return the bytes of a file as a browser sends it, data:...;base64,..., or of bare base64.

    Raises
    ------
    ValueError
        Where it is no text, too long, or not base64.
    """
    if not isinstance(text, str):
        raise ValueError(f"a file must come as base64 text, got {type(text).__name__}")
    content = text.partition(",")[2] if text.startswith("data:") else text
    length = 3 * len(content) // 4
    if length > MAX_BYTES + 2:  # of base64 up to two are none
        raise ValueError(
            f"a file must have at most {MAX_BYTES // 2**20} MiB, got {length / 2**20:.1f}; "
            "send a smaller one"
        )
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise ValueError("a file must come as base64 text, got other characters") from None


def read_picture(data: bytes) -> Image.Image:
    """Return a picture as upright, opaque RGB of 8 bits a channel; of an animation the first frame.

    Parameters
    ----------
    data : bytes
        A file of one of FORMATS.

    Raises
    ------
    ValueError
        Where it is of another format, cut short or damaged, or has too many pixels or
        values of no known range: the header is read before anything is decoded.
    """
    try:
        with Image.open(io.BytesIO(without_metadata(data)[0]), formats=FORMATS) as image:
            width, height = image.size
            deep = image.mode[0] in "IF" or layout_of(image) in OTHER_BYTES
            most = MAX_DEEP_PIXELS if deep else MAX_PICTURE_PIXELS
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_too_large(MAX_PICTURE_PIXELS, "far more")) from None
    except _DAMAGED_HEADERS:
        raise ValueError(
            f"a picture must be a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, and this is "
            "none, or is damaged; save it again as PNG"
        ) from None
    if width * height > most or max(width, height) > MAX_PICTURE_SIDE:
        raise ValueError(_too_large(most, f"{width} x {height}"))
    try:
        return open_picture(data, FORMATS)
    except UnknownRangeError:
        raise
    except UnreadablePictureError:
        raise ValueError("the picture is cut short or damaged; save it again as PNG") from None


def _too_large(most: int, got: str) -> str:
    depth = " at more than 8 bits a channel" if most == MAX_DEEP_PIXELS else ""
    return (
        f"a picture must have at most {most / 10**6:g} million pixels{depth} and sides of "
        f"{MAX_PICTURE_SIDE}, got {got}; make it smaller"
    )


# What Pillow raises for headers that are not as they should be.
_DAMAGED_HEADERS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, MemoryError)
