from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.flow import interpolate, seeded_noise
from deco_lab.result import load_result
from deco_lab.spectra.states import Crops, Run
from deco_lab.spectra.taps import tap_spectrum

TIMES = (0.25, 0.75)


def crops(count: int = 5, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Waves:
    """Tokens are one cosine of known index on a 8 x 8 grid; the velocity is one on pixels."""

    config = SimpleNamespace(num_classes=4, patch_size=4)

    def wave(self, n: int, u: int, v: int) -> Tensor:
        at = torch.arange(n, dtype=torch.float64)
        across = [torch.cos(torch.pi * (2 * at + 1) * k / (2 * n)) for k in (u, v)]
        return across[0][:, None] * across[1]

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        channels = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
        return (self.wave(8, 3, 4)[..., None] * channels).flatten(0, 1).expand(len(x), -1, -1)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        tiled = self.wave(8, 0, 6).repeat(x.shape[-2] // 8, x.shape[-1] // 8)
        return tiled.expand_as(x) * (1 + t)[:, None, None, None]


def test_tap_spectrum_of_waves_is_one_coefficient_on_its_own_axis():
    tokens = tap_spectrum(Waves(), Crops(crops(), [0] * 5, TIMES))
    expected = np.zeros((8, 8))
    expected[3, 4] = 4 * 4 * np.mean(np.square([1, 2, 3, 4]))  # (a_3 a_4 n / 2 . n / 2)^2 = n^2 / 4
    np.testing.assert_allclose(tokens.energy.value, np.broadcast_to(expected, (3, 8, 8)), atol=1e-9)
    assert tokens.patch_size == 4
    assert tokens.frequency[-1] == 1 / 8  # Nyquist of tokens of 4 pixels
    assert tokens.radial.value[0].argmax() == 5  # hypot(3, 4)
    assert tokens.frequency[5] == 5 / 16 / 4

    velocity = tap_spectrum(Waves(), Crops(crops(), [0] * 5, TIMES), tap="velocity")
    assert velocity.patch_size == 1
    assert velocity.frequency[-1] == 0.5
    assert velocity.radial.value[0].argmax() == 6
    # sqrt(1/8) sqrt(2/8) 8 . 4 = n / sqrt(2), times 1 + t
    np.testing.assert_allclose(velocity.energy.value[:2, 0, 6], 32 * (1 + np.array(TIMES)) ** 2)
    np.testing.assert_allclose(
        velocity.energy.value[2], velocity.energy.value[:2].mean(0), atol=1e-9
    )


class Copying:
    """Tokens of 4 x 4 pixels are A noise + B image, each of its own patch; velocity is noise."""

    config = SimpleNamespace(num_classes=40, patch_size=4)

    def __init__(self, images: Tensor, copied: float, kept: float) -> None:
        self.images = images
        self.A, self.B = (
            gain * torch.randn(48, 5, generator=torch.Generator().manual_seed(seed)).double()
            for gain, seed in ((copied, 3), (kept, 4))
        )

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        image = self.images[class_ids]
        noise = (x - t[0] * image) / (1 - t[0])
        cut = [F.pixel_unshuffle(v.double(), 4).flatten(2).mT for v in (noise, image)]
        return cut[0] @ self.A + cut[1] @ self.B + 3

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return -(x - t[0] * self.images[class_ids]) / (1 - t[0])


def test_tap_spectrum_without_noise_is_that_of_the_rest():
    white = crops(40).double()
    images = white + white.roll(4, 2) + white.roll(4, 3)  # tokens like their neighbours
    found, rest, noisy = (
        tap_spectrum(
            Copying(images, copied, 1.0), Crops(images, range(40), [0.5]), without_noise=without
        )
        for copied, without in ((2.0, True), (0.0, False), (2.0, False))
    )
    size = rest.energy.value[0].mean()
    np.testing.assert_allclose(found.energy.value[0], rest.energy.value[0], atol=0.15 * size)
    assert found.energy.value[0].mean() == pytest.approx(size, rel=0.01)
    assert noisy.energy.value[0].mean() > 1.5 * size
    model = Copying(images, 2.0, 1.0)
    clean = F.pixel_unshuffle(images, 4).flatten(2).mT @ model.B
    varied = float((clean - clean.mean((0, 1))).square().mean((0, 1)).sum())
    copied = float(model.A.square().sum())
    assert found.noise_share.value[0] == pytest.approx(copied / (copied + varied), abs=0.01)
    assert found.noise_share.low[0] < found.noise_share.value[0] < found.noise_share.high[0]
    assert (noisy.noise_share.value == 0).all()


def test_tap_spectrum_without_noise_finds_none_where_there_is_none():
    images = crops(40).double()
    for tap, share in (("tokens", 0.0), ("velocity", 1.0)):
        found = tap_spectrum(
            Copying(images, 0.0, 1.0), Crops(images, range(40), [0.5]), tap=tap, without_noise=True
        )
        assert found.noise_share.value[0] == pytest.approx(share, abs=0.01)


def test_tap_spectrum_without_noise_has_intervals_where_an_energy_is_below_0():
    images = crops(12).double().mean((2, 3), keepdim=True).expand(-1, -1, 32, 32)
    found = tap_spectrum(
        Copying(images, 0.0, 1e3), Crops(images, range(12), [0.5]), without_noise=True
    )
    assert found.energy.value.min() < -1
    for name in ("energy", "radial", "curve", "radial_curve"):
        value, low, high = getattr(found, name).ends
        assert np.isfinite([low, high]).all()
        assert (low <= value).all()
        assert (value <= high).all()


def test_tap_spectrum_without_noise_says_what_it_needs():
    two_groups = Crops(crops(9), [0] * 9, TIMES, groups=[0, 1] * 4 + [0])
    for states, average, match in (
        (two_groups, "power", "needs three groups"),
        (two_groups, "log", 'needs average="power"'),
        (Run([], [0]), "power", "states must be Crops"),
    ):
        with pytest.raises(ValueError, match=match):
            tap_spectrum(Waves(), states, without_noise=True, average=average)


def test_tap_spectrum_equals_scipys_dct_of_the_models_tokens(golden_deco):
    images, t = crops(3, 16), 0.5
    x = interpolate(images, seeded_noise(3, (3, 16, 16), 7), t)
    labels = torch.tensor([1, 2, 10])
    found = tap_spectrum(golden_deco, Crops(images, labels, [t], seed=7), tap="condition")
    with torch.no_grad():
        condition = golden_deco.condition(x, torch.full((3,), t), labels).double()
    n = round(condition.shape[1] ** 0.5)
    grid = condition.reshape(3, n, n, -1).numpy()
    energy = np.square(np.asarray(scipy.fft.dctn(grid, axes=(1, 2), norm="ortho"))).mean((0, 3))
    np.testing.assert_allclose(found.energy.value[0], energy, rtol=1e-5)
    curve = np.log1p(found.energy.value[0])
    assert found.curve.value[0].max() == 1
    np.testing.assert_allclose(
        np.sort(found.curve.value[0]), np.sort((curve / curve.max()).ravel())
    )


def test_tap_spectrum_of_the_predicted_image_of_a_perfect_model_is_the_images():
    class Perfect:
        config = SimpleNamespace(num_classes=4)

        def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
            return (images[class_ids].double() - x) / (1 - t[:, None, None, None])

    images = crops(4)
    blocks = images.double().reshape(4, 3, 4, 8, 4, 8).numpy()
    energy = np.square(np.asarray(scipy.fft.dctn(blocks, axes=(3, 5), norm="ortho"))).mean(
        (0, 1, 2, 4)
    )
    found = tap_spectrum(
        Perfect(), Crops(images.double(), range(4), [0.3, 0.9], batch_size=3), tap="predicted_image"
    )
    np.testing.assert_allclose(found.energy.value, np.broadcast_to(energy, (3, 8, 8)), rtol=1e-5)


def test_tap_spectrum_of_logs_is_the_geometric_mean():
    images = crops(4) * torch.tensor([1e-3, 0.1, 1.0, 10.0]).reshape(-1, 1, 1, 1)

    def model(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return images[class_ids]

    labels = [0, 1, 2, 3]
    found = tap_spectrum(model, Crops(images, labels, [0.5]), tap="velocity", average="log")
    each = [
        tap_spectrum(model, Crops(images[i][None], [i], [0.5]), tap="velocity").energy.value[0]
        for i in labels
    ]
    np.testing.assert_allclose(found.energy.value[0], np.exp(np.mean(np.log(each), 0)), rtol=1e-6)


def test_tap_spectrum_begins_its_blocks_at_the_offset():
    steps = torch.ones(1, 1, 32, 32)
    steps[..., 4:, :] = -1  # a step at row 4, on the grid of blocks that begin there

    def model(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return steps.expand_as(x)

    aligned, off = (
        tap_spectrum(model, Crops(crops(1), [0], [0.5]), tap="velocity", offset=offset)
        for offset in (4, 0)
    )
    assert aligned.energy.value[0, 1:].sum() < 1e-9
    assert off.energy.value[0, 1:, 0].sum() > 1
    assert aligned.recipe["offset"] == 4


def test_tap_spectrum_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(120):
        images = torch.randn(24, 1, 8, 8, generator=generator)
        images *= torch.randn(24, 1, 1, 1, generator=generator).mul(0.3).exp()

        def model(x: Tensor, t: Tensor, class_ids: Tensor, images: Tensor = images) -> Tensor:
            return images[class_ids]

        found = tap_spectrum(model, Crops(images, range(24), [0.5], batch_size=24), tap="velocity")
        truth = np.exp(2 * 0.3**2)  # E[exp(2 * 0.3 z)]
        covered.append((found.radial.low[0] <= truth) & (truth <= found.radial.high[0]))
    assert 0.9 < np.mean(covered) < 0.975


def test_run_tap_spectrum_is_that_of_the_states(golden_deco):
    images = crops(2, 16)
    x = interpolate(images, seeded_noise(2, (3, 16, 16), 3), 0.5)
    steps: Any = [SimpleNamespace(t=0.5, x=x), SimpleNamespace(t=1.0, x=x)]
    run = tap_spectrum(golden_deco, Run(steps, [1, 2], batch_size=1))
    noisy = tap_spectrum(golden_deco, Crops(images, [1, 2], [0.5], seed=3))
    np.testing.assert_allclose(run.energy.value, noisy.energy.value, rtol=1e-5)
    assert run.times.tolist() == [0.5]
    assert run.recipe["states"] == "sampling run"


def test_tap_spectrum_of_a_single_dit_has_no_condition(golden_dit):
    images = crops(2, 16)
    assert tap_spectrum(golden_dit, Crops(images, [1, 2], [0.5])).patch_size > 1
    with pytest.raises(ValueError, match='tap "condition" needs a model with the method condition'):
        tap_spectrum(golden_dit, Crops(images, [1, 2], [0.5]), tap="condition")
    with pytest.raises(ValueError, match="tap must be one of tokens, condition, velocity, pred"):
        tap_spectrum(golden_dit, Crops(images, [1, 2], [0.5]), tap="logits")


def test_tap_spectrum_of_one_image_has_no_interval_and_saves(tmp_path):
    found = tap_spectrum(Waves(), Crops(crops(1), [0], TIMES))
    assert np.isnan(found.energy.low).all()
    found.save(tmp_path / "tap.npz")
    again: Any = load_result(tmp_path / "tap.npz")
    np.testing.assert_array_equal(again.each, found.each)
    assert again.tap == "tokens"
    assert again.recipe == dict(found.recipe)


def test_row_is_that_of_a_time_or_of_their_mean():
    found = tap_spectrum(Waves(), Crops(crops(1), [0], TIMES))
    assert (found.row(0.25), found.row(0.75), found.row()) == (0, 1, 2)
    with pytest.raises(ValueError, match=r"t must be one of the times .* 0.25, 0.75, got 0.5"):
        found.row(0.5)
