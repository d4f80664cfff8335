import csv
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab import checkpoints
from deco_lab.config import PRESETS, DeCoConfig, DiTConfig, ModelConfig
from deco_lab.data import CropSampler
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.training.__main__ import main
from deco_lab.training.run import LossLog, run
from deco_lab.training.trainer import _RANGES, Trainer, TrainingConfig, learning_rate_factor

SHAPE: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 2,
    "hidden_size": 32,
    "num_heads": 2,
}
TINY = DeCoConfig(**SHAPE, depth=2, decoder_depth=1, decoder_width=8)
TINY_DIT = DiTConfig(**SHAPE, depth=2)
RECIPE = TrainingConfig(
    steps=12, batch_size=4, warmup_steps=2, precision="float32", label_dropout=0.5
)


@pytest.fixture(scope="module")
def crops() -> CropSampler:
    rows, columns = np.mgrid[:50, :60]
    pictures = [
        np.stack([3 * rows, 4 * columns, 100 * np.ones_like(rows)], axis=-1).astype(np.uint8),
        np.full((50, 60, 3), 230, np.uint8),
    ]
    return CropSampler(pictures, 16, num_scales=4)


def trained(crops: CropSampler, config: ModelConfig, steps: int, recipe=RECIPE) -> Trainer:
    trainer = Trainer(config, recipe, crops)
    for _ in range(steps):
        trainer.train_step()
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.state_dict(), **{f"ema.{k}": v for k, v in trainer.average.items()}}


def assert_same_bits(first: Trainer, second: Trainer) -> None:
    expected, got = weights(first), weights(second)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


@pytest.mark.parametrize("config", [TINY, TINY_DIT], ids=["deco", "dit"])
def test_resumed_run_ends_with_the_same_bits(crops, tmp_path: Path, config):
    straight = trained(crops, config, 8)
    trained(crops, config, 5).save(tmp_path / "state.pt")
    resumed = Trainer(config, RECIPE, crops)
    resumed.restore(tmp_path / "state.pt")
    assert resumed.step == 5
    for _ in range(3):
        resumed.train_step()
    assert_same_bits(straight, resumed)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_train_step_learns(crops):
    trainer = Trainer(TINY, TrainingConfig(steps=300, batch_size=16, precision="float32"), crops)
    losses = [float(trainer.train_step()[0]) for _ in range(120)]
    assert losses[0] > 1.2
    assert losses[-1] < 0.8 * losses[0]


def test_train_step_minimises_the_two_losses(crops):
    trainer = Trainer(TINY, RECIPE, crops)
    images, noise, t, class_ids = trainer.draw(0)
    x = t[:, None, None, None] * images + (1 - t[:, None, None, None]) * noise
    velocity = trainer.model(x, t, class_ids)
    expected = (
        flow_matching_loss(velocity, images - noise).item(),
        frequency_loss(velocity, images - noise).item(),
    )
    got = tuple(float(loss) for loss in trainer.train_step())
    assert got == pytest.approx(expected, rel=1e-6)


def test_draw_depends_on_seed_and_step_alone(crops):
    first, second = (Trainer(config, RECIPE, crops) for config in (TINY, TINY_DIT))
    second.train_step()
    for one, other in zip(first.draw(7), second.draw(7), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.draw(7)[1], first.draw(8)[1])


def test_draw_changes_with_the_seed(crops):
    first, second = (
        Trainer(TINY, TrainingConfig(**{**vars(RECIPE), "seed": seed}), crops) for seed in (0, 1)
    )
    for one, other in zip(first.draw(3), second.draw(3), strict=True):
        assert not torch.equal(one, other)


def test_draw_drops_labels_at_the_given_share(crops):
    recipe = TrainingConfig(batch_size=4000, label_dropout=0.1)
    class_ids = Trainer(TINY, recipe, crops).draw(0)[3]
    share = float((class_ids == TINY.null_class).float().mean())
    assert share == pytest.approx(0.1, abs=0.02)


