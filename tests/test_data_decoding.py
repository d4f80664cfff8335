import struct
import sys
import types
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from deco_lab.data import UnknownRangeError, UnreadablePictureError, decoding, open_picture
from deco_lab.data.decoding import picture_suffixes

CASES = Path(__file__).parent / "cases"
ORIENTATION = 274
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def stored(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(picture: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    result = open_picture(stored(picture, kind, **options))
    assert result.mode == "RGB"
    return np.array(result)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    """A TIFF file of any kind of numbers."""
    file = BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options})
    return file.getvalue()


def png(rows: np.ndarray, colour: int, key: int | None = None) -> bytes:
    """A PNG of 16 bits, (H, W, ...), where one value of grey may be transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", rows.shape[1], len(rows), 16, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    transparent = b"" if key is None else chunk(b"tRNS", struct.pack(">H", key))
    chunks = chunk(b"IHDR", header) + transparent + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def twelve_bits() -> bytes:
    """A TIFF of 12 bits a channel: 0, 0x800, 0xfff, 0x123."""
    packed = bytes.fromhex("000800fff123")
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + packed


def numbered() -> np.ndarray:
    """(2, 3, 3): every pixel of its own."""
    return np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "PPM", "TGA", "SGI"])
def test_open_picture_gives_the_stored_rgb(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (opened(Image.fromarray(numbered()), kind, **options) == numbered()).all()


def test_open_picture_lays_transparency_on_white_and_resolves_palettes():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 7, 8, 9])
    palette.putdata([2, 0, 1])
    two = Image.new("RGB", (2, 1), (9, 8, 7))
    two.putpixel((1, 0), (1, 2, 3))
    white, grey = [255] * 3, np.array([[0, 90, 255]], np.uint8)
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    cases: list[tuple[Image.Image, dict[str, Any], list[list[int]]]] = [
        (Image.fromarray(rgba), {}, [[10, 20, 30], white, [204, 224, 244]]),  # 51 is a fifth
        (Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8)), {}, [[100] * 3, white]),
        (two, {"transparency": (1, 2, 3)}, [[9, 8, 7], white]),
        (palette, {}, [[7, 8, 9], [255, 0, 0], [0, 255, 0]]),
        (palette, {"transparency": bytes([255, 0, 255])}, [[7, 8, 9], [255, 0, 0], white]),
        (Image.fromarray(grey), {}, [[0] * 3, [90] * 3, white]),
        (Image.fromarray(grey == 90), {}, [[0] * 3, white, [0] * 3]),
    ]
    for picture, options, row in cases:
        assert opened(picture, **options).tolist() == [row]


DEEP = np.array([[0, 257, 128, 129, 60000, 65535]], np.uint16)
OVERSHOOT = np.array([[0.0, 0.2, 1.0, 1.002, 1.3, -0.3, np.nan]], np.float32)
SIGNALLING = np.array([[0x7F800001, 0x3F800000]], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(DEEP, 0), [0, 1, 0, 1, 233, 255]),  # 60000 / 257 is 233.5 less a little
        (tiff(DEEP), [0, 1, 0, 1, 233, 255]),
        (tiff(DEEP, byteorder=">"), [0, 1, 0, 1, 233, 255]),
        (tiff(DEEP[:, [0, 4, 5]], photometric="miniswhite"), [255, 22, 0]),
        (twelve_bits(), [round(v * 255 / 4095) for v in (0, 0x800, 0xFFF, 0x123)]),
        (b"P5 3 1 1000\n" + np.array([0, 1000, 200], ">u2").tobytes(), [0, 255, 51]),
        (png(np.array([[1000, 1001, 40000]]), 0, key=1000), [255, 4, 156]),
        (tiff(OVERSHOOT), [0, 51, 255, 255, 255, 0, 0]),
        (tiff(SIGNALLING), [0, 255]),
    ],
    ids=["PNG", "TIFF", "big-endian", "white is zero", "12 bits", "PGM", "transparent", "float",
         "signalling NaN"],
)  # fmt: skip
def test_open_picture_scales_deep_grey_to_8_bits(data: bytes, expected: list[int]):
    assert np.array(open_picture(data)).tolist() == [[[value] * 3 for value in expected]]


def test_open_picture_lays_a_transparent_grey_of_16_bits_on_white():
    with Image.open(CASES / "g16_trns.png") as image:
        values, key = np.array(image), image.info["transparency"]
    assert (values == key).any()
    expected = np.where(values == key, 255, (values / 257).round())
    assert np.array_equal(np.array(open_picture(CASES / "g16_trns.png"))[..., 0], expected)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 51.0, 255.0]], np.float32),
        np.array([[-1.0, 0.0, 1.0]], np.float32),
        np.array([[0.0, np.inf]], np.float32),
        np.array([[0, 128, 255]], np.int32),
        np.array([[0, 128, 255]], np.uint32),
        np.array([[0, 128, 30000]], np.int16),
    ],
)
def test_open_picture_refuses_values_of_no_known_range(values: np.ndarray):
    kind = r"floating point in \[0, 1\]" if values.dtype == np.float32 else "8 or 16 unsigned bits"
    with pytest.raises(UnknownRangeError, match=f"a picture must have {kind}, .*, got values"):
        open_picture(tiff(values))


def test_open_picture_refuses_deep_colours_in_separate_planes():
    data = tiff(np.zeros((3, 40, 30), np.uint16), photometric="rgb", planarconfig="separate")
    with pytest.raises(UnreadablePictureError, match="16 bits a channel in separate planes; int"):
        open_picture(data)


def test_open_picture_resolves_cmyk():
    inks = np.array([[[0, 255, 255, 0], [255, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    picture = Image.frombytes("CMYK", (3, 1), inks.tobytes())
    expected = [[255, 0, 0], [0, 0, 255], [0, 0, 0]]
    assert opened(picture, "TIFF")[0].tolist() == expected
    large = picture.resize((48, 16), Image.Resampling.NEAREST)
    decoded = opened(large, "JPEG", quality=100, subsampling=0)[8, 8::16].astype(int)
    assert np.abs(decoded - expected).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_open_picture_turns_it_upright(kind: str, orientation: int, tmp_path: Path):
    # Blocks of 16 pixels, so that a JPEG keeps their colours.
    blocks = np.kron(numbered(), np.ones((16, 16, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    options |= {"tiffinfo": {ORIENTATION: orientation}} if kind == "TIFF" else {"exif": exif}
    file = tmp_path / "picture"
    file.write_bytes(stored(Image.fromarray(blocks), kind, **options))
    result, turned = np.array(open_picture(file)), TURNED[orientation](blocks)
    assert result.shape == turned.shape
    assert np.abs(result.astype(int) - turned).max() <= 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_open_picture_turns_a_tiff_of_any_mode_upright(mode: str):
    assert opened(Image.new(mode, (7, 4)), "TIFF", tiffinfo={ORIENTATION: 6}).shape == (7, 4, 3)


def test_open_picture_takes_the_first_frame():
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    assert opened(frames[0], "GIF", save_all=True, append_images=frames[1:]).max() == 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_open_picture_refuses_what_is_cut_short(kind: str):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = stored(Image.fromarray(noise), kind)
    assert open_picture(data).size == (40, 40)
    for length in (0, 4, len(data) // 3, len(data) * 3 // 4):
        with pytest.raises(UnreadablePictureError):
            open_picture(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"SIMPLE  =" + b"T".rjust(21).ljust(71) + bytes(2880),
    ],
    ids=["words", "EPS", "FITS"],
)
def test_open_picture_refuses_what_is_no_picture(data: bytes, tmp_path: Path):
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        open_picture(data)
    with pytest.raises(UnreadablePictureError, match="No such file"):
        open_picture(tmp_path / "missing.jpg")


def test_open_picture_reads_no_other_format_than_is_allowed():
    data = stored(Image.new("RGB", (4, 4)), "PPM")
    assert open_picture(data).size == (4, 4)
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        open_picture(data, ["PNG", "JPEG"])


def test_open_picture_refuses_more_pixels_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert opened(Image.new("RGB", (10, 10))).shape == (10, 10, 3)
    with pytest.raises(UnreadablePictureError, match="decompression bomb DOS attack"):
        opened(Image.new("RGB", (10, 50)))


def test_picture_suffixes_has_those_of_heic_where_pillow_heif_is_installed(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    del Image.EXTENSION[".heic"]  # so that what is registered below goes when the test ends
    assert ".heic" not in picture_suffixes()
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: Image.register_extension("HEIF", ".heic")  # type: ignore
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    decoding._init.cache_clear()
    try:
        assert ".heic" in picture_suffixes()
    finally:
        decoding._init.cache_clear()
