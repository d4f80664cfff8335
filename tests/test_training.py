import threading
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.config import PRESETS, DeCoConfig, DiTConfig, ModelConfig
from deco_lab.data import CropSampler
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.models import DeCo
from deco_lab.training.parallel import OneProcess
from deco_lab.training.recipe import RANGES, TrainingConfig, learning_rate_factor
from deco_lab.training.trainer import ResumeError, Trainer

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
    got = tuple(float(loss) for loss in trainer.train_step()[:2])
    assert got == pytest.approx(expected, rel=1e-6)


class Slow:
    """Crops that note who cut them when."""

    def __init__(self, crops: CropSampler) -> None:
        self.crops = crops
        self.image_size, self.num_classes = crops.image_size, crops.num_classes
        self.class_names, self.device = crops.class_names, crops.device
        self.threads: list[str] = []

    def sample(self, count, generator, class_ids=None, *, rows=None):
        self.threads.append(threading.current_thread().name)
        return self.crops.sample(count, generator, class_ids, rows=rows)


def test_prefetched_batches_train_the_same_bits(crops):
    slow = Slow(crops)
    ahead = Trainer(TINY, RECIPE, slow, prefetch=True)
    for _ in range(RECIPE.steps):
        ahead.train_step()
    assert_same_bits(trained(crops, TINY, RECIPE.steps), ahead)
    here, *others = slow.threads
    assert here == threading.current_thread().name
    assert len(others) == RECIPE.steps - 1
    assert all(name.startswith("next batch") for name in others)


def test_prefetch_passes_on_what_cutting_raised(crops):
    slow = Slow(crops)
    trainer = Trainer(TINY, RECIPE, slow, prefetch=True)
    trainer.train_step()
    assert trainer._next is not None
    trainer._next[1].result()

    def fail(*_: object, **__: object) -> None:
        raise ValueError("class cats has no picture that can be read")

    slow.sample = fail  # type: ignore[method-assign]
    trainer.train_step()
    with pytest.raises(ValueError, match="class cats has no picture"):
        trainer.train_step()


def test_prefetched_draws_are_handed_over_from_their_stream(crops, monkeypatch):
    """The order of calls; what a GPU makes of it is in test_gpu.py."""
    trainer = Trainer(TINY, RECIPE, crops, prefetch=True)
    calls: list[str] = []

    class Stream:
        def wait_stream(self, other: object) -> None:
            calls.append("here waits")

    @contextmanager
    def entered(stream: object):
        assert stream is trainer._stream
        calls.append(f"drawn in {threading.current_thread().name[:10]}")
        yield

    trainer._stream = here = Stream()  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    kept = SimpleNamespace(record_stream=lambda stream: calls.append(f"kept for {stream is here}"))
    monkeypatch.setattr(trainer, "draw", lambda step: [kept])
    for trainer.step in (0, 1):
        trainer._drawn()
        assert trainer._next is not None
        trainer._next[1].result()
    assert calls == ["here waits", "kept for True", "drawn in next batch"] * 2


class Second(OneProcess):
    """The second of two processes, without the first."""

    index, count = 1, 2


def test_processes_draw_their_rows_of_the_whole_batch(crops):
    whole = Trainer(TINY, RECIPE, crops).draw(3)
    second = Trainer(TINY, RECIPE, crops, processes=Second(crops.device)).draw(3)
    for part, rows in zip(second, whole, strict=True):
        assert torch.equal(part, rows[2:])


def test_trainer_refuses_a_batch_that_processes_cannot_share(crops):
    with pytest.raises(ValueError, match="processes=2 times accumulate=1, got 3; it"):
        Trainer(TINY, replace(RECIPE, batch_size=3), crops, processes=Second(crops.device))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(crops, accumulate: int):
    recipe = replace(RECIPE, optimizer="adamw", batch_size=8, warmup_steps=0)
    whole, parts = (Trainer(TINY, replace(recipe, accumulate=n), crops) for n in (1, accumulate))
    for _ in range(6):
        expected, got = whole.train_step(), parts.train_step()
        assert [float(v) for v in got] == pytest.approx([float(v) for v in expected], rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_accumulated_step_keeps_the_tensors_of_one_part(crops):
    def most_kept(accumulate: int) -> int:
        """Return the most numbers that autograd holds for a backward pass."""
        trainer = Trainer(TINY, replace(RECIPE, batch_size=8, accumulate=accumulate), crops)
        kept, most = [0], [0]
        backward = trainer.processes.backward

        def noted(loss: torch.Tensor) -> None:
            most[0] = max(most[0], kept[0])
            kept[0] = 0
            backward(loss)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[0] += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel()
            return tensor

        trainer.processes.backward = noted  # type: ignore[method-assign]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.train_step()
        return most[0]

    assert most_kept(4) < 0.4 * most_kept(1)


def test_accumulating_run_resumes_with_the_same_bits_and_may_be_divided_anew(crops, tmp_path: Path):
    recipe = replace(RECIPE, accumulate=2)
    straight = trained(crops, TINY, 8, recipe)
    trained(crops, TINY, 5, recipe).save(tmp_path / "state.pt")
    resumed = Trainer(TINY, recipe, crops)
    resumed.restore(tmp_path / "state.pt")
    for _ in range(3):
        resumed.train_step()
    assert_same_bits(straight, resumed)
    divided = Trainer(TINY, replace(recipe, accumulate=4), crops)
    divided.restore(tmp_path / "state.pt")
    assert divided.step == 5


def test_compile_checks_a_part_of_the_batch(crops, monkeypatch):
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "deco_lab.training.trainer.compile_regions",
        lambda model, *inputs, autocast: seen.extend(tuple(x.shape) for x in inputs),
    )
    Trainer(TINY, replace(RECIPE, accumulate=2), crops).compile()
    assert seen == [(2, 3, 16, 16), (2,), (2,)]


