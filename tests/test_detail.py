from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.data import bundled_crops
from deco_lab.gaussian import posterior_power, velocity_gain
from deco_lab.spectra import load_analysis, phase_shuffled, radial_power
from deco_lab.spectra.detail import detail_spectra
from deco_lab.spectra.frequencies import ring_of_frequencies

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
    found = detail_spectra(Posterior(), images, [0] * 3000, times=TIMES, batch_size=500)
    np.testing.assert_allclose(found.power, power_of(torch.arange(9)), rtol=0.04)
    for name in ("predicted", "error", "velocity"):
        measured, curve = getattr(found, name), getattr(found, f"gaussian_{name}")
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
    found = detail_spectra(ClassFilter(), images, ids, times=TIMES, batch_size=500)
    for name in ("predicted", "error", "velocity"):
        measured, curve = getattr(found, name), getattr(found, f"gaussian_{name}")
        np.testing.assert_allclose(measured[:, 1:], curve[:, 1:], rtol=0.05)
    by_colour = posterior_power(found.power, np.array(TIMES)[:, None])
    assert (found.error[2, 1:] < 0.36 * by_colour[2, 1:]).all()  # a third, at t = 0.9


def test_detail_spectra_intervals_cover_the_posterior_about_as_often_as_they_say():
    images = gaussian_images(3200, (8, 8))
    covered = []
    for chosen in images.split(16):
        found = detail_spectra(Posterior(), chosen, [0] * 16, times=[0.5], seed=len(covered) * 16)
        S = power_of(torch.arange(5)).numpy()
        truth = S / (S + 1)  # S (1 - t)^2 / (t^2 S + (1 - t)^2) at t = 0.5
        covered.append((found.error_low[0] <= truth) & (truth <= found.error_high[0]))
    assert 0.89 < np.mean(covered) < 0.975  # 16 skewed values each; 0.95 for many


def test_detail_spectra_of_white_noise_know_no_frequency():
    noise = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = detail_spectra(Posterior(), noise, [0] * 200, times=[0.3, 0.7])
    np.testing.assert_allclose(found.power[1:], 1, atol=0.05)
    for t, error in zip((0.3, 0.7), found.gaussian_error, strict=True):
        np.testing.assert_allclose(error[1:], (1 - t) ** 2 / (t**2 + (1 - t) ** 2), rtol=0.05)
    assert np.isnan(detail_spectra(Posterior(), noise * 4, [0] * 200, times=[0.5]).meeting).all()


def test_detail_spectra_of_shuffled_phases_have_the_same_gaussian_curves():
    crops = bundled_crops(32).sample(6, torch.Generator().manual_seed(0)).images
    both = [
        detail_spectra(lambda x, t, ids: -x, images, [0] * 6, times=[0.5])
        for images in (crops.double(), phase_shuffled(crops.double()))
    ]
    np.testing.assert_allclose(both[0].power, both[1].power)
    np.testing.assert_allclose(both[0].gaussian_error, both[1].gaussian_error)
    np.testing.assert_allclose(both[0].meeting, both[1].meeting)


def test_detail_spectra_of_tiny_see_more_in_photographs_than_in_their_power():
    model = deco_lab.load("tiny", device="cpu")
    ids = torch.arange(14)
    crops = bundled_crops(64).sample(14, torch.Generator().manual_seed(3), ids).images
    photographs = detail_spectra(model, crops, ids, times=[0.5])
    shuffled = detail_spectra(model, phase_shuffled(crops), ids, times=[0.5])
    band = slice(1, 9)  # below 1/8 cycle per pixel
    assert photographs.error[0, band].sum() < 0.5 * photographs.gaussian_error[0, band].sum()
    assert shuffled.error[0, band].sum() > 2 * photographs.error[0, band].sum()


def test_detail_spectra_of_no_velocity_are_those_of_the_state():
    images = gaussian_images(4, (16, 24))
    found = detail_spectra(lambda x, t, ids: 0 * x, images, [0] * 4, times=[1.0], window="hann")
    assert (found.velocity == 0).all()
    assert (found.error == 0).all()
    np.testing.assert_allclose(found.predicted[0], radial_power(images, "hann").power)


def test_detail_spectra_do_not_depend_on_the_batch(tmp_path):
    images = gaussian_images(5).float()
    one, all_at_once = (
        detail_spectra(Posterior(), images, [0] * 5, times=TIMES, batch_size=n) for n in (1, 5)
    )
    np.testing.assert_allclose(one.error, all_at_once.error, rtol=1e-5)
    np.testing.assert_allclose(one.error_low, all_at_once.error_low, rtol=1e-4, atol=1e-6)
    one.save(tmp_path / "detail.npz")
    again = load_analysis(tmp_path / "detail.npz")
    assert np.array_equal(getattr(again, "error"), one.error)  # noqa: B009
    assert again.recipe == one.recipe


def test_detail_spectra_of_half_precision_are_close():
    images = gaussian_images(4) / 20
    exact, half = (
        detail_spectra(Posterior(), kind, [0] * 4, times=[0.5]) for kind in (images, images.half())
    )
    np.testing.assert_allclose(half.error, exact.error, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": gaussian_images(2) * float("nan")}, "images must be finite"),
        ({"window": "flat"}, "window must be None"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"times": [2]}, "times must be"),
        ({"model": lambda x, t, ids: x[:, :1]}, "model must return a velocity in the shape of x"),
    ],
)
def test_detail_spectra_name_what_is_wrong(change, match):
    given: dict[str, Any] = {
        "model": Posterior(),
        "images": gaussian_images(2),
        "class_ids": [0, 0],
        "times": [0.5],
    }
    with pytest.raises(ValueError, match=match):
        detail_spectra(**given | change)
