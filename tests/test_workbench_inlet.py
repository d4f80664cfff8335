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


def test_from_data_uri_gives_the_bytes_of_the_longest_file():
    content = random.Random(0).randbytes(MAX_BYTES)
    text = base64.b64encode(content).decode()
    assert from_data_uri(text) == content
    assert from_data_uri(f"data:image/png;base64,{text}") == content


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *[(v, "other characters") for v in ("no base64!", "QUJ", "QUJD\n", "QUJDé", "=A==")],
        ("data:,plain text", "other characters"),
        *[(v, type(v).__name__) for v in (None, 3, b"QUJD", ["QUJD"], {"data": "QUJD"})],
    ],
)
def test_from_data_uri_refuses_what_is_not_base64(value: Any, said: str):
    with pytest.raises(ValueError, match=rf"^a file must come as base64 text, got {said}$"):
        from_data_uri(value)


def test_from_data_uri_refuses_long_text_before_decoding():
    text = "A" * (2 * MAX_BYTES)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"at most 16 MiB, got 24\.0; send a smaller one"):
        from_data_uri(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**16


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_read_picture_gives_the_stored_pixels(kind: str):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    pixels = np.full((6, 10, 3), (200, 40, 90), np.uint8)
    picture = read_picture(stored(pixels, kind, **options.get(kind, {})))
    assert picture.mode == "RGB"
    assert picture.size == (10, 6)
    assert np.abs(np.asarray(picture, int) - pixels).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_read_picture_takes_the_first_frame(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert read_picture(data).getpixel((4, 4)) == (255, 0, 0)


CUT = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
NONE = "must be a PNG, JPEG, .* or GIF file, and this is none, or is damaged"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *[(stored(NOISE, kind), NONE) for kind in ("PPM", "TGA", "ICO", "PDF", "EPS", "PCX")],
        *[(data, NONE) for data in (b"", b"secret words", b"\x89PNG\r\n\x1a\n", b"<svg/>")],
        *[
            (data[: len(data) // 2], "cut short or damaged|none, or is damaged")
            for data in (stored(CUT, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"))
        ],
        (
            stored(np.array([[0.0, 200.0]], np.float32), "TIFF"),
            "so that it is known",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_read_picture_refuses_in_a_sentence_that_quotes_nothing(data: bytes, said: str):
    with pytest.raises(ValueError, match=said) as caught:
        read_picture(data)
    assert "secret" not in str(caught.value)


DEEP = "at most 16 million pixels at more than 8 bits"
LARGE = "at most 64 million pixels and sides of 16384, got"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        *[
            (png_of_size(*size), LARGE)
            for size in ((8001, 8000), (10000, 10000), (50000, 50000), (16385, 10))
        ],
        *[(png_of_size(4001, 4000, bits=16, colour=colour), DEEP) for colour in (0, 2, 4, 6)],
    ],
)
def test_read_picture_refuses_too_many_pixels_from_the_header(data, said, monkeypatch):
    monkeypatch.setattr(inlet, "open_picture", lambda *_: pytest.fail("it was decoded"))
    tracemalloc.start()
    with pytest.raises(ValueError, match=said):
        read_picture(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


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
