from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deco_lab.sampling import sample_steps
from deco_lab.spectra import split_bands
from deco_lab.spectra.guidance import GuidanceSpectrum, guidance_spectrum
from deco_lab.spectra.states import Crops, Run

EDGES = (1 / 8, 1 / 4)


def white(count, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


class Bands:
    """cond adds gains[b] times the null class's velocity and some noise to each band."""

    def __init__(self, gains, noises, size=32):
        self.config = SimpleNamespace(num_classes=4, image_size=size)
        self.gains, self.noises = gains, noises
        self.calls = []

    def __call__(self, x, t, class_ids):
        self.calls.append(len(x))
        added = torch.zeros_like(x)
        for i, image in enumerate(x):  # noise that follows from the image, not from the batch
            seed = int(image.double().abs().sum() * 1e6) % 2**31
            parts = (
                split_bands(image[None], EDGES),
                split_bands(white(1, seed, x.shape[-1]).to(x), EDGES),
            )
            for gain, noise, own, other in zip(self.gains, self.noises, *parts, strict=True):
                added[i] += gain * own[0] + noise * other[0]
        return x + added * (class_ids < 4)[:, None, None, None]


def test_guidance_spectrum_of_known_bands():
    # White images and noise: x_t has the power t^2 + (1-t)^2 in every band.
    model = Bands([0.5, -0.5, 0.0], [0.0, 0.5, 1.0])
    found = guidance_spectrum(
        model, Crops(white(12), [0] * 12, [0.2, 0.5], seed=40, batch_size=5), edges=EDGES
    )
    power = np.array([0.68, 0.5])[:, None]
    np.testing.assert_allclose(found.uncond_power, np.broadcast_to(power, (2, 3)), rtol=0.06)
    gain, noise = np.array([0.5, -0.5, 0.0]), np.array([0.0, 0.5, 1.0])
    expected = gain**2 * power + noise**2
    np.testing.assert_allclose(found.power.value, expected, rtol=0.06)
    np.testing.assert_allclose(found.cosine.value, gain * np.sqrt(power / expected), atol=0.03)
    assert found.cosine.value[:, 0] == pytest.approx(1)
    assert (found.power.low <= found.power.value).all()
    assert (found.power.value <= found.power.high).all()
    assert (found.cosine.low[:, 1:] < found.cosine.high[:, 1:]).all()
    assert (found.fraction * found.uncond_power).sum(-1) == pytest.approx(power[:, 0], rel=0.03)
    assert found.count == 12
    assert max(model.calls) == 10


def test_guidance_spectrum_power_and_cosine_equal_those_of_the_bands():
    images = white(3, size=16)
    model = Bands([0.5, -0.5, 0.2], [0.1, 0.5, 1.0])
    found = guidance_spectrum(model, Crops(images, [1, 2, 3], [1.0]), edges=EDGES)
    cond = model(images, None, torch.tensor([1, 2, 3]))
    added, uncond = split_bands(cond - images, EDGES), split_bands(images, EDGES)
    energy, other = (part.square().mean((1, 2, 3, 4)) for part in (added, uncond))
    inner = (added * uncond).mean((1, 2, 3, 4)) / (energy * other).sqrt()
    np.testing.assert_allclose(found.cosine.value[0], inner, rtol=1e-6)
    np.testing.assert_allclose(found.image_cosine.value[0], inner, rtol=1e-6)  # at t = 1 both are x
    np.testing.assert_allclose(found.power.value[0] * found.fraction, energy, rtol=1e-6)


class Calibrated:
    """The exact velocities of white images about the class's own, which are 1 or -1 times one."""

    config = SimpleNamespace(num_classes=2, image_size=32)
    picture = 0.05 * white(1, seed=7)

    def means(self, x, t, class_ids):
        """Return E[image | x, class], or E[image | x] for the null class; variance 1."""
        t = float(t[0])
        noisy = t**2 + (1 - t) ** 2
        sign = 1.0 - 2 * class_ids[:, None, None, None]
        log_odds = 2 * t * (x * self.picture).sum((1, 2, 3), keepdim=True) / noisy
        own = torch.where(class_ids[:, None, None, None] < 2, sign, torch.tanh(log_odds / 2))
        return own * self.picture + t / noisy * (x - t * own * self.picture)

    def __call__(self, x, t, class_ids):
        return (self.means(x, t, class_ids) - x) / (1 - float(t[0]))


def test_guidance_spectrum_of_a_perfect_model_has_no_cosine_with_uncond():
    model, ids = Calibrated(), torch.arange(600) % 2
    images = white(600, seed=9) + model.picture * (1.0 - 2 * ids)[:, None, None, None]
    found = guidance_spectrum(model, Crops(images, ids, [0.3, 0.5], batch_size=100), edges=EDGES)
    assert (abs(found.cosine.value) < 4 * np.sqrt(found.chance) + 0.02).all()
    assert (found.image_cosine.value[0] > 0.05).all()  # where the class is not known from x yet
    assert (found.image_cosine.low[0] > 0).all()


def test_guidance_spectrum_of_white_noise_is_at_chance():
    found = guidance_spectrum(
        Bands([0.0] * 3, [1.0] * 3), Crops(white(16), [0] * 16, [0.3, 0.6]), edges=EDGES
    )
    np.testing.assert_allclose(found.power.value, 1, rtol=0.06)
    assert (found.cosine.value**2 < 9 * found.chance).all()  # three standard deviations
    inside = (found.cosine.low <= 0) & (found.cosine.high >= 0)
    assert inside.mean() >= 0.5


def test_guidance_spectrum_does_not_depend_on_batch_size_or_kind_of_float():
    model = Bands([0.5, -0.5, 0.2], [0.1, 0.5, 1.0])
    images = white(3)
    one, three = (
        guidance_spectrum(model, Crops(images, [0, 1, 2], [0.5], batch_size=size), edges=EDGES)
        for size in (1, 3)
    )
    np.testing.assert_allclose(one.power.value, three.power.value)
    np.testing.assert_allclose(one.cosine.value, three.cosine.value)
    constant = Bands([0.5, -0.5, 0.2], [0.0, 0.0, 0.0])
    half, double = (
        guidance_spectrum(constant, Crops(images.to(dtype), [0, 1, 2], [0.5]), edges=EDGES)
        for dtype in (torch.float16, torch.float64)
    )
    np.testing.assert_allclose(half.power.value, double.power.value, rtol=1e-3)


def test_run_guidance_spectrum_reads_the_states_of_a_run(golden_deco):
    steps = list(sample_steps(golden_deco, [1, 2], num_steps=3, guidance_scale=2.0))
    found = guidance_spectrum(golden_deco, Run(iter(steps), [1, 2], batch_size=1))
    np.testing.assert_allclose(found.times, [0, 1 / 3, 2 / 3])
    x, t = steps[1].x, torch.full((2,), steps[1].t)
    added = golden_deco(x, t, torch.tensor([1, 2])) - golden_deco(x, t, torch.tensor([10, 10]))
    energy = split_bands(added).square().mean((1, 2, 3, 4))
    np.testing.assert_allclose(found.power.value[1] * found.fraction, energy, rtol=1e-4)


def test_guidance_spectrum_of_one_image_has_no_interval_and_saves(tmp_path):
    model = Bands([1.0, 1.0, 0.0], [0.0] * 3)
    found = guidance_spectrum(model, Crops(white(1), [0], [0.5]), edges=EDGES)
    assert np.isnan(found.power.low).all()
    assert np.isnan(found.cosine.value[0, 2])  # nothing is added there
    assert found.cosine.value[0, :2] == pytest.approx(1)
    found.save(tmp_path / "guidance.npz")
    again = GuidanceSpectrum.load(tmp_path / "guidance.npz")
    assert np.array_equal(again.power.value, found.power.value)
    assert again.recipe["states"] == "re-noised images"


def test_guidance_spectrum_refuses_bad_input(golden_deco):
    crops = Crops(torch.zeros(2, 3, 16, 16), [1, 1], [0.5])
    with pytest.raises(ValueError, match="edges must rise"):
        guidance_spectrum(golden_deco, crops, edges=(0.3, 0.2))
    with pytest.raises(ValueError, match="model must have a null class"):
        guidance_spectrum(lambda x, t, c: x, crops)
