from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.flow import interpolate, seeded_noise, velocity_target
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.spectra.dct import block_dct, inverse_block_dct
from deco_lab.spectra.jpeg import frequency_weights, rgb_to_ycbcr
from deco_lab.spectra.loss_bands import LossBands, favoured_parts, loss_bands, weight_table


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_coefficient(place: tuple[int, int], colour: tuple[float, float, float]) -> Tensor:
    """Return images (2, 3, 16, 16) of one coefficient of every block."""
    coefficients = torch.zeros(2, 3, 2, 2, 8, 8, dtype=torch.float64)
    coefficients[..., place[0], place[1]] = torch.tensor(colour).double()[:, None, None]
    return inverse_block_dct(coefficients)


@pytest.mark.parametrize(("quality", "gamma", "weight"), [(85, 1.0, 1.0), (30, 2.0, 0.5)])
def test_loss_bands_sum_to_the_losses(quality, gamma, weight):
    predicted, target = randn(3, 3, 16, 24), randn(3, 3, 16, 24, seed=1)
    found = loss_bands(
        predicted, target, quality=quality, gamma=gamma, frequency_weight=weight, batch_size=2
    )
    flow, frequency, total = found.loss.sum((2, 3)).mean(1)
    assert flow == pytest.approx(float(flow_matching_loss(predicted, target)), rel=1e-6)
    expected = float(frequency_loss(predicted, target, quality, gamma))
    assert frequency == pytest.approx(expected, rel=1e-6)
    assert total == pytest.approx(flow + weight * frequency, rel=1e-12)
    assert found.channels.sum(0).mean() == pytest.approx(frequency, rel=1e-12)


def test_loss_bands_gradients_are_those_of_autograd():
    """Squares of the gradients' DCT, coefficient by coefficient, each image by itself."""
    predicted, target = randn(2, 3, 16, 24), randn(2, 3, 16, 24, seed=1)
    found = loss_bands(predicted, target, quality=60, gamma=1.5, frequency_weight=0.7)
    for image in range(2):
        ours, theirs = predicted[image : image + 1].float(), target[image : image + 1].float()
        ours.requires_grad_()
        flow = flow_matching_loss(ours, theirs)
        frequency = frequency_loss(ours, theirs, 60, 1.5)
        for term, value in enumerate([flow, frequency, flow + 0.7 * frequency]):
            (gradient,) = torch.autograd.grad(value, ours, retain_graph=True)
            expected = block_dct(gradient.double()).square().sum((0, 1, 2, 3))
            np.testing.assert_allclose(found.gradient[term, image], expected, rtol=1e-4)


def test_loss_bands_of_a_batch_have_its_gradient():
    predicted, target = randn(4, 3, 16, 16), randn(4, 3, 16, 16, seed=1)
    found = loss_bands(predicted, target)
    ours = predicted.float().requires_grad_()
    loss = flow_matching_loss(ours, target) + frequency_loss(ours, target.float())
    (gradient,) = torch.autograd.grad(loss, ours)
    expected = float(gradient.double().square().sum())
    assert found.gradient[2].sum() / 4**2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("place", "band"), [((0, 0), 0), ((0, 1), 1), ((2, 1), 2), ((7, 7), 3)])
def test_loss_bands_put_one_coefficient_into_its_band(place, band):
    error = one_coefficient(place, (1, 2, 3))
    found = loss_bands(error, torch.zeros_like(error))
    for of in ("loss", "gradient"):
        shares = found.shares(of)
        np.testing.assert_allclose(shares[:, place[0], place[1]], 1)
        for estimates in found.band_shares(of).values():
            values = [estimate.value for estimate in estimates]
            np.testing.assert_allclose(values, np.eye(4)[band], atol=1e-12)


def test_loss_bands_weigh_grey_once_in_the_loss_and_twice_in_the_gradient():
    """Grey has only Y, and M^T diag(w) M grey = w_Y (0.299, 0.587, 0.114)."""
    error = one_coefficient((2, 3), (1, 1, 1))
    found = loss_bands(error, torch.zeros_like(error))
    w = float(frequency_weights()[0, 2, 3])
    flow, frequency, _ = found.loss[:, 0, 2, 3]
    assert frequency / flow == pytest.approx(w / 3)
    squares = 0.299**2 + 0.587**2 + 0.114**2
    flow, frequency, _ = found.gradient[:, 0, 2, 3]
    assert frequency / flow == pytest.approx(w**2 * squares / 3, rel=1e-5)
    np.testing.assert_allclose(found.channels[1:], 0, atol=1e-12)


def test_loss_bands_of_white_noise_are_even_in_fm_and_the_weights_in_freqfm():
    """The null: a white error shows the weights and nothing else."""
    luminance = randn(32, 1, 64, 64).expand(-1, 3, -1, -1)
    found = loss_bands(luminance, torch.zeros_like(luminance))
    np.testing.assert_allclose(found.shares()[0], np.full((8, 8), 1 / 64), rtol=0.12)
    np.testing.assert_allclose(found.shares()[1], frequency_weights()[0].numpy() / 64, rtol=0.12)
    assert found.shares()[0].sum() == pytest.approx(1)
    counts = [(found.band_of == k).sum() / 64 for k in range(4)]
    for estimate, count in zip(found.band_shares()["FM"], counts, strict=True):
        assert estimate.value == pytest.approx(count, rel=0.05)


def test_loss_bands_of_a_perfect_prediction_are_nan():
    images = randn(2, 3, 16, 16)
    found = loss_bands(images, images)
    assert not found.loss.any()
    assert np.isnan(found.shares()).all()
    assert np.isnan(found.band_shares()["total"][0].value)