def test_trainer_refuses_a_batch_that_cannot_be_divided(crops):
    with pytest.raises(ValueError, match="processes=1 times accumulate=3, got 4; it counts"):
        Trainer(TINY, replace(RECIPE, accumulate=3), crops)


def test_time_shift_moves_the_drawn_times(crops):
    plain, shifted = (
        Trainer(TINY, replace(RECIPE, time_shift=shift), crops).draw(0).t for shift in (1, 4)
    )
    torch.testing.assert_close(shifted, plain / (plain + (1 - plain) * 4))


def test_adamw_updates_everything_with_its_betas(crops):
    """One step of AdamW without decay moves a weight by its rate times the gradient's sign."""
    recipe = replace(RECIPE, optimizer="adamw", adamw_lr=1e-4, beta2=0.999, warmup_steps=0)
    trainer = Trainer(TINY, replace(recipe, cooldown=0.0), crops)
    (adamw,) = trainer.optimizers
    assert isinstance(adamw, torch.optim.AdamW)
    (group,) = adamw.param_groups
    assert len(group["params"]) == len(list(trainer.model.parameters()))
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.0)
    assert isinstance(trainer.model, DeCo)
    weight = trainer.model.decoder.head.weight
    before = weight.detach().clone()
    trainer.train_step()
    moved = (weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-4), rtol=1e-3, atol=0)


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
    average, bits = trainer.average[name].double(), trainer.average[name].clone()
    for step in range(5):
        trainer.train_step()
        decay = min(RECIPE.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.model.state_dict()[name].double()
        bits.lerp_(trainer.model.state_dict()[name], 1 - decay)
    assert torch.equal(trainer.average[name], bits)
    torch.testing.assert_close(trainer.average[name].double(), average, rtol=1e-5, atol=1e-9)
    assert not torch.equal(trainer.average[name], trainer.model.state_dict()[name])


def test_averaged_model_is_a_copy_without_a_draw(crops):
    trainer = trained(crops, TINY, 2)
    before = torch.get_rng_state()
    model = trainer.averaged_model()
    assert torch.equal(torch.get_rng_state(), before)
    then = {name: value.clone() for name, value in trainer.average.items()}
    trainer.train_step()
    assert model.state_dict().keys() == then.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, then[name])
        assert not parameter.requires_grad
    assert not model.training
    assert any(not torch.equal(then[name], value) for name, value in trainer.average.items())


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


def test_restore_refuses_other_data(crops, tmp_path: Path):
    path = tmp_path / "state.pt"
    data = {"name": "here", "classes": ["a", "b"], "pictures": 2}
    trainer = Trainer(TINY, RECIPE, crops, data=data)
    trainer.train_step()
    trainer.save(path)
    Trainer(TINY, RECIPE, crops, data={**data, "name": "moved"}).restore(path)
    other = {**data, "classes": ["a", "c"], "pictures": 3}
    with pytest.raises(ResumeError, match="other data, which differ in classes, pictures; give"):
        Trainer(TINY, RECIPE, crops, data=other).restore(path)


def test_restore_refuses_an_earlier_version(crops, tmp_path: Path):
    torch.save({"step": 1, "model": {}}, tmp_path / "state.pt")
    with pytest.raises(ResumeError, match="is not what this version of the package writes; give"):
        Trainer(TINY, RECIPE, crops).restore(tmp_path / "state.pt")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-100],
        lambda whole: b"<!DOCTYPE html>\n<html>404</html>\n",
        lambda whole: b"\0" * len(whole),
    ],
    ids=["empty", "half", "cut", "page", "zeros"],
)
def test_restore_refuses_a_damaged_state(damage, crops, tmp_path: Path):
    path = tmp_path / "state.pt"
    Trainer(TINY, RECIPE, crops).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ResumeError, match=rf"^{path} is damaged \(.+\); put a copy of it back, or g"
    ):
        Trainer(TINY, RECIPE, crops).restore(path)


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, torch.ones(2), [1], "text"])
def test_restore_refuses_what_is_no_state(content: object, crops, tmp_path: Path):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(
        ResumeError, match=r"state\.pt is not what this version .* give a new --out"
    ):
        Trainer(TINY, RECIPE, crops).restore(tmp_path / "state.pt")


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


def test_training_config_rejects_nonsense():
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1e\+09\], got 0"):
        TrainingConfig(steps=0)
    with pytest.raises(ValueError, match=r"clip must lie in \[1e-06, 1e\+06\], got nan"):
        TrainingConfig(clip=float("nan"))
    with pytest.raises(ValueError, match="optimizer must be muon or adamw, got 'sgd'"):
        TrainingConfig(optimizer="sgd")
    with pytest.raises(ValueError, match="precision must be auto, bf16 or float32, got 'fp8'"):
        TrainingConfig(precision="fp8")


def test_every_number_of_the_recipe_has_a_range():
    numbers = {f.name for f in fields(TrainingConfig)} - {"precision", "optimizer", "repa"}
    assert set(RANGES) == numbers


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


def test_train_step_of_a_model_that_predicts_the_image_aims_at_the_floored_velocity(crops):
    """Before the first step the head is zero: the image predicted is 0 and the loss is in closed
    form, that of -image / max(1 - t, 0.05)."""
    config = replace(TINY_DIT, predicts="image")
    trainer = Trainer(config, replace(RECIPE, time_shift=1e-3, frequency_weight=0.0), crops)
    images, _, t, _ = trainer.draw(0)
    assert (t > 0.95).all()  # where the floor decides
    expected = (images / 0.05).square().mean()
    assert float(trainer.train_step().flow_matching) == pytest.approx(float(expected), rel=1e-5)
