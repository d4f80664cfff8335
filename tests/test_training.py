import copy
import threading
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_cases import CROPS, RECIPE, TINY, TINY_DIT, trained

from deco_lab.config import PRESETS
from deco_lab.data import ImageBatch
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.training.parallel import TrainingProcesses
from deco_lab.training.recipe import RANGES, TrainingConfig, learning_rate_factor
from deco_lab.training.trainer import ResumeError, Trainer

SECOND = TrainingProcesses(torch.device("cpu"), index=1, count=2)
"""The second of two processes, without the first."""


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.state_dict(), **{f"ema.{k}": v for k, v in trainer.average.items()}}


def assert_same_bits(first: Trainer, second: Trainer) -> None:
    expected, got = weights(first), weights(second)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


@pytest.mark.parametrize(
    ("config", "recipe"),
    [(TINY, RECIPE), (TINY_DIT, RECIPE), (TINY, replace(RECIPE, accumulate=2))],
    ids=["deco", "dit", "accumulated"],
)
def test_resumed_run_ends_with_the_same_bits(tmp_path: Path, config, recipe):
    straight = trained(config, recipe, 8)
    trained(config, recipe, 5).save(tmp_path / "state.pt")
    resumed = trained(config, recipe)
    resumed.restore(tmp_path / "state.pt")
    assert resumed.step == 5
    for _ in range(3):
        resumed.train_step()
    assert_same_bits(straight, resumed)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_restore_takes_other_steps_parts_and_names(tmp_path: Path):
    data = {"name": "here", "classes": ["a", "b"]}
    trainer = Trainer(TINY, RECIPE, CROPS, data=data)
    trainer.train_step()
    trainer.save(tmp_path / "state.pt")
    other = replace(RECIPE, steps=99, accumulate=2)
    moved = Trainer(TINY, other, CROPS, data={**data, "name": "moved"})
    moved.restore(tmp_path / "state.pt")
    assert moved.step == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace(RECIPE, seed=5, gamma=0.5)},
         "of another recipe, which differs in gamma, seed; give the same again, or"),
        ({"model_config": TINY_DIT}, "of another model, which differs in decoder_.*; give"),
        ({"data": {"classes": ["a", "c"], "pictures": 3}},
         "of other data, which differs in classes, pictures; give"),
        ({"config": replace(RECIPE, steps=1)}, "steps must be at least 2, which .* has reached"),
    ],
)  # fmt: skip
def test_restore_refuses_another_run(tmp_path: Path, changes: dict[str, Any], message: str):
    given: dict[str, Any] = {
        "model_config": TINY, "config": RECIPE, "crops": CROPS,
        "data": {"classes": ["a", "b"], "pictures": 2},
    }  # fmt: skip
    trainer = Trainer(**given)
    for _ in range(2):
        trainer.train_step()
    trainer.save(tmp_path / "state.pt")
    with pytest.raises(ResumeError, match=message):
        Trainer(**{**given, **changes}).restore(tmp_path / "state.pt")


DAMAGE = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "cut": lambda whole: whole[:-100],
    "page": lambda whole: b"<!DOCTYPE html>\n<html>404</html>\n",
    "zeros": lambda whole: b"\0" * len(whole),
}


def test_restore_refuses_a_damaged_state(tmp_path: Path):
    path = tmp_path / "state.pt"
    trainer = trained()
    trainer.save(path)
    whole = path.read_bytes()
    for name, damage in DAMAGE.items():
        path.write_bytes(damage(whole))
        with pytest.raises(ResumeError) as raised:
            trainer.restore(path)
        reason = str(raised.value).removeprefix(f"{path} is damaged (")
        assert reason.endswith("); put a copy of it back, or give a new --out to start again"), name
    for content in ({"step": 1, "model": {}}, torch.ones(2), [1], "text"):
        torch.save(content, path)
        with pytest.raises(ResumeError, match="is not what this version of the package writes; gi"):
            trainer.restore(path)


@pytest.mark.parametrize("config", [TINY, TINY_DIT], ids=["deco", "dit"])
def test_train_step_minimises_the_two_losses(config):
    trainer = trained(config, steps=1)
    images, noise, t, class_ids = trainer.draw(1)
    x = t[:, None, None, None] * images + (1 - t[:, None, None, None]) * noise
    velocity = trainer.model(x, t, class_ids)
    expected = (
        flow_matching_loss(velocity, images - noise).item(),
        frequency_loss(velocity, images - noise).item(),
    )
    got = tuple(float(loss) for loss in trainer.train_step()[:2])
    assert got == pytest.approx(expected, rel=1e-6)


def test_train_step_of_a_model_that_predicts_the_image_aims_at_the_floored_velocity():
    """Before the first step the head is zero: the image predicted is 0 and the loss is in closed
    form, that of -image / max(1 - t, 0.05)."""
    recipe = replace(RECIPE, time_shift=1e-3, frequency_weight=0.0)
    trainer = trained(replace(TINY_DIT, predicts="image"), recipe)
    images, _, t, _ = trainer.draw(0)
    assert (t > 0.95).all()  # where the floor decides
    expected = (images / 0.05).square().mean()
    assert float(trainer.train_step().flow_matching) == pytest.approx(float(expected), rel=1e-5)


