import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deco_lab.data import Pictures, UnreadablePictureError, open_picture
from deco_lab.data.pictures import hold_out

ORIENTATION = 274


def stored(picture: Image.Image, kind: str = "PNG", **options: Any) -> BytesIO:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file


def opened(picture: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    result = open_picture(stored(picture, kind, **options))
    assert result.mode == "RGB"
    return np.array(result)


def numbered() -> np.ndarray:
    """(2, 3, 3): every pixel of its own."""
    return np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "PPM", "TGA", "QOI"])
def test_open_picture_gives_the_stored_rgb(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (opened(Image.fromarray(numbered()), kind, **options) == numbered()).all()


def test_open_picture_lays_transparency_on_white():
    row = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]  # 51 is a fifth
    assert opened(Image.fromarray(row)).tolist() == expected
    grey = np.array([[[100, 255], [100, 0]]], np.uint8)
    assert opened(Image.fromarray(grey)).tolist() == [[[100] * 3, [255] * 3]]


def test_open_picture_lays_a_transparent_colour_on_white():
    picture = Image.new("RGB", (2, 1), (9, 8, 7))
    picture.putpixel((1, 0), (1, 2, 3))
    expected = [[[9, 8, 7], [255, 255, 255]]]
    assert opened(picture, transparency=(1, 2, 3)).tolist() == expected


def test_open_picture_resolves_palettes():
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 7, 8, 9])
    picture.putdata([2, 0, 1])
    assert opened(picture).tolist() == [[[7, 8, 9], [255, 0, 0], [0, 255, 0]]]
    with_alpha = opened(picture, transparency=bytes([255, 0, 255]))
    assert with_alpha.tolist() == [[[7, 8, 9], [255, 0, 0], [255, 255, 255]]]


def test_open_picture_scales_16_bits_to_8():
    values = np.array([[0, 257, 128, 129, 60000, 65535]], np.uint16)
    expected = [0, 1, 0, 1, 233, 255]  # 60000 / 257 is 233.5 less a little
    for kind in ("PNG", "TIFF"):
        result = opened(Image.fromarray(values), kind)
        assert result[0].tolist() == [[value] * 3 for value in expected]
    big_endian = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    assert opened(big_endian, "TIFF")[0, :, 1].tolist() == expected


def test_open_picture_takes_floating_point_in_0_to_1_or_0_to_255():
    share = np.array([[0.0, 0.2, 1.0, -1.0, np.nan]], np.float32)
    assert opened(Image.fromarray(share), "TIFF")[0, :, 0].tolist() == [0, 51, 255, 0, 0]
    bytes_as_float = np.array([[0.0, 51.0, 300.0]], np.float32)
    assert opened(Image.fromarray(bytes_as_float), "TIFF")[0, :, 2].tolist() == [0, 51, 255]


def test_open_picture_repeats_grey_and_black_and_white():
    grey = np.array([[0, 90, 255]], np.uint8)
    assert opened(Image.fromarray(grey))[0].tolist() == [[0] * 3, [90] * 3, [255] * 3]
    assert opened(Image.fromarray(grey == 90))[0].tolist() == [[0] * 3, [255] * 3, [0] * 3]


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
    with pytest.raises(UnreadablePictureError, match="cannot identify"):
        open_picture(tmp_path / "words.jpg")
    with pytest.raises(UnreadablePictureError, match="No such file"):
        open_picture(tmp_path / "missing.jpg")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UnreadablePictureError, match="cannot identify"):
        open_picture(BytesIO(postscript))


def test_open_picture_reads_no_other_format_than_is_allowed():
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PPM")
    file.seek(0)
    assert open_picture(file).size == (4, 4)
    file.seek(0)
    with pytest.raises(UnreadablePictureError, match="cannot identify"):
        open_picture(file, ["PNG", "JPEG"])


def test_open_picture_refuses_more_pixels_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_picture(stored(Image.new("RGB", (10, 10)))).size == (10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, below twice the limit
        with pytest.raises(UnreadablePictureError, match="10 x 11 pixels are more than Pillow's"):
            open_picture(stored(Image.new("RGB", (10, 11))))
    with pytest.raises(UnreadablePictureError, match="limit of 100 pixels"):
        open_picture(stored(Image.new("RGB", (10, 11))))
    with pytest.raises(UnreadablePictureError, match="decompression bomb DOS attack"):
        open_picture(stored(Image.new("RGB", (10, 50))))


def pictures_of(labels: list[int], **replaced: Any) -> Pictures:
    values: dict[str, Any] = {
        "open": lambda index: Image.new("RGB", (2, 2), (index, 0, 0)),
        "labels": np.array(labels),
        "class_names": ("a", "b"),
        "names": [f"picture {index}" for index in range(len(labels))],
    }
    return Pictures(**{**values, **replaced})


def test_pictures_select_keeps_each_picture_with_its_label_and_name():
    pictures = pictures_of([0, 1, 1, 0]).select(np.array([False, True, False, True]))
    assert len(pictures) == 2
    assert pictures.labels.tolist() == [1, 0]
    assert [pictures.names[0], pictures.names[1]] == ["picture 1", "picture 3"]
    assert [pictures.open(index).getpixel((0, 0)) for index in (0, 1)] == [(1, 0, 0), (3, 0, 0)]
    again = pictures.select(np.array([False, True]))
    assert again.names[0] == "picture 3"
    assert again.open(0).getpixel((0, 0)) == (3, 0, 0)


def test_pictures_rejects_what_does_not_fit_together():
    with pytest.raises(ValueError, match="whole numbers, got float64"):
        Pictures(lambda index: Image.new("RGB", (1, 1)), np.array([0.0]), ("a",), ["x"])  # type: ignore
    with pytest.raises(ValueError, match=r"labels must lie in 0 to 1.*got 0 to 2"):
        pictures_of([0, 2])
    with pytest.raises(ValueError, match="as many as the labels, 2, got 1"):
        pictures_of([0, 1], names=["one"])


def test_hold_out_takes_its_share_and_both_sides_of_every_class():
    sizes = [1, 2, 3, 10, 2000]
    labels = np.repeat(np.arange(5), sizes)
    chosen = hold_out(labels, [str(index) for index in range(len(labels))], 0.1)
    counts = [int(chosen[labels == label].sum()) for label in range(5)]
    assert counts[0] == 0
    assert counts[1] == 1
    assert all(1 <= count < size for count, size in zip(counts[2:], sizes[2:], strict=True))
    assert abs(counts[4] - 200) < 4 * np.sqrt(2000 * 0.1 * 0.9)
    most = hold_out(labels, [str(index) for index in range(len(labels))], 0.999)
    assert [int((~most[labels == label]).sum()) for label in range(4)] == [1, 1, 1, 1]


def test_hold_out_leaves_pictures_where_they_are_when_others_come():
    keys = [f"{index}.png" for index in range(300)]
    few = hold_out(np.zeros(300, np.int64), keys, 0.1)
    more = hold_out(np.zeros(900, np.int64), keys + [f"new{i}.png" for i in range(600)], 0.1)
    assert (few == more[:300]).all()
    order = np.random.default_rng(0).permutation(300)
    assert (hold_out(np.zeros(300, np.int64), [keys[i] for i in order], 0.1) == few[order]).all()


def test_hold_out_of_nothing_and_of_too_much():
    assert not hold_out(np.zeros(50, np.int64), [str(i) for i in range(50)], 0).any()
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"held_out must be a share in \[0, 1\)"):
            hold_out(np.zeros(2, np.int64), ["a", "b"], share)
