from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.gaussian import wiener_filter
from deco_lab.models import DeCo
from deco_lab.spectra.frequencies import ring_of_frequencies
from deco_lab.spectra.transfer import TransferFunction, transfer_function

TIMES = (0.2, 0.6, 0.9)


def power_of(ring: Tensor) -> Tensor:
    return 20 / (1 + ring.double()) ** 2


class Posterior:
    """The exact E[image - noise | x_t] of Gaussian images of power_of(ring) about class means."""

    def __init__(self, means: Tensor) -> None:
        self.means = means

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        time = float(t[0])
        wiener = torch.from_numpy(wiener_filter(power_of(ring_of_frequencies(H, W)), time))
        mean = self.means[class_ids]
        deviation = torch.fft.rfft2(x.double() - time * mean) * wiener
        predicted = mean + torch.fft.irfft2(deviation, s=(H, W))
        return ((predicted - x) / (1 - time)).to(x.dtype)


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_images(count: int, side: int = 16) -> Tensor:
    shape = power_of(ring_of_frequencies(side, side)).sqrt()
    return torch.fft.irfft2(torch.fft.rfft2(draw(count, 3, side, side)) * shape)


def shuffle_phases(images: Tensor) -> Tensor:
    phase = torch.fft.rfft2(draw(*images.shape, seed=1))
    spectrum = torch.fft.rfft2(images.double()).abs() * phase / phase.abs()
    return torch.fft.irfft2(spectrum, s=images.shape[-2:])


def test_transfer_function_of_the_exact_posterior_is_wieners():
    means = 2 * draw(4, 3, 16, 16, seed=2)
    ids = torch.arange(2000) % 4
    found = transfer_function(
        Posterior(means), gaussian_images(2000) + means[ids], ids, times=TIMES, batch_size=500
    )
    exact = wiener_filter(power_of(torch.arange(9)).numpy(), np.array(TIMES)[:, None])
    np.testing.assert_allclose(found.transfer, exact, rtol=1e-6)
    np.testing.assert_allclose(found.coherence, 1, rtol=1e-6)
    # The curve beside it knows S from 2,000 images: one number a channel in ring 0, 8 in ring 1.
    np.testing.assert_allclose(found.transfer[:, 1:], found.wiener[:, 1:], rtol=0.01)
    np.testing.assert_allclose(found.transfer[:, 0], found.wiener[:, 0], rtol=0.03)
    np.testing.assert_allclose(found.power[1:], power_of(torch.arange(1, 9)), rtol=0.03)


def test_transfer_function_with_the_means_left_in_is_not_wieners():
    means = 2 * draw(4, 3, 16, 16, seed=2)
    ids = torch.arange(80) % 4
    images = gaussian_images(80) + means[ids]
    kept, removed = (
        transfer_function(Posterior(means), images, ids, times=[0.2], remove_means=m)
        for m in (False, True)
    )
    exact = wiener_filter(power_of(torch.arange(9)).numpy(), 0.2)
    assert np.abs(removed.transfer[0] / exact - 1).max() < 1e-6  # t is float32
    assert np.abs(kept.transfer[0] / exact - 1).max() > 0.3
    assert kept.coherence.min() < 0.9


class Mixture:
    """E[velocity | x_t] where an image is one of two pictures, by a coin: nothing Gaussian."""

    def __init__(self, picture: Tensor) -> None:
        self.picture = picture

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        time = float(t[0])
        evidence = (x * self.picture).sum((1, 2, 3), keepdim=True) * time / (1 - time) ** 2
        return (torch.tanh(evidence) * self.picture - x) / (1 - time)


def test_transfer_function_of_any_perfect_model_is_wieners_with_less_coherence():
    picture = 0.15 * draw(1, 1, 8, 8)
    signs = 2 * (torch.arange(6000) % 2)[:, None, None, None] - 1
    found = transfer_function(
        Mixture(picture), signs * picture, [0] * 6000, times=[0.5], remove_means=False,
        batch_size=2000,
    )  # fmt: skip
    np.testing.assert_allclose(found.transfer[0], found.wiener[0], atol=0.01)
    assert found.coherence[0].max() < 0.2


def test_transfer_function_intervals_cover_wieners_about_as_often_as_they_say():
    picture = 0.3 * draw(1, 1, 8, 8)
    S = (torch.fft.fft2(picture).abs() ** 2 / 64)[0, 0].numpy()
    grid = np.fft.fftfreq(8)
    ring = np.floor(np.hypot(grid[:, None], grid) * 8 + 0.5)
    truth = wiener_filter([S[ring == k].mean() for k in range(5)], 0.4)
    signs = 2 * (torch.arange(60) % 2)[:, None, None, None] - 1
    covered = []
    for trial in range(200):
        found = transfer_function(
            Mixture(picture), signs * picture, [0] * 60, times=[0.4], remove_means=False,
            seed=60 * trial, batch_size=60,
        )  # fmt: skip
        covered.append((found.transfer_low[0] <= truth) & (truth <= found.transfer_high[0]))
    assert 0.92 < np.mean(covered) < 0.975


