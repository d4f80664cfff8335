"""Uploads: what a browser sends, what is refused, and that it is checked before it is decoded."""

import base64
import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deco_lab.workbench import inlet
from deco_lab.workbench.inlet import MAX_BYTES, from_data_uri, read_picture

ORIENTATION = 274
NOISE = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


def stored(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, kind, **options)
    return file.getvalue()


def png_of_size(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header promises a size, and which holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"\0" * 100)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_from_data_uri_gives_the_bytes():
    content = bytes(range(256))
    text = base64.b64encode(content).decode()
    assert from_data_uri(text) == content
    assert from_data_uri(f"data:image/png;base64,{text}") == content


@pytest.mark.parametrize(
    "text", ["no base64!", "QUJ", "QUJD\n", "data:,plain text", "QUJDé", "=A=="]
)
def test_from_data_uri_refuses_what_is_not_base64(text: str):
    with pytest.raises(ValueError, match="must come as base64 text, got other") as caught:
        from_data_uri(text)
    assert "plain" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, b"QUJD", ["QUJD"], {"data": "QUJD"}])
def test_from_data_uri_refuses_what_is_no_text(value: Any):
    with pytest.raises(
        ValueError, match=r"must come as base64 text, got (NoneType|int|bytes|list|di)"
    ):
        from_data_uri(value)


def test_from_data_uri_refuses_long_text_before_decoding():
    text = "A" * (2 * MAX_BYTES)
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 16 MiB, got about 24; send a smaller one"):
        from_data_uri(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**16


def test_from_data_uri_takes_the_longest_file():
    assert len(from_data_uri(base64.b64encode(bytes(MAX_BYTES)).decode())) == MAX_BYTES


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_read_picture_gives_the_stored_pixels(kind: str):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    pixels = np.full((6, 10, 3), (200, 40, 90), np.uint8)
    picture = read_picture(stored(pixels, kind, **options.get(kind, {})))
    assert picture.mode == "RGB"
    assert picture.size == (10, 6)
    assert np.abs(np.asarray(picture, int) - pixels).max() <= (2 if kind == "JPEG" else 0)


def test_read_picture_turns_it_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise
    turned = read_picture(stored(NOISE, "PNG", exif=exif))
    assert (np.asarray(turned) == np.rot90(NOISE, -1)).all()


def test_read_picture_resolves_cmyk_16_bits_and_palettes_with_transparency():
    ink = Image.new("CMYK", (3, 2), (255, 0, 0, 0))
    assert read_picture(stored(ink, "TIFF")).getpixel((0, 0)) == (0, 255, 255)
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert np.asarray(read_picture(stored(deep)))[0, :, 0].tolist() == [0, 100, 255]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    shown = read_picture(stored(palette, "PNG", transparency=1))
    assert np.asarray(shown).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_read_picture_takes_the_first_frame(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert read_picture(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PDF", "EPS", "PCX"])
def test_read_picture_refuses_other_formats(kind: str):
    with pytest.raises(ValueError, match=r"must be a PNG, JPEG, .* or GIF file, and this is none"):
        read_picture(stored(NOISE, kind))


@pytest.mark.parametrize("data", [b"", b"secret words", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"PK\3\4"])
def test_read_picture_refuses_what_is_none_and_quotes_nothing(data: bytes):
    with pytest.raises(ValueError, match="and this is none, or is damaged") as caught:
        read_picture(data)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_read_picture_refuses_one_cut_short(kind: str):
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = stored(noise, kind)
    with pytest.raises(ValueError, match=r"cut short or damaged|none, or is damaged"):
        read_picture(data[: len(data) // 2])


def test_read_picture_refuses_long_files():
    with pytest.raises(ValueError, match=r"at most 16 MiB, got 16\.0; save it smaller"):
        read_picture(bytes(MAX_BYTES + 1))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8001, 8000), (10000, 10000), (50000, 50000), (16385, 10)])
def test_read_picture_refuses_too_many_pixels_from_the_header(size: tuple[int, int], monkeypatch):
    monkeypatch.setattr(inlet, "open_picture", lambda file: pytest.fail("it was decoded"))
    data = png_of_size(*size)
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 64 million pixels and sides of 16384, got"):
        read_picture(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_read_picture_bounds_what_deep_pictures_cost(monkeypatch):
    monkeypatch.setattr(inlet, "open_picture", lambda file: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="at most 16 million pixels at more than 8 bits"):
        read_picture(png_of_size(4001, 4000, bits=16, colour=0))


def test_read_picture_says_what_a_picture_of_no_known_range_needs():
    values = np.array([[0.0, 200.0]], np.float32)
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], so that it is known"):
        read_picture(stored(values, "TIFF"))


def test_read_picture_decodes_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(inlet, "MAX_PICTURE_PIXELS", 60)
    assert read_picture(stored(NOISE)).size == (10, 6)
    monkeypatch.setattr(inlet, "MAX_PICTURE_PIXELS", 59)
    with pytest.raises(ValueError, match="got 10 x 6; make it smaller"):
        read_picture(stored(NOISE))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow thinks of the damage
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_read_picture_raises_only_sentences_for_damaged_files(kind: str):
    draw = random.Random(kind)
    original = stored(NOISE, kind)
    outcomes = set()
    for _ in range(300):
        data = bytearray(original)
        for _ in range(draw.choice([1, 2, 8])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            outcomes.add(read_picture(bytes(data)).mode)
        except ValueError as error:
            outcomes.add(str(error)[:13])
    assert "RGB" in outcomes
    assert outcomes <= {"RGB", "a picture mus", "the picture i"}
    assert len(outcomes) > 1