def test_loss_bands_of_tiny_shift_its_gradient_below_a_quarter():
    from deco_lab.data import bundled_crops

    model = deco_lab.load("tiny", device="cpu")
    images, class_ids = bundled_crops(64).sample(8, torch.Generator().manual_seed(5))
    noise = seeded_noise(8, (3, 64, 64), 0)
    with torch.no_grad():
        predicted = model(interpolate(images, noise, 0.5), torch.full((8,), 0.5), class_ids)
    found = loss_bands(predicted, velocity_target(images, noise))
    for of in ("loss", "gradient"):
        shares = found.band_shares(of)
        assert sum(e.value for e in shares["total"]) == pytest.approx(1)
        assert shares["FreqFM"][3].high < shares["FM"][3].low


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_loss_bands_take_narrow_types(dtype):
    predicted, target = randn(2, 3, 16, 16).to(dtype), randn(2, 3, 16, 16, seed=1).to(dtype)
    found = loss_bands(predicted, target)
    np.testing.assert_array_equal(found.loss, loss_bands(predicted.double(), target.double()).loss)


def test_loss_bands_say_what_is_wrong():
    images = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"shape of predicted, \(1, 3, 16, 16\)"):
        loss_bands(images, images[..., :8])
    with pytest.raises(ValueError, match=r"multiples of 8.*crop both to 16 x 8"):
        loss_bands(images[..., :12], images[..., :12])
    with pytest.raises(ValueError, match="predicted and target must be finite"):
        loss_bands(images * torch.nan, images)
    with pytest.raises(ValueError, match="hold pixels"):
        loss_bands(images[:0], images[:0])
    with pytest.raises(ValueError, match="frequency_weight must be at least 0, got -1"):
        loss_bands(images, images, frequency_weight=-1)
    with pytest.raises(ValueError, match="quality must be a whole number"):
        loss_bands(images, images, quality=0)
    with pytest.raises(ValueError, match="of must be loss or gradient, got 'x'"):
        loss_bands(images, images).shares("x")


def test_loss_bands_are_saved_with_their_recipe(tmp_path: Path):
    found = loss_bands(randn(2, 3, 16, 16), randn(2, 3, 16, 16, seed=1), quality=50)
    found.save(tmp_path / "loss.npz")
    again = LossBands.load(tmp_path / "loss.npz")
    np.testing.assert_array_equal(again.gradient, found.gradient)
    assert again.bands == ("below 1/16", "1/16 to 1/8", "1/8 to 1/4", "above 1/4")
    assert again.recipe["quality"] == 50


def test_weight_table_is_even_at_quality_100_and_at_gamma_0():
    table = weight_table((50, 100), (0.0, 1.0))
    for values in (table.effective[:, 1] / 64, table.effective[:, :, 0] / 64):
        np.testing.assert_allclose(values, 1)
    np.testing.assert_allclose(table.share_above[:, 1], 49 / 64)
    np.testing.assert_allclose(table.largest[:, 1], 1)


def test_weight_table_holds_the_weights_of_the_loss():
    table = weight_table((85,), (1.0,))
    np.testing.assert_array_equal(table.weights[0, 0, 0], frequency_weights()[0])
    np.testing.assert_array_equal(table.weights[1, 0, 0], frequency_weights()[2])
    assert table.smallest[0, 0, 0] == pytest.approx(0.28, abs=0.005)
    assert table.largest[0, 0, 0] == pytest.approx(3.36, abs=0.005)
    assert table.mean[0, 0, 0] == pytest.approx(2.0, abs=0.05)


def test_weight_table_shows_quality_as_nearly_dead_and_gamma_as_alive():
    table = weight_table((50, 75, 85, 90), (0.5, 1.0, 2.0))
    over_quality = np.ptp(table.share_above[0], axis=0)
    over_gamma = np.ptp(table.share_above[0], axis=1)
    assert over_quality.max() < 0.025
    assert over_gamma.min() > 0.35


def test_weight_table_needs_values():
    with pytest.raises(ValueError, match="must each hold a value"):
        weight_table(())


# What weights favour.


def test_favoured_parts_sum_to_the_images():
    images = randn(2, 3, 16, 24)
    favoured, neglected = favoured_parts(images, frequency_weights())
    np.testing.assert_allclose(favoured + neglected, images, atol=1e-12)


def test_favoured_parts_hold_their_own_coefficients():
    weights = frequency_weights()
    favoured, neglected = favoured_parts(randn(2, 3, 16, 24), weights)
    ours, theirs = (
        block_dct(rgb_to_ycbcr(part)).square().mean((0, 2, 3)) for part in (favoured, neglected)
    )
    heavy = weights > 1
    assert ours[~heavy].max() < 1e-20 < ours[heavy].min()
    assert theirs[heavy].max() < 1e-20 < theirs[~heavy].min()


@pytest.mark.parametrize(("quality", "gamma"), [(100, 1.0), (85, 0.0)])
def test_favoured_parts_neglect_nothing_where_weights_are_even(quality, gamma):
    _, neglected = favoured_parts(randn(1, 3, 8, 8), frequency_weights(quality, gamma))
    np.testing.assert_allclose(neglected, 0, atol=1e-12)


def test_favoured_parts_refuse_other_shapes():
    for images, weights in [
        ((1, 3, 12, 8), (3, 8, 8)),
        ((1, 1, 8, 8), (3, 8, 8)),
        ((1, 3, 8, 8), (8, 8)),
    ]:
        with pytest.raises(ValueError, match="multiples of 8 and weights"):
            favoured_parts(torch.zeros(images), torch.ones(weights))
