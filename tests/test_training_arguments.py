import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deco_lab.checkpoints import CheckpointError, load, read_training
from deco_lab.config import PHOTOGRAPHS, PRESETS, DeCoConfig, DiTConfig, ModelConfig
from deco_lab.data import PictureCrops, SourceConfig, open_source
from deco_lab.evaluation import __main__ as evaluation
from deco_lab.training.__main__ import main
from deco_lab.training.arguments import PROGRAM, make_parser, read_order
from deco_lab.training.recipe import TrainingConfig

SMALL = [
    "--image-size", "16", "--patch-size", "8", "--hidden-size", "32", "--num-heads", "2",
    "--depth", "2", "--batch-size", "2", "--steps", "3", "--warmup-steps", "0", "--no-compile",
    "--device", "cpu",
]  # fmt: skip


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
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(folder, tmp_path_factory.mktemp("plain"))


MODEL_FLAGS: list[tuple[str, dict[str, object]]] = [
    ("--decoder-width 16", {"decoder_width": 16}),
    ("--decoder-depth 1", {"decoder_depth": 1}),
    ("--decoder-patch 4", {"decoder_patch": 4}),
    ("--decoder-conditioning add", {"decoder_conditioning": "add"}),
    ("--depth 1", {"depth": 1}),
    ("--hidden-size 48", {"hidden_size": 48}),
    ("--num-heads 4", {"num_heads": 4}),
    ("--patch-size 4", {"patch_size": 4}),
    ("--image-size 24", {"image_size": 24}),
    ("--baseline", {}),
    ("--preset tiny-dit", {}),
]


@pytest.mark.parametrize(("flags", "changes"), MODEL_FLAGS, ids=[f for f, _ in MODEL_FLAGS])
def test_main_trains_the_model_that_flags_ask_for(folder, tmp_path: Path, flags, changes):
    train(folder, tmp_path, *flags.split())
    shape: dict[str, Any] = {
        "image_size": 16, "patch_size": 8, "num_classes": 2, "class_names": ("cats", "dogs"),
        "hidden_size": 32, "num_heads": 2, "depth": 2,
    }  # fmt: skip
    baseline = flags in ("--baseline", "--preset tiny-dit")
    decoder = {} if baseline else {"decoder_depth": 2}
    expected = (DiTConfig if baseline else DeCoConfig)(**{**shape, **decoder, **changes})
    model = load(tmp_path / "model.safetensors", device="cpu")
    assert model.config == expected
    assert read_training(tmp_path / "model.safetensors")["step"] == 3


RECIPE_FLAGS = [
    "--frequency-weight 0.5", "--frequency-weight 0", "--quality 50", "--gamma 2",
    "--optimizer adamw", "--optimizer adamw --beta2 0.999", "--muon-lr 0.01", "--adamw-lr 1e-4",
    "--ema-decay 0.1", "--label-dropout 0.9", "--time-shift 4", "--clip 0.1", "--cooldown 1",
    "--warmup-steps 3", "--seed 1", "--precision bf16",
]  # fmt: skip


@pytest.mark.parametrize("flags", RECIPE_FLAGS)
def test_main_trains_by_the_recipe_that_flags_ask_for(folder, plain, tmp_path: Path, flags):
    state = train(folder, tmp_path, *flags.split())
    words = flags.split()
    record = read_training(tmp_path / "model.safetensors")
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        assert record[name] == type(getattr(TrainingConfig(), name))(value)
    differ = [k for k, v in plain["average"].items() if not torch.equal(v, state["average"][k])]
    assert differ


def test_beta2_changes_what_adamw_does(folder, tmp_path: Path):
    first, second = (
        train(folder, tmp_path / beta, "--optimizer", "adamw", "--beta2", beta)
        for beta in ("0.95", "0.999")
    )
    name = "decoder.head.weight"
    assert not torch.equal(first["average"][name], second["average"][name])


def test_main_aligns_with_an_encoder(folder, plain, tmp_path: Path):
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers; pip install transformers"
    )
    config = transformers.Dinov2Config(
        image_size=28, hidden_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "encoder")
    options = ["--repa", str(tmp_path / "encoder"), "--repa-block", "1"]
    states = [
        train(folder, tmp_path / f"run{weight}", *options, "--repa-weight", weight)
        for weight in ("0.5", "2")
    ]
    name = "trunk.blocks.0.attention.qkv.weight"
    for state in states:
        assert not torch.equal(state["average"][name], plain["average"][name])
    assert not torch.equal(states[0]["average"][name], states[1]["average"][name])
    record = read_training(tmp_path / "run2" / "model.safetensors")
    assert (record["repa_block"], record["repa_weight"]) == (1, 2.0)


