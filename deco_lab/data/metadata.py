"""The pixels of a picture's file without the rest of it, and which way is up.

Decoders stumble over metadata: a text that is too long, a rational number where a word should be, a
colour profile of the wrong length. So a JPEG, PNG or TIFF file is handed on with nothing in it but
what its pixels are made of, and of the metadata a single number is read, as browsers read it: the
orientation of the first directory of EXIF. Where that number cannot be read, the pixels are upright
as they are stored. XMP, which may repeat it, is not asked.

WebP, and formats beyond these, keep EXIF apart from the pixels as it is.
"""

import re
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, Any, Literal

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_JPEG = b"\xff\xd8\xff"
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd9])")
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""Segments among the metadata that decide whether three channels are RGB or YCbCr."""
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
        Of any format; others than JPEG, PNG and TIFF are returned as they are, with 1.
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
        colours = content.startswith(_JPEG_COLOURS.get(kind, b"-")) and len(content) >= 12
        if colours or not (0xE0 <= kind <= 0xEF or kind == 0xFE):
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
        start = end
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
