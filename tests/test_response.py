"""The path-resolved linear response, against closed forms and finite differences."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.fast.build import KernelError
from deco_lab.gaussian import velocity_gain, wiener_filter
from deco_lab.labels import Labels
from deco_lab.models import DeCo
from deco_lab.spectra.bands import MEAN_AND_OCTAVES, band_of_frequencies
from deco_lab.spectra.frequencies import mirrored, radial_frequency
from deco_lab.spectra.response import PATHS, BandResponse, _responses, band_response
from deco_lab.spectra.states import Batch, Crops

P, T = 4, 0.3
LABELS = [0, 1, 2, 0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Linear:
    """velocity = a (patch mean, through the condition) + b (own pixel)."""

    config = SimpleNamespace(patch_size=P, num_classes=3)
    a, b = 0.7, -0.4

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return F.avg_pool2d(x, P).flatten(2).transpose(1, 2)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        grid = condition.transpose(1, 2).reshape(len(x), -1, x.shape[2] // P, x.shape[3] // P)
        return self.a * F.interpolate(grid, scale_factor=P, mode="nearest") + self.b * x


def mean_over_bands(filtered: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mean of a filter of rfft2 coefficients over each band."""
    band = band_of_frequencies(height, width, MEAN_AND_OCTAVES).numpy()
    copies = np.broadcast_to(mirrored(width).numpy(), band.shape)
    return np.array([np.average(filtered[band == k], weights=copies[band == k]) for k in range(5)])


def dirichlet(size: int, frequencies: np.ndarray) -> np.ndarray:
    """Return the amplitude that the mean of P neighbours leaves of a wave."""
    with np.errstate(invalid="ignore"):
        kernel = np.sin(np.pi * P * frequencies) / (P * np.sin(np.pi * frequencies))
    return np.where(frequencies == 0, 1, kernel)


@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
@pytest.mark.parametrize("of", ["predicted", "velocity"])
def test_band_response_of_a_linear_deco_is_its_closed_form(size, of):
    H, W = size
    images = noise(24, 3, H, W)
    found = band_response(Linear(), Crops(images, [0] * 24, [T]), of=of)
    weight = 1 - T if of == "predicted" else 1
    direct = weight * Linear.b + (of == "predicted")
    np.testing.assert_allclose(found.gain.value[0, 0], direct, rtol=1e-5)
    kernel = np.outer(dirichlet(H, np.fft.fftfreq(H)), dirichlet(W, np.fft.rfftfreq(W)))
    through = weight * Linear.a * mean_over_bands(kernel**2, H, W)
    np.testing.assert_allclose(found.gain.value[0, 1], through, atol=0.01)
    np.testing.assert_allclose(
        found.gain.value[0, 2], found.gain.value[0, 0] + found.gain.value[0, 1], rtol=1e-6
    )
    # A pixel's own slope keeps to its frequency; the patch mean writes aliases of it.
    np.testing.assert_allclose(found.leaving.value[0, 0], 0, atol=1e-9)
    assert (found.leaving.value[0, 1, 2:] > 1e-3).all()
    np.testing.assert_allclose(found.linear.value[0, 2], 1, rtol=1e-4)


def test_band_response_power_that_leaves_is_what_energy_the_band_does_not_keep():
    images = noise(24, 3, 32, 32)
    found = band_response(Linear(), Crops(images, [0] * 24, [T]), of="velocity")
    # A projection: |A d|^2 = <A d, d>, of which the band itself holds part.
    whole = Linear.a * found.gain.value[0, 1]
    assert (found.leaving.value[0, 1] < whole).all()
    alone = band_response(Linear(), Crops(images, [0] * 24, [T]), of="velocity", edges=())
    np.testing.assert_allclose(alone.leaving.value[0, 1], 0, atol=1e-9)


class Wiener:
    """The best velocity for Gaussian images of power 0.02 / f^2."""

    @staticmethod
    def power(height: int, width: int) -> np.ndarray:
        return 0.02 / radial_frequency(height, width, half=True).clamp(min=1 / height).numpy() ** 2

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        gain = torch.from_numpy(velocity_gain(self.power(*x.shape[-2:]), float(t[0])))
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=x.shape[-2:]).to(x.dtype)


def test_band_response_of_a_wiener_filter_is_its_gain():
    found = band_response(Wiener(), Crops(noise(24, 3, 32, 40), [0] * 24, [0.2, 0.8]))
    assert found.paths == PATHS[-1:]
    for row, t in enumerate((0.2, 0.8)):
        gain = mean_over_bands(wiener_filter(Wiener.power(32, 40), t), 32, 40)
        np.testing.assert_allclose(found.gain.value[row, 0], gain, rtol=0.03)
        low, high = found.gain.low[row, 0], found.gain.high[row, 0]
        assert (low < gain).all()
        assert (gain < high).all()
    np.testing.assert_allclose(found.leaving.value, 0, atol=1e-9)
    np.testing.assert_allclose(found.linear.value, 1, rtol=1e-5)


