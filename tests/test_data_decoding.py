import struct
import sys
import types
import warnings
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
ORIENTATION, SMALLEST, LARGEST = 274, 340, 341


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


def grey_of(file: BytesIO) -> list[int]:
    """The first row of a picture whose channels are alike."""
    pixels = np.array(open_picture(file))
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


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


def test_open_picture_scales_16_bits_to_8():
    values = np.array([[0, 257, 128, 129, 60000, 65535]], np.uint16)
    expected = [0, 1, 0, 1, 233, 255]  # 60000 / 257 is 233.5 less a little
    for kind in ("PNG", "TIFF"):
        result = opened(Image.fromarray(values), kind)
        assert result[0].tolist() == [[value] * 3 for value in expected]
    big_endian = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    assert opened(big_endian, "TIFF")[0, :, 1].tolist() == expected


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
    rule = f"a picture must have {kind}, or declare which values are black and white .*, got values"
    with pytest.raises(UnknownRangeError, match=rule):
        open_picture(tiff(values))


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32, np.int16, np.uint16])
def test_open_picture_scales_from_the_range_that_a_file_declares(kind: Any):
    file = tiff(np.array([[100, 150, 200, 350, 0]], kind), {SMALLEST: 100.0, LARGEST: 300.0})
    assert grey_of(file) == [0, 64, 128, 255, 0]
    least = np.array([[0, 500]], kind)
    assert grey_of(tiff(least, {LARGEST: 1000.0})) == [0, 128]
    for damaged in ({SMALLEST: 7.0, LARGEST: 7.0}, {LARGEST: np.nan}, {LARGEST: np.inf}):
        with pytest.raises(UnknownRangeError):
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