def test_train_step_learns():
    trainer = trained(recipe=TrainingConfig(steps=300, batch_size=16, precision="float32"))
    losses = [float(trainer.train_step().flow_matching) for _ in range(120)]
    assert losses[0] > 1.2
    assert losses[-1] < 0.8 * losses[0]


CHANGES: dict[str, Any] = {
    "seed": 1, "muon_lr": 0.01, "adamw_lr": 1e-4, "warmup_steps": 3, "cooldown": 1.0, "clip": 0.1,
    "ema_decay": 0.1, "label_dropout": 0.9, "time_shift": 4.0, "uniform_times": 1.0,
    "frequency_weight": 0.5, "quality": 50, "gamma": 2.0, "optimizer": "adamw",
    "precision": "bf16", "batch_size": 2, "steps": 11,
}  # fmt: skip


def test_every_number_of_the_recipe_has_a_range_and_changes_what_is_trained():
    elsewhere = {"accumulate", "beta2", "repa", "repa_weight", "repa_block"}  # tested below, repa
    assert {f.name for f in fields(TrainingConfig)} == CHANGES.keys() | elsewhere
    words = {"optimizer", "precision", "repa"}
    assert RANGES.keys() == {f.name for f in fields(TrainingConfig)} - words
    # Half of a cool-down, since the first steps do not know how many there are.
    recipe = replace(RECIPE, cooldown=0.5, steps=4, warmup_steps=1)
    plain = trained(recipe=recipe, steps=4).average
    for name, value in CHANGES.items():
        given = {"steps": 8} if name == "steps" else {name: value}
        other = trained(recipe=replace(recipe, **given), steps=4).average
        assert any(not torch.equal(other[key], value) for key, value in plain.items()), name
    adamw = replace(recipe, optimizer="adamw")
    first, second = (trained(recipe=replace(adamw, beta2=b), steps=3).average for b in (0.9, 0.99))
    assert not torch.equal(first["decoder.head.weight"], second["decoder.head.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"steps must lie in \[1, 1e\+09\], got 0"),
        ({"clip": float("nan")}, r"clip must lie in \[1e-06, 1e\+06\], got nan"),
        ({"optimizer": "sgd"}, "optimizer must be muon or adamw, got 'sgd'"),
        ({"precision": "fp8"}, "precision must be auto, bf16 or float32, got 'fp8'"),
    ],
)
def test_training_config_rejects(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_config": PRESETS["DeCo-L/16"]}, "image_size must be that of the crops, 16, got 2"),
        ({"model_config": replace(TINY, num_classes=3)}, "num_classes must be that of .*, 2, got"),
        ({"config": replace(RECIPE, accumulate=3)}, "processes=1 times accumulate=3, got 4; it"),
        ({"config": replace(RECIPE, batch_size=3), "processes": SECOND},
         "processes=2 times accumulate=1, got 3; it counts"),
    ],
)  # fmt: skip
def test_trainer_refuses(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Trainer(**{"model_config": TINY, "config": RECIPE, "crops": CROPS, **given})


def test_learning_rate_warms_up_and_cools_down():
    config = TrainingConfig(steps=1000, warmup_steps=100, cooldown=0.4)
    factors = [learning_rate_factor(step, config) for step in (0, 49, 99, 599, 600, 800, 999)]
    assert factors == pytest.approx([0.01, 0.5, 1, 1, 1, 0.5, 1 / 400])
    constant = TrainingConfig(steps=10, warmup_steps=0, cooldown=0.0)
    assert [learning_rate_factor(step, constant) for step in (0, 9)] == [1, 1]


def test_muon_updates_the_matrices_of_the_blocks_only():
    trainer = trained()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    by_muon, by_adamw = (
        {names[id(p)] for p in optimizer.param_groups[0]["params"]}
        for optimizer in trainer.optimizers
    )
    matrices = {name for name, p in trainer.model.named_parameters() if p.ndim == 2}
    assert by_muon == {name for name in matrices if name.startswith("trunk.blocks.")}
    assert by_adamw == set(names.values()) - by_muon


def test_adamw_updates_everything_with_its_betas():
    """One step of AdamW without decay moves a weight by its rate times the gradient's sign."""
    recipe = replace(RECIPE, optimizer="adamw", adamw_lr=1e-4, beta2=0.999, warmup_steps=0)
    trainer = trained(recipe=replace(recipe, cooldown=0.0))
    (adamw,) = trainer.optimizers
    assert isinstance(adamw, torch.optim.AdamW)
    (group,) = adamw.param_groups
    assert len(group["params"]) == len(list(trainer.model.parameters()))
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.0)
    weight = dict(trainer.model.named_parameters())["decoder.head.weight"]
    before = weight.detach().clone()
    trainer.train_step()
    moved = (weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-4), rtol=1e-3, atol=0)


