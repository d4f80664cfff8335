"""What is kept of a run comes back: from a picture, spectra, curves and a script."""

import csv
import io
import json
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageSequence
from skimage.data import astronaut
from test_workbench_watching import DECO, random_model

import deco_lab
from deco_lab.sampling import ReusedCondition, Start
from deco_lab.spectra import PartGains
from deco_lab.workbench.keeping import (
    file_name,
    settings_from_png,
    to_csv,
    to_gif,
    to_npz,
    to_png,
)
from deco_lab.workbench.record import Record
from deco_lab.workbench.script import to_snippet
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.source import prepare
from deco_lab.workbench.watching import Watch

SETTINGS = Settings(
    model="shells & sand.safetensors",
    class_ids=(1, 2),
    num_images=3,
    num_steps=4,
    seed=5,
    guidance="by band",
    band_scales=(1.5, 2, 0.1, 4),
    dit_gains=(1, 1, 0.3, 1),
)
FACTS = {"name": "shells", "weights": "0123abcd", "class_names": ("a", "b", "c"), "steps": None}


@pytest.fixture(scope="module")
def record() -> Record:
    """A run that was stopped after two of its steps."""
    watch = Watch(random_model(DECO), SETTINGS)
    for _ in range(3):
        next(watch)
    return watch.record(FACTS)


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, read by hand."""
    found, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (2, 1)) -> bytes:
    """A PNG with chunks before its pixels, which are none."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IDAT", b"none"), (b"IEND", b"")):
        checksum = zlib.crc32(name + content)
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    return data


