from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.gaussian import noisy_power
from deco_lab.models import DeCo
from deco_lab.sampling import sample_steps
from deco_lab.spectra import OCTAVES, decompose, split_bands
from deco_lab.spectra.effects import BandEffects, band_effects
from deco_lab.spectra.states import Crops, Run

BASELINE, CONDITION, PIXELS, INTERACTION = range(4)
P = 4


class Split:
    """A DiT that writes what lies below 1/8 cycle per pixel, a decoder that writes the rest."""

    config = SimpleNamespace(patch_size=P, num_classes=14, image_size=64)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.decode(x, self.condition(x, t, class_ids))

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return F.unfold(split_bands(x, [1 / 8])[0], P, stride=P).transpose(1, 2)

    def time_condition(self, t: Tensor) -> Tensor:
        return torch.zeros(len(t), 1, 3 * P * P)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        low = F.fold(condition.transpose(1, 2).to(x), x.shape[-2:], P, stride=P)
        return low + split_bands(x, [1 / 8])[1]


def shuffle_phases(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    phase = torch.fft.rfft2(noise)
    spectrum = torch.fft.rfft2(images.double()).abs() * phase / phase.abs()
    return torch.fft.irfft2(spectrum, s=images.shape[-2:])


def pictures(kind: str, count: int = 6, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "white noise":
        return torch.randn(count, 3, size, size, generator=generator)
    crops = bundled_crops(size).sample(count, generator).images
    return crops if kind == "photographs" else shuffle_phases(crops).float()


@pytest.mark.parametrize("kind", ["photographs", "white noise", "shuffled phases"])
@pytest.mark.parametrize("reference", ["time", "mean"])
def test_band_effects_read_a_low_dit_and_a_high_decoder(kind, reference):
    found = band_effects(
        Split(),
        Crops(pictures(kind), [0] * 6, [0.0, 0.3, 0.6]),
        edges=OCTAVES,
        condition_reference=reference,
        pixel_reference="zero",
    )
    shares = found.velocity.value
    assert (shares[:, PIXELS, 2:] > 0.99).all()
    assert (np.abs(shares[:, CONDITION, 2:]) < 0.01).all()
    assert (np.abs(shares[:, PIXELS, :2]) < 1e-5).all()
    low = shares[:, CONDITION] + shares[:, BASELINE]  # a mean token is the part that is no detail
    assert (low[:, :2] > 0.99).all()
    assert (shares[:, CONDITION, 1] > 0.99).all()
    if reference == "time":
        assert (shares[:, CONDITION, :2] > 0.99).all()
    assert np.abs(shares[:, INTERACTION]).max() < 1e-5
    assert np.abs(found.predicted.value[:, INTERACTION]).max() < 1e-5
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.predicted.value.sum(1), 1, atol=1e-5)


def test_band_effects_of_parts_that_cancel_are_no_shares_but_a_sentence():
    class Against(Split):
        """The condition draws 3 p and the pixels take 2 p of it away."""

        def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
            return F.unfold(x, P, stride=P).transpose(1, 2)

        def decode(self, x: Tensor, condition: Tensor) -> Tensor:
            return 3 * F.fold(condition.transpose(1, 2).to(x), x.shape[-2:], P, stride=P) - 2 * x

    images = pictures("white noise", 12, 16)
    found = band_effects(Against(), Crops(images, [0] * 12, [0.0, 1.0]), edges=[1 / 8])
    np.testing.assert_allclose(found.velocity_cancellation, 9 + 4, rtol=0.1)
    np.testing.assert_allclose(found.predicted_cancellation[0], (9 + 1) / 4, rtol=0.1)
    np.testing.assert_allclose(found.predicted_cancellation[1], 1, rtol=0.1)  # it is p itself
    assert found.cancels("velocity").all()
    assert found.cancels().tolist() == [[True] * 2, [False] * 2]
    assert np.isnan(found.velocity.value).all()
    assert np.isnan(found.predicted.low[0]).all()
    np.testing.assert_allclose(found.predicted.value[1].sum(0), 1)
    assert found.unshared() == (
        "No shares of the predicted image (below 1/8, above 1/8 at t = 0): there the parts "
        "cancel, their energies being more than 2 times its own."
    )
    shared = band_effects(Linear(), Crops(images[:, :1], [0] * 12, [0.5]), edges=[1 / 8])
    assert shared.unshared("velocity") == ""


def test_band_effects_of_tiny_with_other_images_are_the_conditions_above_a_quarter():
    crops = bundled_crops(64).sample(28, torch.Generator().manual_seed(0), torch.arange(28) % 17)
    tiny = deco_lab.load("tiny", device="cpu")
    assert isinstance(tiny, DeCo)
    found = band_effects(
        tiny, Crops(crops.images, crops.class_ids, [0.5], groups=crops.class_ids), draws=2
    )
    np.testing.assert_allclose(found.predicted.value[0, :, -1], [0.01, 0.77, 0.11, 0.11], atol=0.03)
    assert found.predicted.low[0, CONDITION, -1] > 0.6
    assert not found.cancels().any()


class Linear:
    """velocity = a x + (1 - a) roll(x): the pixels' share of white noise is a^2 / (...)."""

    config = SimpleNamespace(patch_size=1, num_classes=14)
    a = 0.6

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2).roll(13, 1)

    def time_condition(self, t: Tensor) -> Tensor:
        return torch.zeros(len(t), 1, 1)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.a * x + (1 - self.a) * condition.transpose(1, 2).reshape(x.shape).to(x)


