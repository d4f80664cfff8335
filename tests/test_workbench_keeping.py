"""What is kept of a run comes back: from a picture, spectra, curves and a script."""

import csv
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.models import build
from deco_lab.sampling import ReusedCondition
from deco_lab.spectra import PartGains
from deco_lab.workbench.keeping import (
    file_name,
    load_record,
    settings_from_png,
    to_csv,
    to_npz,
    to_png,
    to_snippet,
)
from deco_lab.workbench.record import Curve, Record
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.watching import Watch

CONFIG = DeCoConfig(
    image_size=16,
    patch_size=2,
    num_classes=3,
    hidden_size=16,
    num_heads=2,
    depth=1,
    decoder_depth=1,
    decoder_width=8,
)
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
    model = build(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    watch = Watch(model.eval(), SETTINGS)
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


def png_that_says(text: str) -> bytes:
    return png((b"tEXt", b"deco_lab\0" + text.encode("latin-1")))


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


def test_settings_from_png_gives_back_the_settings(record: Record):
    saved = settings_from_png(to_png(record))
    assert saved.settings == SETTINGS
    assert saved.model["weights"] == "0123abcd"


def test_settings_from_png_reads_back_a_model_of_many_classes(record: Record):
    names = tuple(f"a class with a long name, number {i}" for i in range(10_000))
    many = replace(record, model=FACTS | {"class_names": names})
    assert settings_from_png(to_png(many)).settings == SETTINGS


def test_settings_from_png_decodes_no_pixel(record: Record, monkeypatch):
    data = to_png(record)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert settings_from_png(data).settings == SETTINGS
    (text,) = (content for name, content in chunks_of(data).items() if name == b"iTXt")
    assert settings_from_png(png((b"iTXt", text), size=(9000, 9000))).settings == SETTINGS


@pytest.mark.parametrize(
    "data", [b"", b"words", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"]
)
def test_settings_from_png_refuses_what_is_none(data: bytes):
    with pytest.raises(ValueError, match="must be a PNG that was kept here, and is none"):
        settings_from_png(data)


def test_settings_from_png_refuses_one_without_settings():
    with pytest.raises(ValueError, match="remembers no settings"):
        settings_from_png(png((b"tEXt", b"Software\0paint")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"format": "one"}',
        '{"format": 1, "settings": {}}',
        '{"format": 1, "settings": {}, "model": 3}',
        '{"format": 1, "settings": null, "model": {}, "x": ' + "9" * 5000 + "}",
        "[" * 60_000,
        json.dumps({"format": 1, "settings": {}, "model": {}, "x": "x" * 2**16}),
    ],
)
def test_settings_from_png_refuses_damaged_settings(text: str):
    with pytest.raises(ValueError, match="settings are damaged; draw the run anew"):
        settings_from_png(png_that_says(text))


@pytest.mark.parametrize("extra", [{}, {"settings": {"colour": "red"}, "model": {}}])
def test_settings_from_png_refuses_those_of_a_newer_version(extra: dict[str, Any]):
    with pytest.raises(ValueError, match="by a newer deco_lab than this one; update"):
        settings_from_png(png_that_says(json.dumps({"format": 2, **extra})))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_steps": 10**9}, "num_steps must be a whole number"),
        ({"class_ids": "0"}, "class_ids must be a list"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"colour": "red"}, "settings have no 'colour'"),
        ([1, 2], "settings must be an object"),
    ],
)
def test_settings_from_png_checks_the_settings(settings: Any, said: str):
    text = json.dumps({"format": 1, "settings": settings, "model": {}})
    with pytest.raises(ValueError, match=said):
        settings_from_png(png_that_says(text))


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000)])
def test_settings_from_png_refuses_pictures_beyond_pillows_limit(size: tuple[int, int]):
    with pytest.raises(ValueError, match=r"must be (a PNG|one) that was kept here"):
        settings_from_png(png(size=size))


def same(one: Record, other: Record) -> bool:
    return (
        one.settings == other.settings
        and one.num_steps == other.num_steps
        and torch.equal(one.images, other.images)
        and one.axes.keys() == other.axes.keys()
        and all(np.array_equal(one.axes[name], other.axes[name]) for name in one.axes)
        and one.curves.keys() == other.curves.keys()
        and all(
            curve.axes == other.curves[name].axes
            and curve.unit == other.curves[name].unit
            and np.array_equal(curve.values, other.curves[name].values, equal_nan=True)
            for name, curve in one.curves.items()
        )
    )


def test_load_record_gives_back_the_run(record: Record, tmp_path: Path):
    data = to_npz(record)
    path = tmp_path / "run.npz"
    path.write_bytes(data)
    for back in (load_record(data), load_record(path), load_record(str(path))):
        assert same(back, record)
        assert back.model == FACTS | {"class_names": ["a", "b", "c"]}
    assert len(record.curves) > 10


