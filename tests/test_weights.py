"""The bundled models are what their cards say."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import deco_lab
from deco_lab.checkpoints import read_training
from deco_lab.config import FIELDS, PHOTOGRAPHS, PRESETS
from deco_lab.data import bundled_crops
from deco_lab.evaluation import Judge, judge_model
from deco_lab.flow import interpolate
from deco_lab.models import build
from deco_lab.training import TrainingConfig
from deco_lab.training.__main__ import main

PHOTOGRAPHIC = ("tiny", "tiny-fm", "tiny-dit")
NAMES = (*PHOTOGRAPHIC, "fields", "fields-dit")
PRESET_OF = {name: name for name in NAMES} | {"tiny-fm": "tiny"}
WEIGHTS = Path(deco_lab.__file__).parent / "weights"


@pytest.mark.parametrize("name", NAMES)
def test_bundled_model_is_its_preset(name: str):
    config = deco_lab.load(name, device="cpu").config
    assert config == PRESETS[PRESET_OF[name]]
    assert config.class_names == (PHOTOGRAPHS if name in PHOTOGRAPHIC else FIELDS)
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 20_000_000


@pytest.mark.parametrize("name", NAMES)
def test_card_says_how_the_model_was_trained(name: str):
    card = (WEIGHTS / f"{name}.md").read_text()
    record = read_training(name)
    said = " ".join(card.replace("`", "").split())
    for expected in (
        f"--preset {PRESET_OF[name]}",
        f"{record['step']:,} steps of {record['batch_size']} crops",
        f"{record['seconds']:,.0f} seconds",
        str(record["machine"]),
        f"{record['flow_matching_loss']:.4f}",
        f"{record['frequency_loss']:.4f}",
        "toy",
    ):
        assert expected in said, expected


def test_bundled_models_were_trained_alike():
    records = {name: dict(read_training(name)) for name in PHOTOGRAPHIC}
    weights = [record.pop("frequency_weight") for record in records.values()]
    assert weights == [1.0, 0.0, 1.0]
    for record in records.values():
        for measured in ("command", "seconds", "flow_matching_loss", "frequency_loss"):
            record.pop(measured)
        assert record == records["tiny"]
        assert record["step"] == record["steps"]


@pytest.mark.slow
def test_few_samples_of_tiny_are_near_fresh_crops():
    """A coarse guard; `python -m deco_lab.evaluation tiny` measures."""
    crops = bundled_crops(64)
    judge = Judge(crops, crops, training_per_class=100, reference_per_class=60, resamples=2)
    own = judge_model(deco_lab.load("tiny", device="cpu"), judge, per_class=3).figures
    real = judge.real(3).figures
    assert own.class_accuracy.value >= 0.95 * real.class_accuracy.value
    assert own.spectral_error.value < 1.6
    assert own.frechet_distance.value < 3 * real.frechet_distance.value


@pytest.mark.parametrize("name", PHOTOGRAPHIC)
def test_bundled_model_predicts_fresh_crops(name: str):
    """On crops it was not trained on, the predicted image is far nearer than the noisy one."""
    crops = bundled_crops(64)
    generator = torch.Generator().manual_seed(10**9)
    images, class_ids = crops.sample(28, generator)
    noise = torch.randn(images.shape, generator=generator)
    t = torch.full((28,), 0.5)
    x = interpolate(images, noise, t)
    with torch.no_grad():
        trained = x + 0.5 * deco_lab.load(name, device="cpu")(x, t, class_ids)
        untrained = x + 0.5 * build(PRESETS[PRESET_OF[name]])(x, t, class_ids)
    error, floor = ((p - images).square().mean().item() for p in (trained, untrained))
    assert error < 0.1 * floor


@pytest.mark.parametrize("name", NAMES)
def test_card_command_is_the_recipe_of_the_record(name: str, tmp_path, monkeypatch):
    card = (WEIGHTS / f"{name}.md").read_text()
    command = re.search(r"^python -m deco_lab\.training (.*)$", card, re.MULTILINE)
    assert command is not None
    trainers = []
    monkeypatch.setattr(
        "deco_lab.training.__main__.run", lambda trainer, *_, **__: trainers.append(trainer)
    )
    main([*shlex.split(command[1]), "--out", str(tmp_path), "--device", "cpu"])
    (trainer,) = trainers
    assert trainer.model.config == PRESETS[PRESET_OF[name]]
    record = read_training(name)
    # A field that is younger than the record has its default.
    known = {key: record[key] for key in asdict(TrainingConfig()) if key in record}
    assert asdict(trainer.config) == {**asdict(TrainingConfig()), **known}