def test_average_follows_its_recursion():
    trainer = trained()
    name = "decoder.head.weight"
    average = trainer.average[name].clone()
    for step in range(5):
        trainer.train_step()
        average.lerp_(trainer.model.state_dict()[name], 1 - (1 + step) / (10 + step))
    assert torch.equal(trainer.average[name], average)
    assert not torch.equal(trainer.average[name], trainer.model.state_dict()[name])


def test_averaged_model_is_a_copy_without_a_draw():
    trainer = trained(steps=2)
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


def test_draw_depends_on_seed_and_step_only():
    first, second = trained(), trained(TINY_DIT, steps=1)
    for one, other in zip(first.draw(7), second.draw(7), strict=True):
        assert torch.equal(one, other)
    for others in (first.draw(8), trained(recipe=replace(RECIPE, seed=1)).draw(7)):
        for one, other in zip(first.draw(7), others, strict=True):
            assert not torch.equal(one, other)


def test_draw_takes_shift_dropout_and_rows_from_the_recipe_and_the_processes():
    plain = trained().draw(3)
    shifted = trained(recipe=replace(RECIPE, time_shift=4)).draw(3).t
    torch.testing.assert_close(shifted, plain.t / (plain.t + (1 - plain.t) * 4))
    for part, rows in zip(
        Trainer(TINY, RECIPE, CROPS, processes=SECOND).draw(3), plain, strict=True
    ):
        assert torch.equal(part, rows[2:])
    many = trained(recipe=replace(RECIPE, batch_size=4000, label_dropout=0.1)).draw(0).class_ids
    assert float((many == TINY.null_class).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_prefetched_batches_train_the_same_bits_and_pass_on_what_cutting_raised():
    threads: list[str] = []

    def sample(*arguments: Any, **options: Any) -> ImageBatch:
        threads.append(threading.current_thread().name)
        if len(threads) == RECIPE.steps + 2:
            raise ValueError("class cats has no picture that can be read")
        return CROPS.sample(*arguments, **options)

    noting: Any = copy.copy(CROPS)
    noting.sample = sample
    ahead = Trainer(TINY, RECIPE, noting, prefetch=True)
    for _ in range(RECIPE.steps):
        ahead.train_step()
    assert_same_bits(trained(steps=RECIPE.steps), ahead)
    here, *others = threads
    assert here == threading.current_thread().name
    assert len(others) == RECIPE.steps - 1
    assert all(name.startswith("next batch") for name in others)
    again = Trainer(TINY, RECIPE, noting, prefetch=True)
    again.train_step()
    with pytest.raises(ValueError, match="class cats has no picture"):
        again.train_step()


def test_prefetched_draws_are_handed_over_from_their_stream(monkeypatch):
    """The order of calls; what a GPU makes of it is in test_gpu.py."""
    trainer, calls = Trainer(TINY, RECIPE, CROPS, prefetch=True), []

    @contextmanager
    def entered(stream: object):
        assert stream is trainer._stream
        calls.append(f"drawn in {threading.current_thread().name[:10]}")
        yield

    here: Any = SimpleNamespace(wait_stream=lambda other: calls.append("here waits"))
    kept = SimpleNamespace(record_stream=lambda stream: calls.append(f"kept for {stream is here}"))
    trainer._stream = here
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    monkeypatch.setattr(trainer, "draw", lambda step: [kept])
    for trainer.step in (0, 1):
        trainer._drawn()
        assert trainer._next is not None
        trainer._next.result()
    assert calls == ["here waits", "kept for True", "drawn in next batch"] * 2


def test_accumulated_gradients_are_those_of_the_whole_batch():
    recipe = replace(RECIPE, optimizer="adamw", batch_size=8, warmup_steps=0)
    whole, parts = (trained(recipe=replace(recipe, accumulate=n)) for n in (1, 4))
    for _ in range(6):
        expected, got = whole.train_step(), parts.train_step()
        assert [float(v) for v in got] == pytest.approx([float(v) for v in expected], rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_accumulated_step_keeps_the_tensors_of_one_part(monkeypatch):
    def most_kept(accumulate: int) -> int:
        """Return the most numbers that autograd holds for a backward pass."""
        trainer = trained(recipe=replace(RECIPE, batch_size=8, accumulate=accumulate))
        kept, backward = [0], torch.Tensor.backward

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1] += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel()
            return tensor

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", lambda loss: kept.append(0) or backward(loss))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                trainer.train_step()
        return max(kept)

    assert most_kept(4) < 0.4 * most_kept(1)


@pytest.mark.parametrize(
    "name",
    ["step", "model_config", "training_config", "losses", "learner", "average", "optimizers"],
)
@pytest.mark.parametrize("value", [None, "text", 3.5, ["one"], {"a": 1}])
def test_restore_refuses_a_state_with_other_kinds_of_values(tmp_path, name, value):
    trained(steps=2).save(tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(state | {name: value}, tmp_path / "state.pt")
    with pytest.raises(ResumeError):
        trained().restore(tmp_path / "state.pt")
