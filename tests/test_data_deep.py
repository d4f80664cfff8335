"""Pictures of more than eight bits a channel: rounded, with their transparent colour."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from deco_lab import data

CASES = Path(__file__).parent / "cases"
ORIENTATION, SMALLEST, LARGEST = 274, 340, 341


def open_picture(file: BytesIO | bytes | Path) -> Image.Image:
    return data.open_picture(file.getvalue() if isinstance(file, BytesIO) else file)


def stored(picture: Image.Image, kind: str = "PNG", **options: Any) -> BytesIO:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file


def opened(picture: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    result = open_picture(stored(picture, kind, **options))
    assert result.mode == "RGB"
    return np.array(result)


def tiff(values: np.ndarray, declared: dict[int, float] | None = None, **options: Any) -> BytesIO:
    """A TIFF file of any kind of numbers, with tags of one number each."""
    file = BytesIO()
    tags = [(tag, "d", 1, value, True) for tag, value in (declared or {}).items()]
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options}, extratags=tags)
    return file


def png(
    rows: np.ndarray, bits: int, colour: int, key: tuple[int, ...] = (), width: int | None = None
) -> bytes:
    """A PNG of any depth, (H, ...) in the file's own order of bytes, one value transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width or rows.shape[1], len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    chunks = chunk(b"IHDR", header) + transparent + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def grey_of(file: BytesIO | bytes) -> list[int]:
    """The first row of a picture whose channels are alike."""
    pixels = np.array(open_picture(file))
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def numbered() -> np.ndarray:
    """(2, 3, 3): every pixel of its own."""
    return np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32, np.int16, np.uint16])
def test_open_picture_scales_from_the_range_that_a_file_declares(kind: Any):
    file = tiff(np.array([[100, 150, 200, 350, 0]], kind), {SMALLEST: 100.0, LARGEST: 300.0})
    assert grey_of(file) == [0, 64, 128, 255, 0]
    least = np.array([[0, 500]], kind)
    assert grey_of(tiff(least, {LARGEST: 1000.0})) == [0, 128]
    for damaged in ({SMALLEST: 7.0, LARGEST: 7.0}, {LARGEST: np.nan}, {LARGEST: np.inf}):
        with pytest.raises(data.UnknownRangeError):
            open_picture(tiff(least, damaged))


SIGNALLING = np.array([[0x7F800001, 0x3F800000]], np.uint32).view(np.float32)
OVERSHOOT = np.array([[0.0, 0.2, 1.0, 1.002, 1.3, -0.3, np.nan]], np.float32)
INFINITE = np.array([[-1.0, 0.0, 1.0, np.inf]], np.float32)


@pytest.mark.parametrize(
    ("values", "declared", "options", "expected"),
    [
        (OVERSHOOT, {}, {}, [0, 51, 255, 255, 255, 0, 0]),
        (SIGNALLING, {}, {}, [0, 255]),
        (INFINITE, {SMALLEST: -5e-324, LARGEST: 5e-324}, {}, [0, 128, 255, 255]),
        (np.array([[0, 2**31, 2**32 - 1]], np.uint32), {LARGEST: 2.0**32 - 1}, {}, [0, 128, 255]),
        (np.array([[0, 65535, 51400]], np.uint16), {}, {"photometric": "miniswhite"}, [255, 0, 55]),
    ],
    ids=["float", "signalling NaN", "overflow", "beyond signed", "white is zero"],
)
def test_open_picture_scales_tiff_of_one_channel(values, declared, options, expected):
    assert grey_of(tiff(values, declared, **options)) == expected


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_open_picture_rounds_16_bits_of_colour_png(colour: int):
    channels = {2: 3, 4: 2, 6: 4}[colour]
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, 2)
    values[..., 1] = values[::-1, ::-1, 1]
    if channels != 3:
        values[..., -1] = 65535
    picture = np.array(open_picture(bytes(png(values.astype(">u2"), 16, colour))))
    expected = np.round(values / 257)[..., [0, 0, 0] if channels == 2 else [0, 1, 2]]
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_open_picture_rounds_16_bits_of_colour_tiff(
    order: Any, compression: Any, channels: int, tmp_path: Path
):
    values = np.random.default_rng(0).integers(0, 65536, (40, 30, channels), np.uint16)
    values[..., 3:] = 65535
    options = {"byteorder": order, "compression": compression, "photometric": "rgb"}
    file = tmp_path / "deep.tif"
    tifffile.imwrite(file, values, **options)
    for source in (file, bytes(file.read_bytes())):
        assert np.array_equal(np.array(open_picture(source)), np.round(values[..., :3] / 257))


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [*range(16)])])
def test_open_picture_lays_a_transparent_grey_of_few_bits_on_white(bits: int, values: list[int]):
    key = len(values) // 2 - 1
    packed = np.packbits(np.unpackbits(np.array([values], np.uint8).T, axis=1)[:, -bits:]).reshape(
        1, -1
    )
    data = png(packed, bits, 0, key=(key,), width=len(values))
    top = len(values) - 1
    assert grey_of(bytes(data)) == [255 if v == key else v * 255 // top for v in values]


def test_open_picture_lays_a_transparent_colour_of_16_bits_on_white():
    grey = np.array([[1000, 1001, 40000]], ">u2")
    assert grey_of(bytes(png(grey, 16, 0, key=(1000,)))) == [255, 4, 156]
    colours = np.array([[[1, 2, 3], [1, 2, 4], [257, 514, 771]]], ">u2")
    picture = np.array(open_picture(bytes(png(colours, 16, 2, key=(1, 2, 3)))))
    assert picture.tolist() == [[[255] * 3, [0] * 3, [1, 2, 3]]]
    case = open_picture(CASES / "g16_trns.png")
    with Image.open(CASES / "g16_trns.png") as image:
        stored, key = np.array(image), image.info["transparency"]
    assert (stored == key).any()
    assert np.array_equal(
        np.array(case)[..., 0], np.where(stored == key, 255, (stored / 257).round())
    )