def test_load_record_opens_a_run_with_shares_of_the_velocity_and_says_so(record: Record):
    """As runs were kept until the shares became the predicted image's."""
    unit = "share of the class's velocity that the part supplies"
    shares = Curve(("step", "part", "band"), np.full((5, 3, 4), 5.18), unit)
    curves = {name: c for name, c in record.curves.items() if name != "predicted_shares"}
    axes = {name: a for name, a in record.axes.items() if name != "share_band"}
    axes["part"] = np.array(["dit", "decoder", "baseline"])
    old = replace(record, axes=axes, curves=curves | {"shares": shares})
    back = load_record(to_npz(old))
    assert back.curves["shares"].unit == unit
    assert (back.curves["shares"].values == 5.18).all()
    assert "predicted_shares" not in back.curves
    assert f"below 1/16,dit,5.18,{unit}" in to_csv(back)


def test_to_npz_holds_plain_arrays_and_says_their_axes(record: Record):
    with np.load(io.BytesIO(to_npz(record)), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(str(arrays["recipe"]))["curves"]
    assert about.keys() == record.curves.keys()
    assert "allow_pickle" not in arrays
    for name, curve in about.items():
        assert arrays[name].shape == tuple(len(arrays[f"axis_{axis}"]) for axis in curve["axes"])
        assert curve["unit"]
    assert not any(array.dtype.hasobject for array in arrays.values())


def test_load_record_refuses_what_is_none(record: Record, tmp_path: Path):
    data = to_npz(record)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "missing.npz")
    array, pickled, empty = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    np.savez(pickled, recipe=np.array([{}], dtype=object))
    zipfile.ZipFile(empty, "w").close()
    broken = [b"", b"words", data[: len(data) // 2], data[:-30], b"PK\3\4" + data[9:]]
    for found in (*broken, array.getvalue(), pickled.getvalue(), empty.getvalue()):
        with pytest.raises(ValueError, match="must be one of to_npz, and holds no run"):
            load_record(found)


def test_load_record_raises_only_sentences_for_damaged_files(record: Record):
    data, draw = to_npz(record), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), 20):
            damaged[place] = draw.integers(256)
        try:
            load_record(bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 100


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


def test_to_csv_leaves_empty_what_was_not_measured():
    curves = {
        "t": Curve(("step",), np.array([0.0, 0.5]), "time"),
        "share": Curve(("step", "band"), np.array([[np.nan, np.nan], [0.25, 1e-9]]), 'a, "b"'),
    }
    axes = {"step": np.array([0, 3]), "band": np.array(["low", "high"])}
    record = Record(
        settings=Settings(),
        model={},
        images=torch.zeros(1, 3, 8, 8),
        num_steps=3,
        axes=axes,
        curves=curves,
    )
    assert to_csv(record).splitlines() == [
        "curve,step,t,band,value,unit",
        "t,0,0.0,,0.0,time",
        "t,3,0.5,,0.5,time",
        'share,0,0.0,low,,"a, ""b"""',
        'share,0,0.0,high,,"a, ""b"""',
        'share,3,0.5,low,0.25,"a, ""b"""',
        'share,3,0.5,high,1e-09,"a, ""b"""',
    ]


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
    exec(to_snippet(settings), found)
    model: Any = deco_lab.load(settings.model)
    arguments = settings.sampling_arguments()
    if settings.has_gains:
        model = ReusedCondition(model, arguments.pop("condition_reuse"))
        model = PartGains(model, dit=settings.dit_gains, decoder=settings.decoder_gains)
    assert torch.equal(found["images"], deco_lab.sample(model, **arguments))
    assert 1 <= len(found["energies"]) <= 6
    assert found["step"].index == settings.num_steps


def test_to_snippet_says_only_what_differs():
    script = to_snippet(Settings(num_steps=12))
    assert "sample_steps(model, class_ids=[0, 0, 0, 0], num_steps=12)" in script
    assert "PartGains" not in script


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
        ("tiny", "deco-lab-tiny-class-1-2-seed-5.png"),
        ("hf://zehongma/DeCo/i256.ckpt", "deco-lab-i256-class-1-2-seed-5.png"),
        ("../../a b:*?<é>|.ckpt", "deco-lab-a-b-class-1-2-seed-5.png"),
        ("/", "deco-lab-model-class-1-2-seed-5.png"),
        ("x" * 300, f"deco-lab-{'x' * 40}-class-1-2-seed-5.png"),
    ],
)
def test_file_name_is_safe_on_all_systems(model: str, expected: str, record: Record):
    settings = Settings(model=model, class_ids=(1, 2), seed=5)
    named = replace(record, settings=settings)
    assert file_name(named, "png") == expected