def test_transfer_function_removes_no_freedom_by_the_means_of_classes_that_are_groups():
    ids = torch.arange(24) % 6
    model, images = Mixture(0.3 * draw(1, 1, 16, 16)), gaussian_images(24)
    found = transfer_function(model, images, ids, times=[0.4], groups=ids)
    assert (found.transfer_low < found.transfer_high).all()


def test_transfer_function_of_an_unrelated_prediction_has_the_coherence_of_chance():
    class Unrelated:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(3)

        def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
            other = torch.randn(x.shape, generator=self.generator)
            return (other - x) / (1 - float(t[0]))

    white = draw(12, 1, 16, 16).float()
    ids = torch.arange(12) % 3
    times = np.linspace(0, 0.9, 120).tolist()
    found = transfer_function(Unrelated(), white, ids, times=times)
    np.testing.assert_allclose(found.coherence.mean(0)[1:], found.coherence_floor[1:], rtol=0.5)
    ratio = (found.coherence / found.coherence_floor).mean()
    assert ratio == pytest.approx(1, abs=0.2)
    inside = (found.transfer_low <= 0) & (found.transfer_high >= 0)
    assert inside[:, 1:].mean() > 0.88


def test_transfer_function_is_one_for_no_velocity():
    white = draw(6, 3, 16, 24)
    found = transfer_function(
        lambda x, t, ids: 0 * x, white, [0, 1, 0, 1, 0, 1], times=[0.0, 0.5, 1.0], window="hann"
    )
    np.testing.assert_allclose(found.transfer, 1)
    np.testing.assert_allclose(found.coherence, 1)
    np.testing.assert_allclose(found.wiener[[0, 2]], [[0] * 9, [1] * 9])
    white_wiener = wiener_filter(1, 0.5)
    np.testing.assert_allclose(found.wiener[1, 1:], white_wiener, atol=0.15)


@pytest.fixture(scope="module")
def crops() -> tuple[Tensor, Tensor]:
    ids = torch.arange(14).repeat(2)
    images, ids = bundled_crops(64).sample(28, torch.Generator().manual_seed(3), ids)
    return images, ids


def misfit(found: TransferFunction) -> float:
    """Return the mean |H - W| below 1/4 cycle per pixel, per unit of W."""
    low = (found.frequency > 0) & (found.frequency < 0.25)
    return float(np.abs(found.transfer[0, low] / found.wiener[0, low] - 1).mean())


def test_transfer_function_of_tiny_is_near_wieners_on_photographs_alone(crops):
    images, ids = crops
    tiny = deco_lab.load("tiny", device="cpu")
    random = DeCo(DeCoConfig(image_size=64, patch_size=8, num_classes=14, hidden_size=16,
                             num_heads=2, depth=1, decoder_depth=1, decoder_width=8))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in random.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    photographs = transfer_function(tiny, images, ids, times=[0.6])
    shuffled = transfer_function(tiny, shuffle_phases(images).float(), ids, times=[0.6])
    untrained = transfer_function(random, images, ids, times=[0.6])
    assert misfit(photographs) < 0.15
    assert misfit(untrained) > 0.5
    # What it infers from edges is wrong where there are none.
    assert misfit(shuffled) > 2 * misfit(photographs)


def test_transfer_function_does_not_depend_on_the_batch(tmp_path):
    images = gaussian_images(6).half()
    model = Posterior(torch.zeros(1, 3, 16, 16))
    one, four = (
        transfer_function(model, images, [0] * 6, times=TIMES, batch_size=n) for n in (1, 4)
    )
    np.testing.assert_allclose(one.transfer, four.transfer, rtol=1e-5)
    one.save(tmp_path / "transfer.npz")
    again = TransferFunction.load(tmp_path / "transfer.npz")
    assert np.array_equal(again.coherence, one.coherence)
    assert again.recipe["means"] == "class means removed"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"class_ids": [0, 1, 1]}, "remove_means needs two images of each class .* one of class 0"),
        ({"images": draw(3, 3, 8, 8) * float("nan")}, "images must be finite"),
        ({"window": "flat"}, "window must be None"),
        ({"model": lambda x, t, ids: x[:1]}, "model must return a velocity in the shape of x"),
    ],
)
def test_transfer_function_names_what_is_wrong(change, match):
    given: dict[str, Any] = {
        "model": lambda x, t, ids: x,
        "images": draw(3, 3, 8, 8),
        "class_ids": [0, 0, 0],
        "times": [0.5],
    }
    with pytest.raises(ValueError, match=match):
        transfer_function(**given | change)