def test_to_png_holds_the_images_side_by_side(record: Record):
    with Image.open(io.BytesIO(to_png(record))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (32, 32, 3)
    levels = np.round((record.images.numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    for image, (row, column) in zip(levels, [(0, 0), (0, 16), (16, 0)], strict=True):
        shown = pixels[row : row + 16, column : column + 16]
        assert (shown == image.transpose(1, 2, 0)).all()
    assert not pixels[16:, 16:].any()


def test_to_png_says_in_plain_json_how_it_came_about(record: Record):
    keyword, text = chunks_of(to_png(record))[b"iTXt"].split(b"\0\0\0\0\0")
    said = json.loads(text)
    assert keyword == b"deco_lab"
    assert said["settings"]["band_scales"] == [1.5, 2, 0.1, 4]
    assert said["model"] == {"name": "shells", "weights": "0123abcd", "steps": None}
    assert (said["torch"], said["num_steps"], said["format"]) == (torch.__version__, 2, 1)
    assert said["deco_lab"]


def frames_of(film: bytes) -> tuple[list[np.ndarray], list[int]]:
    """The frames of a GIF as bytes, and how many milliseconds each is shown."""
    frames, times = [], []
    with Image.open(io.BytesIO(film)) as file:
        assert (file.format, file.info["loop"]) == ("GIF", 0)
        for frame in ImageSequence.Iterator(file):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            times.append(frame.info["duration"])
    return frames, times


def sheet_of(film: dict[int, torch.Tensor], step: int) -> np.ndarray:
    """Three images of a record's film, in rows as a picture has them."""
    first, second, third = film[step].numpy().astype(int)
    rows = [[first, second], [third, np.zeros_like(third)]]
    return np.concatenate([np.concatenate(row, 1) for row in rows])


def test_to_gif_is_the_predicted_images_a_frame_a_step():
    watch = Watch(random_model(DECO), replace(SETTINGS, num_steps=30))
    list(watch)
    record = watch.record(FACTS)
    frames, times = frames_of(to_gif(record))
    assert len(frames) == 30
    assert (times[-1], sum(times)) == (1000, 4000)
    assert max(times[:-1]) - min(times[:-1]) <= 10  # a GIF counts in hundredths
    # Three times 256 pixels of as many colours, of which a frame has 256.
    for step, frame in enumerate(frames, 1):
        expected = sheet_of(record.film, step)
        assert frame.shape == expected.shape
        assert np.abs(frame - expected).mean() < 8
    last = np.round((record.images.numpy().clip(-1, 1) + 1) * 127.5).transpose(0, 2, 3, 1)
    assert np.abs(frames[-1][:16, :16] - last[0]).mean() < 8


def test_to_gif_of_few_colours_is_exact(record: Record):
    colours = torch.tensor([[250, 3, 7], [0, 128, 64], [9, 9, 200]], dtype=torch.uint8)
    still = colours[:, None, None].expand(3, 16, 16, 3)
    frames, times = frames_of(to_gif(replace(record, film={1: 255 - still, 2: still})))
    assert times == [3000, 1000]
    for frame, expected in zip(frames, (255 - still, still), strict=True):
        assert np.abs(frame - sheet_of({1: expected}, 1)).max() <= 1


def test_to_gif_keeps_a_photograph_decent(record: Record):
    photograph = torch.from_numpy(np.array(Image.fromarray(astronaut()).resize((128, 128))))
    (frame,), times = frames_of(
        to_gif(replace(record, images=record.images[:1], film={1: photograph[None]}))
    )
    assert times == [1000]
    difference = frame - photograph.numpy().astype(int)
    assert np.sqrt((difference**2).mean()) < 8
    smooth = torch.nn.functional.avg_pool2d(
        torch.from_numpy(difference).permute(2, 0, 1).float(), 8
    )
    assert smooth.abs().mean() < 2  # dither leaves colours where they were


def test_to_gif_of_no_step_is_refused(record: Record):
    with pytest.raises(ValueError, match=r"a film needs the predicted images .*; draw it again"):
        to_gif(record.without_steps())


def test_settings_from_png_reads_back_a_model_of_many_classes(record: Record):
    names = tuple(f"a class with a long name, number {i}" for i in range(10_000))
    many = replace(record, model=FACTS | {"class_names": names})
    assert settings_from_png(to_png(many)).settings == SETTINGS


def damaged(text: str) -> tuple[bytes, str]:
    return png_that_says(text), "settings are damaged; draw the run again"


def wrong(settings: Any, said: str) -> tuple[bytes, str]:
    return png_that_says(json.dumps({"format": 1, "settings": settings, "model": {}})), said


def png_that_says(text: str) -> bytes:
    return png((b"tEXt", b"deco_lab\0" + text.encode("latin-1")))


NONE = "must be a PNG that was kept here, and is none"
NEWER = "by a newer deco_lab than this one; update"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", NONE),
        (b"words", NONE),
        (b"\x89PNG\r\n\x1a\n", NONE),
        (b"\xff\xd8\xff\xe0", NONE),
        (b"GIF89a", NONE),
        (png((b"tEXt", b"Software\0paint")), "remembers no settings"),
        (png(size=(10_000, 10_000)), "remembers no settings"),
        (png(size=(50_000, 50_000)), NONE),
        damaged(""),
        damaged("{"),
        damaged("null"),
        damaged("[]"),
        damaged("{}"),
        damaged('{"format": "one"}'),
        damaged('{"format": 1, "settings": {}}'),
        damaged('{"format": 1, "settings": {}, "model": 3}'),
        damaged('{"format": 1, "settings": null, "model": {}, "x": ' + "9" * 5000 + "}"),
        damaged("[" * 60_000),
        damaged(json.dumps({"format": 1, "settings": {}, "model": {}, "x": "x" * 2**16})),
        (png_that_says('{"format": 2}'), NEWER),
        (png_that_says('{"format": 2, "settings": {"colour": "red"}, "model": {}}'), NEWER),
        wrong({"num_steps": 10**9}, "num_steps must be a whole number"),
        wrong({"class_ids": "0"}, "class_ids must be a list"),
        wrong({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        wrong({"colour": "red"}, "settings have no 'colour'"),
        wrong([1, 2], "settings must be an object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_from_png_refuses_in_a_sentence(data: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        settings_from_png(data)


def test_settings_from_png_decodes_no_pixel(record: Record, monkeypatch):
    data = to_png(record)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    saved = settings_from_png(data)
    assert (saved.settings, saved.model["weights"]) == (SETTINGS, "0123abcd")
    (text,) = (content for name, content in chunks_of(data).items() if name == b"iTXt")
    assert settings_from_png(png((b"iTXt", text), size=(9000, 9000))).settings == SETTINGS


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"deco_lab\0\0"), (b"iTXt", b"deco_lab\0\1\0\0\0")]
)
def test_settings_from_png_unpacks_no_bomb(name: bytes, head: bytes):
    bomb = png((name, head + zlib.compress(b" " * 2**26)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"must be a PNG|remembers no settings"):
        settings_from_png(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_to_npz_holds_the_curves_as_plain_arrays_and_says_their_axes(record: Record):
    with np.load(io.BytesIO(to_npz(record)), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(str(arrays["recipe"]))["curves"]
    assert about.keys() == record.curves.keys()
    assert "allow_pickle" not in arrays
    for name, curve in about.items():
        assert arrays[name].shape == tuple(len(arrays[f"axis_{axis}"]) for axis in curve["axes"])
        assert curve["unit"]
        np.testing.assert_array_equal(arrays[name], record.curves[name].values)
    assert torch.equal(torch.from_numpy(arrays["images"]), record.images)
    assert json.loads(str(arrays["recipe"]))["settings"]["seed"] == SETTINGS.seed
    assert not any(array.dtype.hasobject for array in arrays.values())


def test_to_csv_holds_every_value_of_every_curve(record: Record):
    rows = list(csv.DictReader(io.StringIO(to_csv(record))))
    assert len(rows) == sum(curve.values.size for curve in record.curves.values())
    for name, curve in record.curves.items():
        found = np.full(curve.values.shape, np.inf)
        for row in (row for row in rows if row["curve"] == name):
            index = [[str(v) for v in record.axes[axis]].index(row[axis]) for axis in curve.axes]
            found[tuple(index)] = float(row["value"] or "nan")
            assert row["unit"] == curve.unit
            assert float(row["t"]) == record.curves["t"].values[index[0]]
            assert all(row[axis] == "" for axis in record.axes if axis not in curve.axes)
        assert np.array_equal(found, curve.values, equal_nan=True), name


@pytest.mark.parametrize(
    "settings",
    [
        Settings(num_images=1, num_steps=3),
        Settings(
            class_ids=(2, 12),
            num_images=3,
            seed=7,
            num_steps=4,
            solver="heun",
            time_shift=1.5,
            guidance_scale=2.5,
            guidance_interval=(0.2, 0.9),
        ),
        Settings(num_images=2, num_steps=3, guidance="by band", band_scales=(1, 2, 3, 4.5)),
        Settings(num_images=2, num_steps=3, guidance="rescaled"),
        Settings(num_images=2, num_steps=3, guidance="projected", guidance_scale=8),
        Settings(num_images=2, num_steps=3, guidance="zero-star"),
        Settings(num_images=2, num_steps=3, dit_gains=(1, 0, 1, 2), decoder_gains=(0, 1, 1, -1)),
        Settings(num_images=2, num_steps=5, condition_reuse=2),
        Settings(num_images=1, num_steps=4, condition_reuse=3, decoder_gains=(0, 1, 1, 1)),
        Settings(model="tiny-dit", num_images=2, num_steps=13),
    ],
)
def test_to_snippet_draws_the_same_images(settings: Settings):
    found: dict[str, Any] = {}
    script = to_snippet(settings)
    assert f"seed={settings.seed}," in script
    assert f"guidance_scale={settings.guidance_scale}" in script
    assert ("PartGains" in script) == settings.has_gains
    exec(script, found)
    model: Any = deco_lab.load(settings.model)
    arguments = settings.sampling_arguments()
    if settings.has_gains:
        model = ReusedCondition(model, arguments.pop("condition_reuse"))
        model = PartGains(model, dit=settings.dit_gains, decoder=settings.decoder_gains)
    assert torch.equal(found["images"], deco_lab.sample(model, **arguments))
    assert 1 <= len(found["energies"]) <= 6
    assert found["step"].index == settings.num_steps


@pytest.mark.parametrize("model", ["a' + __import__('os').name + '.ckpt", 'a"\n\\b.safetensors'])
def test_to_snippet_quotes_the_models_name(model: str, monkeypatch):
    asked = []

    def load(name: str) -> None:
        asked.append(name)
        raise InterruptedError

    monkeypatch.setattr(deco_lab, "load", load)
    with pytest.raises(InterruptedError):
        exec(to_snippet(Settings(model=model)), {})
    assert asked == [model]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tiny", "deco-lab-tiny-class-1-2-seed-5-w-3-"),
        ("hf://zehongma/DeCo/i256.ckpt", "deco-lab-i256-class-1-2-seed-5-w-3-"),
        ("../../a b:*?<é>|.ckpt", "deco-lab-a-b-class-1-2-seed-5-w-3-"),
        ("/", "deco-lab-model-class-1-2-seed-5-w-3-"),
        ("x" * 300, f"deco-lab-{'x' * 40}-class-1-2-seed-5-w-3-"),
    ],
)
def test_file_name_is_safe_on_all_systems(model: str, expected: str, record: Record):
    settings = Settings(model=model, class_ids=(1, 2), seed=5)
    named = replace(record, settings=settings)
    name = file_name(named, "png")
    assert name.startswith(expected)
    assert re.fullmatch(r"[0-9a-f]{6}\.png", name.removeprefix(expected))
    other = replace(record, settings=replace(settings, solver="heun"))
    assert file_name(other, "png") != name


def test_to_snippet_starts_from_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save("picture.png")
    settings = Settings(num_steps=10, num_images=2, start_from="own picture", start_t=0.7)
    found: dict[str, Any] = {}
    exec(to_snippet(settings), found)
    model: Any = deco_lab.load("tiny")
    start = Start(prepare(picture, 64)[None], 0.7)
    expected = deco_lab.sample(model, **settings.sampling_arguments(), start=start)
    assert torch.equal(found["images"], expected)
    assert found["step"].index == 3