def random_deco(dtype: torch.dtype = torch.float32) -> DeCo:
    model = DeCo(
        DeCoConfig(
            image_size=16,
            patch_size=P,
            num_classes=3,
            hidden_size=16,
            num_heads=2,
            depth=2,
            decoder_depth=2,
            decoder_width=8,
        )
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.to(dtype).requires_grad_(False).eval()


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_responses_by_path_sum_to_the_whole_derivative(size, dtype):
    model, x = random_deco(dtype), noise(2, 3, *size).to(dtype)
    delta = noise(2, 3, *size, seed=1).to(dtype)
    batch = Batch(first=0, time=T, t=torch.full((2,), T), labels=Labels(torch.tensor([0, 2])), x=x)
    with torch.no_grad():
        condition = model.condition(x, batch.t, batch.class_ids)
        direct, through, total = _responses(model, batch, condition, delta)
        whole = _responses(model, batch, None, delta)[0]
        step = 1e-6 if dtype == torch.float64 else 1e-2
        ends = [model(x + e * delta, batch.t, batch.class_ids) for e in (step, -step)]
        held = [model.decode(x + e * delta, condition) for e in (step, -step)]
    assert direct.norm() > 0.01 * whole.norm() < through.norm()
    torch.testing.assert_close(direct + through, total)
    rounding = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(total, whole, rtol=rounding, atol=rounding)
    near = 1e-7 if dtype == torch.float64 else 0.02
    for derivative, (up, down) in ((whole, ends), (direct, held)):
        difference = (up - down) / (2 * step)
        assert (difference - derivative).norm() < near * derivative.norm()


def test_band_response_of_the_velocity_and_of_the_predicted_image_agree():
    images = noise(4, 3, 16, 24)
    predicted, velocity = (
        band_response(random_deco(), Crops(images, LABELS, [T]), of=of)
        for of in ("predicted", "velocity")
    )
    own = np.array([1, 0, 1])[:, None]
    np.testing.assert_allclose(
        predicted.gain.value[0], own + (1 - T) * velocity.gain.value[0], atol=1e-5
    )
    np.testing.assert_allclose(
        predicted.leaving.value, (1 - T) ** 2 * velocity.leaving.value, rtol=1e-4
    )


def test_band_response_parts_the_mean_colour_off():
    class Mean(Linear):
        def decode(self, x: Tensor, condition: Tensor) -> Tensor:
            return x.mean((2, 3), keepdim=True).expand_as(x)

    found = band_response(Mean(), Crops(noise(4, 3, 32, 32), LABELS, [T]), of="velocity")
    np.testing.assert_allclose(found.gain.value[0, 0], [1, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.leaving.value, 0, atol=1e-12)


def test_band_response_takes_a_model_loaded_fast():
    plain = deco_lab.load("tiny", device="cpu")
    try:
        fast = deco_lab.load("tiny", device="cpu", fast=True)
    except KernelError as error:
        pytest.skip(str(error))
    found, expected = (
        band_response(m, Crops(noise(1, 3, 64, 64), [0], [T]), edges=()) for m in (fast, plain)
    )
    np.testing.assert_allclose(found.gain.value, expected.gain.value, atol=1e-5)


@pytest.mark.slow
def test_band_response_of_tiny_goes_through_the_dit_below_and_is_flat_beside_it():
    from deco_lab.data import bundled_crops

    crops = bundled_crops(64).sample(14, torch.Generator().manual_seed(0), torch.arange(14))
    found = band_response(
        deco_lab.load("tiny", device="cpu"), Crops(crops.images, crops.class_ids, [0.5])
    )
    direct, through, _ = found.gain.value[0]
    np.testing.assert_allclose(direct, 0.01, atol=0.02)
    np.testing.assert_allclose(through[1:], [0.24, 0.14, 0.07, 0.006], rtol=0.35)


def test_band_response_of_one_group_knows_no_interval():
    images, edges = noise(4, 3, 16, 16), (1 / 8,)
    one, each = (
        band_response(Linear(), Crops(images, LABELS, [T], groups=groups), edges=edges)
        for groups in (["one photograph"] * 4, None)
    )
    np.testing.assert_array_equal(one.gain.value, each.gain.value)
    assert np.isnan(one.gain.low).all()
    assert np.isfinite(each.gain.low).all()


def test_band_response_comes_back_from_a_file(tmp_path):
    found = band_response(random_deco(), Crops(noise(4, 3, 16, 16), LABELS, [T]))
    found.save(tmp_path / "response.npz")
    again = BandResponse.load(tmp_path / "response.npz")
    np.testing.assert_array_equal(again.gain.value, found.gain.value)
    assert again.paths == PATHS
    assert again.recipe["weights"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"of": "noise"}, "of must be one of predicted, velocity, got 'noise'"),
        ({"edges": (0.3, 0.2)}, "edges must rise"),
    ],
)
def test_band_response_names_what_is_wrong(change: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        band_response(Linear(), Crops(torch.zeros(1, 3, 8, 8), [0], [0.5]), **change)