def test_average_follows_its_recursion(crops):
    trainer = Trainer(TINY, RECIPE, crops)
    name = "decoder.head.weight"
    average = trainer.average[name].double()
    for step in range(5):
        trainer.train_step()
        decay = min(RECIPE.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.model.state_dict()[name].double()
    torch.testing.assert_close(trainer.average[name].double(), average, rtol=1e-5, atol=1e-9)
    assert not torch.equal(trainer.average[name], trainer.model.state_dict()[name])


def test_learning_rate_warms_up_and_cools_down():
    config = TrainingConfig(steps=1000, warmup_steps=100, cooldown=0.4)
    factors = [learning_rate_factor(step, config) for step in (0, 49, 99, 599, 600, 800, 999)]
    assert factors == pytest.approx([0.01, 0.5, 1, 1, 1, 0.5, 1 / 400])


def test_muon_updates_the_matrices_of_the_blocks_alone(crops):
    trainer = Trainer(TINY, RECIPE, crops)
    muon, adamw = trainer.optimizers
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert by_muon | by_adamw == set(names.values())
    assert not by_muon & by_adamw
    assert by_muon == {
        name
        for name, p in trainer.model.named_parameters()
        if name.startswith("trunk.blocks.") and p.ndim == 2
    }


def test_restore_refuses_another_recipe_or_model(crops, tmp_path: Path):
    path = tmp_path / "state.pt"
    trained(crops, TINY, 1).save(path)
    other = TrainingConfig(**{**vars(RECIPE), "seed": 5, "gamma": 0.5})
    with pytest.raises(ValueError, match="another seed, gamma; repeat those or give a new --out"):
        Trainer(TINY, other, crops).restore(path)
    with pytest.raises(ValueError, match="holds another model; give a new --out"):
        Trainer(TINY_DIT, RECIPE, crops).restore(path)
    longer = Trainer(TINY, TrainingConfig(**{**vars(RECIPE), "steps": 99}), crops)
    longer.restore(path)
    assert longer.step == 1


def test_run_leaves_a_model_losses_and_a_preview(crops, tmp_path: Path, capsys):
    trainer = Trainer(TINY, TrainingConfig(**{**vars(RECIPE), "steps": 40}), crops)
    run(trainer, tmp_path / "run", name="test", compiled=False, save_every=20)
    shown = capsys.readouterr().err
    assert "test: DeCo of 0.0" in shown
    assert "40 steps of 4 crops in float32 on" in shown
    assert 'model.safetensors")' in shown
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"state.pt", "model.safetensors", "loss.csv", "loss.png", "preview.png"}
    with (tmp_path / "run" / "loss.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["step", "20", "40"]
    model = checkpoints.load(tmp_path / "run" / "model.safetensors", device="cpu")
    assert model.config == TINY
    for name, value in trainer.average.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_run_keeps_the_last_good_state_when_weights_break(
    crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(trained(crops, TINY, RECIPE.steps), tmp_path, name="test", compiled=False)
    good = (tmp_path / "state.pt").read_bytes()
    broken = Trainer(TINY, RECIPE, crops)
    broken.restore(tmp_path / "state.pt")
    broken.average["decoder.head.bias"].fill_(math.nan)
    monkeypatch.setattr(broken, "restore", lambda path: None)
    with pytest.raises(checkpoints.CheckpointError, match=r"decoder\.head\.bias holds NaN"):
        run(broken, tmp_path, name="test", compiled=False)
    assert (tmp_path / "state.pt").read_bytes() == good


def test_loss_log_drops_the_future_of_a_resumed_run(tmp_path: Path):
    log = LossLog(tmp_path / "loss.csv", 0, every=2)
    for step in range(1, 9):
        log.add(step, (torch.tensor(float(step)), torch.tensor(0.5)), 1.0 * step)
    log.write()
    resumed = LossLog(tmp_path / "loss.csv", 4, every=2)
    assert [row[:2] for row in resumed.rows] == [(2, 1.5), (4, 3.5)]


@pytest.mark.slow
def test_interrupt_saves_a_finished_step(tmp_path: Path):
    command = [sys.executable, "-m", "deco_lab.training", "--no-compile", "--batch-size", "2"]
    with subprocess.Popen(
        [*command, "--steps", "100000", "--out", str(tmp_path), "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        shown = ""
        while " img/s" not in shown or "0.00/" in shown:
            shown = shown[-200:] + process.stderr.read(1)
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    assert "the same command goes on" in rest
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert f"stopped at step {state['step']};" in rest
    assert 0 < state["step"] < 100000


def test_main_shows_what_every_option_means(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--label-dropout LABEL_DROPOUT Share of labels replaced by the null class" in shown
    assert "(default: 0.02)" in shown


def test_training_config_rejects_nonsense():
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1e\+09\], got 0"):
        TrainingConfig(steps=0)
    with pytest.raises(ValueError, match=r"clip must lie in \[1e-06, 1e\+06\], got nan"):
        TrainingConfig(clip=float("nan"))
    with pytest.raises(ValueError, match="precision must be auto, bf16 or float32, got 'fp8'"):
        TrainingConfig(precision="fp8")


def test_every_number_of_the_recipe_has_a_range():
    numbers = {f.name for f in fields(TrainingConfig)} - {"precision"}
    assert set(_RANGES) == numbers


def test_main_offers_the_presets_that_fit_the_photographs(capsys, tmp_path: Path):
    with pytest.raises(SystemExit, match="2"):
        main(["--preset", "DeCo-L/16", "--out", str(tmp_path)])
    assert "(choose from " in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--clip", "0", "--out", str(tmp_path)])
    assert "clip must lie in [1e-06, 1e+06], got 0.0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_trainer_refuses_crops_of_another_size(crops):
    with pytest.raises(
        ValueError, match="image_size must be that of the crops, 16, got 256; choose"
    ):
        Trainer(PRESETS["DeCo-L/16"], RECIPE, crops)
    with pytest.raises(ValueError, match="num_classes must be that of the crops, 2, got 3; choose"):
        Trainer(replace(TINY, num_classes=3), RECIPE, crops)


def test_warmup_may_be_nothing():
    config = TrainingConfig(steps=10, warmup_steps=0, cooldown=0.0)
    assert [learning_rate_factor(step, config) for step in (0, 9)] == [1, 1]