def test_band_effects_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    covered = []
    for trial in range(300):
        images = torch.randn(20, 1, 8, 8, generator=generator)
        found = band_effects(
            Linear(),
            Crops(images, [0] * 20, [0.5], seed=20 * trial),
            edges=(),
            condition_reference="time",
            pixel_reference="zero",
        )
        truth = Linear.a**2 / (Linear.a**2 + (1 - Linear.a) ** 2)
        low, high = found.velocity.low[0, PIXELS, 0], found.velocity.high[0, PIXELS, 0]
        covered.append(low <= truth <= high)
    assert 0.9 < np.mean(covered) < 0.975


def random_deco(num_classes: int = 14) -> DeCo:
    model = DeCo(
        DeCoConfig(
            image_size=32,
            patch_size=4,
            num_classes=num_classes,
            hidden_size=16,
            num_heads=2,
            depth=2,
            decoder_depth=2,
            decoder_width=8,
        )
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # a fresh decoder is zero, and so would be its parts
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.requires_grad_(False)


def test_band_effects_of_random_weights_owe_the_condition_little():
    images = pictures("photographs", 8, 32)
    tiny = deco_lab.load("tiny", device="cpu")
    assert isinstance(tiny, DeCo)
    random, trained = (
        band_effects(m, Crops(images, range(8), [0.5])).predicted.value[0]
        for m in (random_deco(), tiny)
    )
    # That a condition draws what there is has to be learned; the method does not say it of any.
    assert trained[CONDITION].min() > 0.55
    assert random[CONDITION].max() < 0.25


def test_band_effects_do_not_depend_on_the_batch(tmp_path):
    images = pictures("photographs", 5, 32).half()
    one, three = (
        band_effects(
            random_deco(),
            Crops(images, [0, 1, 2, 3, 4], [0.2, 0.8], batch_size=n),
            pixel_reference="noise",
        )
        for n in (1, 3)
    )
    np.testing.assert_allclose(one.velocity.value, three.velocity.value, atol=1e-4)
    np.testing.assert_allclose(one.predicted.low, three.predicted.low, atol=1e-4)
    one.save(tmp_path / "effects.npz")
    again = BandEffects.load(tmp_path / "effects.npz")
    assert np.array_equal(again.velocity.value, one.velocity.value)
    assert again.parts == one.parts
    assert again.recipe["pixel_reference"] == "noise"
    assert again.recipe["weights"]


def test_band_effects_energy_is_the_mean_square_of_the_velocity():
    images = pictures("photographs", 3, 32)
    model = random_deco()
    found = band_effects(model, Crops(images, [0] * 3, [0.5], seed=4))
    noise = torch.stack(
        [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(4 + i)) for i in range(3)]
    )
    x = 0.5 * (images + noise)
    velocity = decompose(model, x, 0.5, [0] * 3).velocity
    assert found.velocity_energy[0].sum() == pytest.approx(velocity.square().mean().item())
    predicted = x + 0.5 * velocity
    assert found.predicted_energy[0].sum() == pytest.approx(predicted.square().mean().item())


def test_band_effects_of_one_group_know_no_interval():
    images = pictures("photographs", 3)
    found = band_effects(Split(), Crops(images, [0] * 3, [0.9], groups=[0] * 3), edges=OCTAVES)
    assert np.isfinite(found.predicted.value).all()
    assert np.isnan(found.predicted.low).all()


@pytest.mark.parametrize("size", [(16, 40), (24, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_band_effects_take_any_size_and_precision(size, dtype):
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = band_effects(random_deco(), Crops(images.to(dtype), [0, 1, 1], [0.5]))
    exact = band_effects(random_deco(), Crops(images, [0, 1, 1], [0.5]))
    np.testing.assert_allclose(found.predicted.value, exact.predicted.value, atol=0.02)


@pytest.mark.parametrize("batch_size", [2, 16])
def test_run_effects_are_those_of_each_state(batch_size):
    model = random_deco()
    labels = [0, 3, 5]
    steps = list(sample_steps(model, labels, num_steps=3, seed=2))
    found = band_effects(model, Run(iter(steps), labels, batch_size=batch_size))
    assert found.times.tolist() == [step.t for step in steps[:-1]]
    for index, step in enumerate(steps[:-1]):
        alone = band_effects(model, Run([step], labels))
        np.testing.assert_allclose(
            found.predicted.value[index], alone.predicted.value[0], atol=1e-4
        )
        velocity = model(step.x, torch.full((3,), step.t), torch.tensor(labels))
        energy = velocity.square().mean().item()
        assert found.velocity_energy[index].sum() == pytest.approx(energy, rel=1e-4)
    assert found.recipe["states"] == "sampling run"


def test_run_effects_at_the_noise_are_those_of_crops_at_time_zero():
    model = random_deco()
    start = next(sample_steps(model, [1, 2, 3], seed=9))
    run = band_effects(model, Run([start], [1, 2, 3]))
    crops = band_effects(model, Crops(torch.zeros(3, 3, 32, 32), [1, 2, 3], [0.0], seed=9))
    np.testing.assert_allclose(run.velocity.value, crops.velocity.value, atol=1e-6)
    np.testing.assert_allclose(run.predicted.high, crops.predicted.high, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "change", "match"),
    [
        (noisy_power, {}, "model must have the methods condition and decode"),
        (Split(), {"edges": (0.3, 0.2)}, "edges must rise"),
        (Split(), {"condition_reference": "none"}, "condition_reference must be one of others, me"),
        (Split(), {"draws": 1}, "images must be at least 3 and draws 2"),
    ],
)
def test_band_effects_name_what_is_wrong(model: Any, change: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        band_effects(model, Crops(torch.zeros(3, 3, 8, 8), [0] * 3, [0.5]), **change)