@pytest.mark.parametrize("most", [65535, 1000])
def test_open_picture_takes_white_of_a_pgm_from_its_header(most: int):
    values = np.array([[0, most, most // 5]], ">u2")
    assert grey_of(BytesIO(b"P5 3 1 %d\n" % most + values.tobytes())) == [0, 255, 51]


def test_open_picture_refuses_16_bits_of_fits():
    cards = ("SIMPLE = T", "BITPIX = 16", "NAXIS = 2", "NAXIS1 = 2", "NAXIS2 = 1", "END")
    header = "".join(
        f"{c.partition(' = ')[0]:8}{'=' * (' = ' in c)} {c.partition(' = ')[2]:70}" for c in cards
    )
    with pytest.raises(UnknownRangeError, match="8 or 16 unsigned bits"):
        open_picture(BytesIO(header.encode().ljust(2880) + bytes(2880)))


def test_open_picture_scales_12_bits_to_8():
    packed = bytes.fromhex("000800fff123")  # 0, 0x800, 0xfff, 0x123
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + packed
    assert data.index(packed) == tags[273]
    assert grey_of(BytesIO(data)) == [round(v * 255 / 4095) for v in (0, 0x800, 0xFFF, 0x123)]


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_open_picture_rounds_16_bits_of_colour_png(colour: int):
    channels = {2: 3, 4: 2, 6: 4}[colour]
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, 2)
    values[..., 1] = values[::-1, ::-1, 1]
    if channels != 3:
        values[..., -1] = 65535
    picture = np.array(open_picture(BytesIO(png(values.astype(">u2"), 16, colour))))
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
    for source in (file, BytesIO(file.read_bytes())):
        assert np.array_equal(np.array(open_picture(source)), np.round(values[..., :3] / 257))


@pytest.mark.parametrize("order", ["<", ">"])
def test_open_picture_reads_16_bits_in_separate_planes(order: Any):
    values = np.random.default_rng(0).integers(0, 65536, (3, 40, 30), np.uint16)
    file = BytesIO()
    tifffile.imwrite(file, values, byteorder=order, photometric="rgb", planarconfig="separate")
    assert np.array_equal(np.array(open_picture(file)), np.round(values / 257).transpose(1, 2, 0))


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [*range(16)])])
def test_open_picture_lays_a_transparent_grey_of_few_bits_on_white(bits: int, values: list[int]):
    key = len(values) // 2 - 1
    packed = np.packbits(np.unpackbits(np.array([values], np.uint8).T, axis=1)[:, -bits:]).reshape(
        1, -1
    )
    data = png(packed, bits, 0, key=(key,), width=len(values))
    top = len(values) - 1
    assert grey_of(BytesIO(data)) == [255 if v == key else v * 255 // top for v in values]


def test_open_picture_lays_a_transparent_colour_of_16_bits_on_white():
    grey = np.array([[1000, 1001, 40000]], ">u2")
    assert grey_of(BytesIO(png(grey, 16, 0, key=(1000,)))) == [255, 4, 156]
    colours = np.array([[[1, 2, 3], [1, 2, 4], [257, 514, 771]]], ">u2")
    picture = np.array(open_picture(BytesIO(png(colours, 16, 2, key=(1, 2, 3)))))
    assert picture.tolist() == [[[255] * 3, [0] * 3, [1, 2, 3]]]
    case = open_picture(CASES / "g16_trns.png")
    with Image.open(CASES / "g16_trns.png") as image:
        stored, key = np.array(image), image.info["transparency"]
    assert (stored == key).any()
    assert np.array_equal(
        np.array(case)[..., 0], np.where(stored == key, 255, (stored / 257).round())
    )


def test_open_picture_resolves_cmyk():
    inks = np.array([[[0, 255, 255, 0], [255, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    picture = Image.frombytes("CMYK", (3, 1), inks.tobytes())
    expected = [[255, 0, 0], [0, 0, 255], [0, 0, 0]]
    assert opened(picture, "TIFF")[0].tolist() == expected
    large = picture.resize((48, 16), Image.Resampling.NEAREST)
    decoded = opened(large, "JPEG", quality=100, subsampling=0)[8, 8::16].astype(int)
    assert np.abs(decoded - expected).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_open_picture_turns_it_upright(kind: str, orientation: int, turned: Any):
    # Blocks of 16 pixels, so that a JPEG keeps their colours.
    blocks = np.kron(numbered(), np.ones((16, 16, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "TIFF":
        options = {"tiffinfo": {ORIENTATION: orientation}}
    else:
        options["exif"] = exif
    result = opened(Image.fromarray(blocks), kind, **options)
    assert result.shape == turned(blocks).shape
    assert np.abs(result.astype(int) - turned(blocks)).max() <= 3


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_open_picture_turns_a_tiff_on_disk_upright(mode: str, tmp_path: Path):
    """Grey and RGBA, which Pillow maps into memory, stayed as they were."""
    Image.new(mode, (7, 4)).save(tmp_path / "x.tif", tiffinfo={ORIENTATION: 6})
    assert open_picture(tmp_path / "x.tif").size == (4, 7)


def test_open_picture_takes_the_first_frame():
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    file = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array(open_picture(file)).max() == 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_open_picture_refuses_what_is_cut_short(kind: str):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = stored(Image.fromarray(noise), kind).getvalue()
    assert open_picture(BytesIO(data)).size == (40, 40)
    for length in (0, 4, len(data) // 3, len(data) * 3 // 4):
        with pytest.raises(UnreadablePictureError):
            open_picture(BytesIO(data[:length]))


def test_open_picture_refuses_what_is_no_picture(tmp_path: Path):
    (tmp_path / "words.jpg").write_text("not a picture")
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        open_picture(tmp_path / "words.jpg")
    with pytest.raises(UnreadablePictureError, match="No such file"):
        open_picture(tmp_path / "missing.jpg")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        open_picture(BytesIO(postscript))


def test_open_picture_reads_no_other_format_than_is_allowed():
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PPM")
    file.seek(0)
    assert open_picture(file).size == (4, 4)
    file.seek(0)
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        open_picture(file, ["PNG", "JPEG"])


def test_open_picture_refuses_more_pixels_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_picture(stored(Image.new("RGB", (10, 10)))).size == (10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, below twice the limit
        with pytest.raises(UnreadablePictureError, match="10 x 11 pixels are more than Pillow's"):
            open_picture(stored(Image.new("RGB", (10, 11))))
    with pytest.raises(UnreadablePictureError, match="limit of 100"):
        open_picture(stored(Image.new("RGB", (10, 11))))
    with pytest.raises(UnreadablePictureError, match="decompression bomb DOS attack"):
        open_picture(stored(Image.new("RGB", (10, 50))))


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
