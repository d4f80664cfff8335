"""The command line of training: what it asks for, and what comes of it from data to evaluation."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_cases import OPTIONS

from deco_lab.checkpoints import CheckpointError, load, read_training
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import PictureCrops, SourceConfig
from deco_lab.evaluation import __main__ as evaluation
from deco_lab.training.__main__ import main
from deco_lab.training.order import PROGRAM, read_order
from deco_lab.training.recipe import TrainingConfig

SMALL = [*OPTIONS, "--batch-size", "2", "--steps", "3", "--warmup-steps", "0"]
TINY, FIELDS, LARGE = PRESETS["tiny"], PRESETS["fields"], PRESETS["DeCo-L/16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six pictures, and one file that is none."""
    path = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (path / name).mkdir()
        for index in range(6):
            pixels = generator.integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.png")
    (path / "dogs" / "broken.png").write_bytes(b"no picture")
    return path


def train(folder: Path, out: Path, *options: str) -> dict[str, Any]:
    main([*SMALL, "--data", str(folder), "--out", str(out), *options])
    return torch.load(out / "state.pt", weights_only=True)


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with all the defaults."""
    out = tmp_path_factory.mktemp("plain") / "run"
    train(folder, out)
    return out


@pytest.mark.parametrize(
    ("line", "name", "model"),
    [
        ("", "tiny", TINY),
        ("--preset tiny-dit", "tiny-dit", PRESETS["tiny-dit"]),
        ("--preset DeCo-L/16 --decoder-width 64", "DeCo-L-16", replace(LARGE, decoder_width=64)),
        ("--preset fields --no-decoder-sees-pixels --decoder-patch 4 --decoder-conditioning add",
         "fields", replace(FIELDS, decoder_sees_pixels=False, decoder_patch=4,
                           decoder_conditioning="add")),
        ("--preset fields-dit --predicts image --num-heads 2 --patch-size 4", "fields-dit",
         replace(PRESETS["fields-dit"], predicts="image", num_heads=2, patch_size=4)),
    ],
)  # fmt: skip
def test_read_order_starts_from_the_preset(line, name, model):
    order = read_order(line.split())
    assert (order.name, order.model) == (name, model)
    assert order.out == Path("runs") / name
    assert order.source == SourceConfig()
    assert order.training == TrainingConfig()


def test_read_order_takes_recipe_and_data():
    line = (
        "--preset DeCo-L/16 --batch-size 256 --optimizer adamw --adamw-lr 1e-4 --beta2 0.999 "
        "--ema-decay 0.9999 --warmup-steps 0 --cooldown 0 --repa facebook/dinov2-base "
        "--crop-scale 1 1.5 --no-flip --held_out 0.2 --dataset owner/name"
    )
    order = read_order(line.split())
    assert order.training == TrainingConfig(
        batch_size=256, optimizer="adamw", adamw_lr=1e-4, beta2=0.999, ema_decay=0.9999,
        warmup_steps=0, cooldown=0.0, repa="facebook/dinov2-base",
    )  # fmt: skip
    assert order.source == SourceConfig(
        crop_scale=(1.0, 1.5), flip=False, held_out=0.2, dataset="owner/name"
    )
    assert read_order(shlex.split(order.command.removeprefix(PROGRAM))) == order


def test_read_order_says_what_trains_the_model_again():
    line = "--preset fields --no-compile --depth 2 --crop-scale 1.0 1.5 --no-flip --gamma 0.3"
    given = f"{line} --out here --device cpu --save-every 9 --evaluate-every 9"
    assert read_order(given.split()).command == f"{PROGRAM} {line}"
    assert read_order([]).command == f"{PROGRAM} --preset tiny"


def test_main_shows_what_every_option_means(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--preset", "fields", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "--label-dropout FLOAT Share of labels replaced by the null class",
        "--decoder-patch INT Side q of the units that the decoder works on",
        "Shorter side of a resized picture",
        "Steps between two checkpoints, and one at the end; 0 leaves the others out.",
        "carries for each pixel, or unit of pixels. (default: 36)",
    ):
        assert text in shown
    assert "num-classes" not in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--preset tiniest", "preset must be one of tiny, tiny-dit, .*, got 'tiniest'"),
        ("--clip 0", r"clip must lie in \[1e-06, 1e\+06\], got 0.0"),
        ("--patch-size 7", "image_size must be divisible by patch_size=7, got 64; use 70"),
        ("--preset tiny-dit --decoder-width 16", "decoder_width must be left out for a single DiT"),
        ("--batch-size many", "--batch-size: invalid literal"),
        ("--data /no/such/folder", "/no/such/folder cannot be listed"),
        ("--data a --dataset b", "data and dataset exclude each other, got a and b"),
        ("--crop center", "crop must be random, or center with data or dataset, got 'center'"),
        ("--crop left --data .", "crop must be random, or center with data or dataset, got 'left'"),
    ],
)
def test_main_says_in_a_sentence_what_is_wrong(capsys, tmp_path: Path, line, message):
    with pytest.raises(SystemExit, match="2"):
        main([*line.split(), "--device", "cpu", "--out", str(tmp_path)])
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_main_trains_on_a_folder_and_records_it(folder, plain, tmp_path: Path, capsys):
    out = tmp_path / "run"
    options = ["--crop-scale", "1", "1.5", "--no-flip"]
    state = train(folder, out, *options, "--evaluate-every", "2")
    shown = capsys.readouterr().err
    line = "left out, since it cannot be read: dogs/broken.png (it is no picture of a known format)"
    assert f"{line}\n1 pictures cannot be read\n" in shown
    assert "passed over" not in shown
    model, record = out / "model.safetensors", read_training(out / "model.safetensors")
    assert load(model, "cpu").config == DeCoConfig(
        image_size=16, patch_size=8, num_classes=2, class_names=("cats", "dogs"), hidden_size=32,
        num_heads=2, depth=2, decoder_depth=1, decoder_width=8,
    )  # fmt: skip
    data: Any = record["data"]
    assert data == state["data"]
    assert (record["step"], data["name"], data["classes"]) == (3, folder.name, ["cats", "dogs"])
    assert (data["crop"], data["crop_scale"], data["flip"]) == ("random", [1.0, 1.5], False)
    assert data["pictures"] == sum(data["pictures_by_class"]) == 12 - data["held_out"]
    with (out / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert float(rows[0]["real_class_accuracy"]) > float(rows[0]["class_accuracy"]) >= 0
    # The recorded command trains the same bits again.
    words = shlex.split(str(record["command"]).removeprefix(PROGRAM))
    assert words[words.index("--precision") + 1] == "float32"
    main([*words, "--device", "cpu", "--out", str(tmp_path / "again")])
    again = torch.load(tmp_path / "again" / "state.pt", weights_only=True)
    for name, value in state["average"].items():
        assert torch.equal(value, again["average"][name]), name
    with pytest.raises(SystemExit, match="2"):  # it asks for what it was trained on
        evaluation.main([str(model)])


def test_main_says_what_it_passes_over_whatever_the_names(folder, tmp_path: Path, capsys):
    """Names that are no UTF-8 come through a checkpoint, its evaluation and what is printed."""
    pictures = tmp_path / "caf\udce9"
    shutil.copytree(folder, pictures)
    (pictures / "cats").rename(pictures / "ch\udce2ts\udcff")
    (pictures / "dogs" / "broken.png").rename(pictures / "dogs" / "\udcff.png")
    for name in ("dogs/1.HEIC", "dogs/2.HEIC", "dogs/x.jpg_large", "dogs/y", "read me"):
        (pictures / name).write_bytes(b"words")
    said = (
        "left out, since it cannot be read: dogs/\\xff.png (it is no picture of a known format)\n"
        "1 pictures cannot be read\n"
        "passed over: 2 .heic, 1 outside of the class folders, 1 .jpg_large, 1 without suffix; "
        "HEIC pictures are read where pillow-heif is installed: pip install pillow-heif\n"
    )
    train(pictures, tmp_path / "run")
    assert said in capsys.readouterr().err
    model, names = tmp_path / "run" / "model.safetensors", ("ch\\xe2ts\\xff", "dogs")
    assert load(model, "cpu").config.class_names == names
    record: Any = read_training(model)
    assert (record["data"]["name"], record["data"]["classes"]) == ("caf\\xe9", list(names))
    assert r"caf\xe9" in record["command"]
    quick = ["--per-class", "2", "--num-steps", "2", "--device", "cpu"]
    out = tmp_path / "evaluation"
    evaluation.main([str(model), "--data", str(pictures), *quick, "--out", str(out)])
    shown = capsys.readouterr()
    assert said in shown.err
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["data"] == record["data"]


def test_main_refuses_what_the_run_is_not_and_leaves_it(folder, plain, capsys, monkeypatch):
    before = {path.name: path.read_bytes() for path in plain.iterdir() if path.is_file()}
    differ = "data, which differs in held_out, held_out_share, pictures, pictures_by_class; give"
    for options, message in (
        (["--held-out", "0.5"], differ),
        (["--crop", "center"], "data, which differs in crop; give"),
        (["--steps", "2"], "steps must be at least 3, which"),
    ):
        with pytest.raises(SystemExit, match="2"):
            train(folder, plain, *options)
        assert message in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in plain.iterdir() if p.is_file()} == before
    monkeypatch.setattr(PictureCrops, "skipped", 3)
    train(folder, plain)  # it is at its end
    assert "3 pictures were met that cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [CheckpointError, FloatingPointError, OSError])
def test_main_says_in_a_sentence_that_a_run_broke(folder, tmp_path: Path, monkeypatch, kind):
    def fail(*arguments: Any, **options: Any):
        raise kind("the loss is nan at step 20")

    monkeypatch.setattr("deco_lab.training.__main__.run", fail)
    with pytest.raises(SystemExit, match="training: error: the loss is nan at step 20"):
        train(folder, tmp_path)


def test_main_refuses_an_out_that_it_cannot_use_before_it_reads_pictures(
    tmp_path: Path, capsys, monkeypatch
):
    def fail(*_: Any) -> None:
        raise AssertionError("pictures were read")

    monkeypatch.setattr("deco_lab.training.__main__.open_source", fail)
    (tmp_path / "loss.csv").write_text("mine", encoding="utf-8")
    for out, message in (
        (tmp_path, f"got {tmp_path}, which holds loss.csv and no state.pt; give another --out, or"),
        (tmp_path / "loss.csv", "that can be written to, got"),
        (Path("/proc/run"), "that can be written to, got /proc/run (No such file or directory); g"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*SMALL, "--out", str(out)])
        assert message in capsys.readouterr().err
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["mine"]
