import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.data import bundled_crops
from deco_lab.gaussian import posterior_power, velocity_gain
from deco_lab.spectra import load_result, phase_shuffled, radial_power
from deco_lab.spectra.detail import DetailSpectra, detail_spectra
from deco_lab.spectra.frequencies import ring_of_frequencies
from deco_lab.spectra.states import Crops

TIMES = (0.2, 0.6, 0.9)


def power_of(ring: Tensor) -> Tensor:
    return 20 / (1 + ring.double()) ** 2


class Posterior:
    """The exact velocity E[image - noise | x_t] of Gaussian images of power_of(ring)."""

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        gain = torch.from_numpy(velocity_gain(power_of(ring_of_frequencies(H, W)), float(t[0])))
        return torch.fft.irfft2(torch.fft.rfft2(x.double()) * gain, s=(H, W)).to(x.dtype)


def gaussian_images(count: int, size: tuple[int, int] = (16, 16), channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(count, channels, *size, generator=generator, dtype=torch.float64)
    shape = power_of(ring_of_frequencies(*size)).sqrt()
    return torch.fft.irfft2(torch.fft.rfft2(white) * shape, s=size)


def test_detail_spectra_of_the_exact_posterior_are_the_gaussian_curves():
    images = gaussian_images(3000)
    found = detail_spectra(Posterior(), Crops(images, [0] * 3000, TIMES, batch_size=500))
    np.testing.assert_allclose(found.power.value, power_of(torch.arange(9)), rtol=0.04)
    for name in ("predicted", "error", "velocity"):
        measured, curve = getattr(found, name).value, getattr(found, f"gaussian_{name}")
        # The mean, ring 0, is 9,000 numbers; ring 1 has eight times as many.
        np.testing.assert_allclose(measured[:, 1:], curve[:, 1:], rtol=0.03)
        np.testing.assert_allclose(measured[:, 0], curve[:, 0], rtol=0.06)
        overall = (measured / curve)[:, 2:].mean()
        assert overall == pytest.approx(1, abs=0.003)


class ClassFilter:
    """The best linear velocity of grey images, of power_of(ring) in class 0 and 1/50 of it in 1."""

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        S = 3 * power_of(ring_of_frequencies(*x.shape[-2:])) / (1 + 49 * class_ids[:, None, None])
        grey = x.double().mean(1, keepdim=True)
        time = float(t[0])
        along = torch.from_numpy(velocity_gain(S.numpy(), time))[:, None]
        shared = torch.fft.irfft2(torch.fft.rfft2(grey) * along, s=x.shape[-2:])
        return (shared - (x - grey) / (1 - time)).to(x.dtype)


def test_detail_spectra_of_grey_images_are_those_of_the_filter_of_all_colours():
    """One colour's posterior knows a third of what three alike know: not a bound."""
    ids = torch.arange(2000) % 2
    grey = gaussian_images(2000, channels=1) / (1 + (50**0.5 - 1) * ids[:, None, None, None])
    images = grey.expand(-1, 3, -1, -1)
    found = detail_spectra(ClassFilter(), Crops(images, ids, TIMES, batch_size=500))
    for name in ("predicted", "error", "velocity"):
        measured, curve = getattr(found, name).value, getattr(found, f"gaussian_{name}")
        np.testing.assert_allclose(measured[:, 1:], curve[:, 1:], rtol=0.05)
    by_colour = posterior_power(found.power.value, np.array(TIMES)[:, None])
    assert (found.error.value[2, 1:] < 0.36 * by_colour[2, 1:]).all()  # a third, at t = 0.9


def test_detail_spectra_intervals_cover_the_posterior_about_as_often_as_they_say():
    images = gaussian_images(3200, (8, 8))
    covered = []
    for chosen in images.split(16):
        found = detail_spectra(Posterior(), Crops(chosen, [0] * 16, [0.5], seed=len(covered) * 16))
        S = power_of(torch.arange(5)).numpy()
        truth = S / (S + 1)  # S (1 - t)^2 / (t^2 S + (1 - t)^2) at t = 0.5
        covered.append((found.error.low[0] <= truth) & (truth <= found.error.high[0]))
    assert 0.89 < np.mean(covered) < 0.975  # 16 skewed values each; 0.95 for many


def test_detail_spectra_of_white_noise_know_no_frequency():
    noise = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = detail_spectra(Posterior(), Crops(noise, [0] * 200, [0.3, 0.7]))
    np.testing.assert_allclose(found.power.value[1:], 1, atol=0.05)
    for t, error in zip((0.3, 0.7), found.gaussian_error, strict=True):
        np.testing.assert_allclose(error[1:], (1 - t) ** 2 / (t**2 + (1 - t) ** 2), rtol=0.05)
    assert np.isnan(detail_spectra(Posterior(), Crops(noise * 4, [0] * 200, [0.5])).meeting).all()


def test_detail_spectra_of_shuffled_phases_have_the_same_gaussian_curves():
    crops = bundled_crops(32).sample(6, torch.Generator().manual_seed(0)).images
    both = [
        detail_spectra(lambda x, t, ids: -x, Crops(images, [0] * 6, [0.5]))
        for images in (crops.double(), phase_shuffled(crops.double()))
    ]
    np.testing.assert_allclose(both[0].power.value, both[1].power.value)
    np.testing.assert_allclose(both[0].gaussian_error, both[1].gaussian_error)
    np.testing.assert_allclose(both[0].meeting, both[1].meeting)


def test_detail_spectra_of_tiny_see_more_in_photographs_than_in_their_power():
    model = deco_lab.load("tiny", device="cpu")
    ids = torch.arange(14)
    crops = bundled_crops(64).sample(14, torch.Generator().manual_seed(3), ids).images
    photographs = detail_spectra(model, Crops(crops, ids, [0.5]))
    shuffled = detail_spectra(model, Crops(phase_shuffled(crops), ids, [0.5]))
    band = slice(1, 9)  # below 1/8 cycle per pixel
    assert photographs.error.value[0, band].sum() < 0.5 * photographs.gaussian_error[0, band].sum()
    assert shuffled.error.value[0, band].sum() > 2 * photographs.error.value[0, band].sum()


def test_detail_spectra_of_no_velocity_are_those_of_the_state():
    images = gaussian_images(4, (16, 24))
    found = detail_spectra(lambda x, t, ids: 0 * x, Crops(images, [0] * 4, [1.0]), window="hann")
    assert (found.velocity.value == 0).all()
    assert (found.error.value == 0).all()
    np.testing.assert_allclose(found.predicted.value[0], radial_power(images, "hann").power)


def test_detail_spectra_do_not_depend_on_the_batch(tmp_path):
    images = gaussian_images(5).float()
    one, all_at_once = (
        detail_spectra(Posterior(), Crops(images, [0] * 5, TIMES, batch_size=n)) for n in (1, 5)
    )
    np.testing.assert_allclose(one.error.value, all_at_once.error.value, rtol=1e-5)
    np.testing.assert_allclose(one.error.low, all_at_once.error.low, rtol=1e-4, atol=1e-6)
    one.save(tmp_path / "detail.npz")
    again = load_result(tmp_path / "detail.npz")
    assert isinstance(again, DetailSpectra)
    assert np.array_equal(again.error.value, one.error.value)
    assert again.recipe == one.recipe


def test_detail_spectra_of_half_precision_are_close():
    images = gaussian_images(4) / 20
    exact, half = (
        detail_spectra(Posterior(), Crops(kind, [0] * 4, [0.5])) for kind in (images, images.half())
    )
    np.testing.assert_allclose(half.error.value, exact.error.value, rtol=1e-2)


@pytest.mark.parametrize(
    ("model", "window", "match"),
    [
        (Posterior(), "flat", "window must be None"),
        (lambda x, t, ids: x[:, :1], None, "model must return a velocity in the shape of x"),
    ],
)
def test_detail_spectra_name_what_is_wrong(model, window, match):
    with pytest.raises(ValueError, match=match):
        detail_spectra(model, Crops(gaussian_images(2), [0, 0], [0.5]), window=window)