@pytest.mark.parametrize(
    "flags", ["--crop center", "--crop-scale 1.5 2", "--no-flip", "--held-out 0.5"]
)
def test_main_cuts_crops_as_flags_ask(folder, plain, tmp_path: Path, flags):
    state = train(folder, tmp_path, *flags.split())
    data = read_training(tmp_path / "model.safetensors")["data"]
    assert data != plain["data"]
    assert data == state["data"]
    assert not torch.equal(
        state["average"]["decoder.head.weight"], plain["average"]["decoder.head.weight"]
    )


def test_record_says_what_the_data_were(folder, tmp_path: Path, capsys):
    train(folder, tmp_path)
    data = read_training(tmp_path / "model.safetensors")["data"]
    assert isinstance(data, dict)
    assert data["name"] == folder.name
    assert data["classes"] == ["cats", "dogs"]
    assert data["pictures"] == sum(data["pictures_by_class"])
    assert data["pictures"] + data["held_out"] == 12
    assert (data["crop"], data["crop_scale"], data["flip"]) == ("random", [1.0, 1.0], True)
    shown = capsys.readouterr().err
    line = "left out, since it cannot be read: dogs/broken.png (it is no picture of a known format)"
    assert f"{line}\n1 pictures cannot be read\n" in shown
    assert "passed over" not in shown


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
        "passed over: 2 .heic, 1 .jpg_large, 1 outside of the class folders, 1 without suffix; "
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
    assert names[0] in shown.out
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["data"] == record["data"]


def test_main_counts_the_pictures_passed_over(folder, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(PictureCrops, "skipped", 3)
    train(folder, tmp_path)
    assert "3 pictures were met that cannot be read" in capsys.readouterr().err


def test_recorded_command_trains_the_same_bits_again(folder, tmp_path: Path):
    first = train(folder, tmp_path / "a", "--gamma", "0.3", "--no-flip", "--crop-scale", "1", "1.5")
    command = str(read_training(tmp_path / "a" / "model.safetensors")["command"])
    assert command.startswith(f"{PROGRAM} --no-compile --preset tiny --image-size 16 ")
    words = shlex.split(command.removeprefix(PROGRAM))
    assert words[words.index("--precision") + 1] == "float32"
    main([*words, "--device", "cpu", "--out", str(tmp_path / "b")])
    second = torch.load(tmp_path / "b" / "state.pt", weights_only=True)
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name]), name


