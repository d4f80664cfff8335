"""Metadata of every kind, whole and damaged: the pixels are those of the file without any."""

import random
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features
from test_data_decoding import CASES, ORIENTATION, TURNED

from deco_lab.data import open_picture, without_metadata
from deco_lab.data.decoding import exif_orientation
from deco_lab.workbench.inlet import read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
SAVED: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF compressed": {"compression": "tiff_lzw"},
}
SOFTWARE, ICC, XMP = 305, 34675, 700


def stored(kind: str, **metadata: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, kind.split()[0], **SAVED.get(kind, {}), **metadata)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF as a camera writes it: words, rationals, a directory of its own and one of GPS."""
    tags = Image.Exif()
    tags.endian = "<"
    tags[ORIENTATION], tags[SOFTWARE], tags[271] = orientation, "editor of photographs", "camera"
    tags[282], tags[283], tags[296] = 72.0, 72.0, 2
    tags.get_ifd(0x8769).update({33434: 0.008, 36867: "2026:01:01 00:00:00", 37500: bytes(40)})
    tags.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return tags.tobytes()


CAMERA = exif(6)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WORDS = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Make="camera"/></x:xmpmeta>'


def damaged(content: bytes, draw: random.Random, spare: int = 0) -> bytes:
    """Return bytes with a few of them, or all from one on, other than they were."""
    changed = bytearray(content)
    places = draw.choices(range(spare, len(content)), k=draw.choice([1, 3, 20]))
    if draw.random() < 0.2:
        places = range(places[0], min(places[0] + 400, len(content)))
    for at in places:
        changed[at] = draw.choice([0, 255, draw.randrange(256)])
    return bytes(changed)


def with_damaged_metadata(kind: str, draw: random.Random, spare_orientation: bool) -> bytes:
    """Return a picture with damaged metadata and intact pixels, of orientation 6."""
    if kind.startswith("TIFF"):
        tags = {ORIENTATION: 6, SOFTWARE: "editor", 271: "camera", 282: 72.0, 283: 72.0, 296: 2}
        data = stored(kind, tiffinfo=tags | {XMP: WORDS}, icc_profile=PROFILE)
        return damage_tags(data, draw, spare_orientation)
    # What is spared begins with the header and the count of the entries.
    spare = CAMERA.index(struct.pack("<HHL", ORIENTATION, 3, 1)) + 12 if spare_orientation else 0
    metadata: dict[str, Any] = {
        "exif": damaged(CAMERA, draw, spare),
        "icc_profile": damaged(PROFILE, draw),
    }
    if kind == "JPEG":
        metadata |= {"comment": damaged(b"words", draw), "xmp": damaged(WORDS, draw)}
        data = stored(kind, **metadata)
        # What is made of image resources, of several pictures and of a profile's pieces.
        for marker, start in (
            (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16)),
            (0xE2, b"MPF\0MM\0*\0\0\0\x08" + bytes(30)),
            (0xE2, b"ICC_PROFILE\0"),
            (0xE0, b"JFXX\0"),
            (0xEE, b"Adobe"),
        ):
            body = start[:4] + damaged(start[4:], draw)
            data = data[:2] + struct.pack(">BBH", 255, marker, len(body) + 2) + body + data[2:]
        return data
    if kind == "WEBP":
        return stored(kind, **metadata, xmp=damaged(WORDS, draw))
    chunks = PngImagePlugin.PngInfo()
    for name in (b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL"):
        chunks.add(name, damaged(b"key\0\0\0\0\0x\x9cwords", draw), after_idat=draw.random() < 0.5)
    data = bytearray(stored(kind, **metadata, pnginfo=chunks))
    if draw.random() < 0.5:  # a wrong checksum
        data[data.index(b"tEXt") + 4 + len(b"key\0\0\0\0\0x\x9cwords")] ^= 255
    return bytes(data)


def damage_tags(data: bytes, draw: random.Random, spare_orientation: bool) -> bytes:
    """Return a TIFF file in which entries of metadata have other types, counts and values."""
    changed = bytearray(data)
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        metadata = {SOFTWARE, 271, 282, 283, 296, XMP, ICC}
        if not spare_orientation:
            metadata.add(ORIENTATION)
        if tag in metadata and draw.random() < 0.7:
            changed[at + 2 : at + 12] = damaged(data[at + 2 : at + 12], draw)
    return bytes(changed)


@pytest.mark.parametrize("kind", SAVED)
def test_open_picture_takes_the_pixels_whatever_the_metadata(kind: str, tmp_path: Path):
    """Upright where the orientation can be read; else upright or as stored, or as it now says."""
    draw = random.Random(kind)
    clean = np.array(Image.open(BytesIO(stored(kind))).convert("RGB"))
    outcomes = {turn(clean).tobytes() + bytes(turn(clean).shape[:2]) for turn in TURNED.values()}
    upright = 0
    for number in range(400):
        readable = number % 2 == 0
        data = with_damaged_metadata(kind, draw, readable)
        if number % 4 < 2:
            picture = np.array(open_picture(data))
            assert (np.array(read_picture(data)) == picture).all()
        else:
            (tmp_path / "picture").write_bytes(data)
            picture = np.array(open_picture(tmp_path / "picture"))
        if readable:
            assert np.array_equal(picture, TURNED[6](clean)), number
        assert picture.tobytes() + bytes(picture.shape[:2]) in outcomes, number
        upright += np.array_equal(picture, TURNED[6](clean))
    assert 200 < upright < 400  # the damage does reach the orientation


def test_open_picture_reads_what_people_met():
    """Software as RATIONAL, a negative rational, EXIF of no TIFF header, 2 MB of text."""
    for name in ("exif6_software_rational.jpg", "exif6_neg_rational.jpg"):
        with Image.open(CASES / name) as image:
            stored = np.array(image)
        assert np.array_equal(np.array(open_picture(CASES / name)), TURNED[6](stored)), name
    drawn = np.array(open_picture(CASES / "png_badexif.png"))
    with Image.open(CASES / "png_badexif.png") as image:
        assert np.array_equal(drawn, np.array(image))
    assert open_picture(CASES / "png_bigtext.png").size == (96, 64)


def test_open_picture_passes_over_text_and_profiles_of_any_size():
    long = bytes(3 * 2**20)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("workflow", long, zip=True)
    chunks.add_text("prompt", long)
    chunks.add_itxt("XML:com.adobe.xmp", long, zip=True)
    for _ in range(30):  # more than the 64 MiB that Pillow allows in all
        chunks.add_text("more", long, zip=True)
    data = stored("PNG", pnginfo=chunks, icc_profile=long)
    for picture in (open_picture(data), read_picture(data)):
        assert np.array_equal(np.array(picture), PIXELS)


@pytest.mark.parametrize(("order", "mark"), [("<", b"II"), (">", b"MM")])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("big", [False, True])
def test_without_metadata_reads_the_orientation_of_any_tiff(
    order: str, mark: bytes, kind: int, big: bool
):
    value = order + {3: "H", 4: "L"}[kind]
    entry = struct.pack(order + ("HHQ" if big else "HHL"), ORIENTATION, kind, 1)
    entry += struct.pack(value, 8).ljust(8 if big else 4, b"\0")
    head = struct.pack(
        order + ("HHHQQ" if big else "HLH"), *((43, 8, 0, 16, 1) if big else (42, 8, 1))
    )
    data = mark + head + entry + bytes(8)
    pixels, orientation = without_metadata(data)
    assert orientation == exif_orientation(b"Exif\0\0" + data) == 8
    assert len(pixels) == len(data)
    assert entry not in pixels


@pytest.mark.skipif(not features.check("avif"), reason="needs Pillow with AVIF: 11.3 or later")
def test_open_picture_takes_avif_whatever_its_exif():
    draw = random.Random(0)
    plain, data = stored("AVIF"), stored("AVIF", exif=CAMERA)
    upright = TURNED[6](np.array(open_picture(plain)))
    at = data.index(b"Exif\0\0" + CAMERA[6:8])
    for _ in range(100):
        changed = damaged(data[at : at + 60], draw)  # the header and the first entries
        assert np.array_equal(
            np.array(open_picture(data[:at] + changed + data[at + 60 :])), upright
        )


@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II+\0" + b"\xff" * 12, b"words"]
)
def test_exif_orientation_is_1_where_none_can_be_read(content: bytes):
    assert exif_orientation(content) == exif_orientation(b"Exif\0\0" + content) == 1