def test_main_refuses_to_resume_on_other_data(folder, tmp_path: Path, capsys):
    train(folder, tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        train(folder, tmp_path, "--held-out", "0.5")
    assert "data, which differ in held_out, held_out_share, pictures, pictures_by_class; give" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_folder_is_trained_on_and_measured(folder, tmp_path: Path, capsys):
    train(folder, tmp_path / "run", "--evaluate-every", "2", "--crop-scale", "1", "1.5")
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert float(rows[0]["real_class_accuracy"]) > float(rows[0]["class_accuracy"]) >= 0
    model = str(tmp_path / "run" / "model.safetensors")
    with pytest.raises(SystemExit, match=f"what it was trained on, {folder.name}"):
        evaluation.main([model])
    options = ["--per-class", "2", "--num-steps", "2", "--out", str(tmp_path / "found")]
    evaluation.main([model, "--data", str(folder), *options])
    assert "cats" in capsys.readouterr().out
    settings = json.loads((tmp_path / "found.json").read_text())["settings"]
    assert settings["data"] == read_training(model)["data"]


def order(*arguments: str):
    return read_order(make_parser(), list(arguments))


def test_options_start_from_the_preset():
    assert order("--preset", "tiny-dit").model == PRESETS["tiny-dit"]
    wide = order("--preset", "DeCo-L/16", "--decoder-width", "64")
    assert wide.model == DeCoConfig(hidden_size=1024, num_heads=16, depth=22, decoder_width=64)
    assert wide.out == Path("runs/DeCo-L-16")


@pytest.mark.parametrize(
    ("arguments", "name", "config"),
    [
        (
            ["--baseline"],
            "tiny-baseline",
            DiTConfig(image_size=64, patch_size=8, num_classes=14, class_names=PHOTOGRAPHS,
                      hidden_size=192, num_heads=4, depth=6),
        ),
        (
            ["--preset", "DiT-L/16", "--deco", "--depth", "22"],
            "DiT-L-16-deco",
            PRESETS["DeCo-L/16"],
        ),
        (["--deco"], "tiny", PRESETS["tiny"]),
        (["--preset", "tiny-dit", "--baseline"], "tiny-dit", PRESETS["tiny-dit"]),
    ],
)  # fmt: skip
def test_switches_choose_the_kind(arguments, name: str, config: ModelConfig):
    got = order(*arguments)
    assert (got.name, got.model) == (name, config)


def test_read_order_refuses_decoder_options_for_a_baseline():
    with pytest.raises(ValueError, match="decoder_width must be left out for a baseline, which"):
        order("--preset", "tiny-dit", "--decoder-width", "16")


def test_the_paper_s_recipe_is_one_command():
    words = (
        "--preset DeCo-L/16 --batch-size 256 --optimizer adamw --adamw-lr 1e-4 --beta2 0.999 "
        "--ema-decay 0.9999 --warmup-steps 0 --cooldown 0 --repa facebook/dinov2-base"
    )
    training = order(*words.split()).training
    assert training == TrainingConfig(
        batch_size=256, optimizer="adamw", adamw_lr=1e-4, beta2=0.999, ema_decay=0.9999,
        warmup_steps=0, cooldown=0.0, repa="facebook/dinov2-base",
    )  # fmt: skip


def test_main_shows_what_every_option_means(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--label-dropout LABEL_DROPOUT Share of labels replaced by the null class" in shown
    assert "--decoder-patch DECODER_PATCH Side q of the units that the decoder works on" in shown
    assert "--crop-scale LOW HIGH Shorter side of a resized picture" in shown
    assert "prefer that" in shown
    assert "(default: 0.02)" in shown
    assert "between two checkpoints (default: 200)" in shown
    assert not [text for text in ("(default: )", "(default: None)") if text in shown]


@pytest.mark.parametrize("kind", [CheckpointError, FloatingPointError])
def test_main_says_in_a_sentence_that_a_run_broke(tmp_path: Path, monkeypatch, kind):
    def fail(*arguments: Any, **options: Any):
        raise kind("the loss is nan at step 20")

    monkeypatch.setattr("deco_lab.training.__main__.run", fail)
    with pytest.raises(SystemExit, match="training: error: the loss is nan at step 20"):
        main([*SMALL, "--out", str(tmp_path)])


def test_main_says_in_a_sentence_that_the_disk_is_full_and_goes_on(
    folder, tmp_path: Path, full_disk
):
    out = tmp_path / "run"
    with full_disk(10_000), pytest.raises(SystemExit) as stop:
        train(folder, out)
    message = str(stop.value.code)
    assert message.startswith(
        f"{PROGRAM}: error: {out}/state.pt cannot be written (File too large)"
    )
    assert train(folder, out)["step"] == 3


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
        (
            Path("/proc/run"),
            "that can be written to, got /proc/run (No such file or directory); gi",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*SMALL, "--out", str(out)])
        assert message in capsys.readouterr().err
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [
        ("loss.csv", "mine")
    ]


def test_main_refuses_fewer_steps_than_were_taken(folder, tmp_path: Path, capsys):
    train(folder, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(SystemExit, match="2"):
        train(folder, tmp_path, "--steps", "2")
    assert "steps must be at least 3, which" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tiniest"], "(choose from "),
        (["--clip", "0"], "clip must lie in [1e-06, 1e+06], got 0.0"),
        (["--patch-size", "7"], "image_size must be divisible by patch_size=7, got 64; use 70"),
        (["--baseline", "--deco"], "not allowed with argument"),
        (["--save-every", "0"], "must be 1 or more, got 0"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--data", "a", "--dataset", "b"], "data and dataset exclude each other, got a and b"),
        (["--crop", "center"], "crop must be random for the bundled photographs, got center"),
        (["--crop", "left"], "crop must be random or center, got 'left'"),
    ],
)
def test_main_says_in_a_sentence_what_is_wrong(capsys, tmp_path: Path, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--device", "cpu", "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_main_says_what_is_wrong_with_an_empty_class(folder, capsys, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "data" / "a" / "0.png")
    with pytest.raises(SystemExit, match="2"):
        main([*SMALL, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert "error: " in shown
    assert "b" in shown.split("error: ")[1]


def test_source_of_the_photographs_is_the_bundled_one():
    source = open_source(SourceConfig(), 16, torch.device("cpu"))
    assert source.crops.class_names == PHOTOGRAPHS
    assert source.record["pictures"] == 14
    assert source.record["crop_scale"] == [1.1, 2.6]
    assert source.fresh is source.crops
