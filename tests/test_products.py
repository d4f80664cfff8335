import pytest
import torch

from deco_lab.spectra import band_shares, radial_power
from deco_lab.spectra.products import (
    band_products,
    ring_counts,
    ring_frequencies,
    ring_products,
)

SIZES = [(16, 16), (16, 24), (15, 18), (8, 7)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [None, "hann"])
def test_ring_products_of_images_with_themselves_are_their_radial_power(size, window):
    images = draw(5, 3, *size)
    power = radial_power(images, window)
    found = ring_products(images, images, window).mean(0)
    torch.testing.assert_close(found, power.power)
    torch.testing.assert_close(ring_frequencies(*size), power.frequency)


def test_ring_products_match_the_full_fft():
    a, b = draw(2, 2, 3, 12, 12)
    full = (torch.fft.fft2(a) * torch.fft.fft2(b).conj()).mean(1) / 144
    assert full.sum((1, 2)).imag.abs().max() < 1e-12
    grid = torch.fft.fftfreq(12, dtype=torch.float64)
    ring = (torch.hypot(grid[:, None], grid) * 12).add(0.5).floor()
    for index in range(7):
        expected = full.real[:, ring == index].mean(1)
        torch.testing.assert_close(ring_products(a, b)[:, index], expected)
    assert ring_counts(12, 12).tolist() == [(ring == k).sum().item() for k in range(7)]


def test_ring_products_take_several_parts_at_once():
    parts, whole = draw(4, 2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    found = ring_products(parts, whole)
    assert found.shape == (4, 2, 5)
    torch.testing.assert_close(found[3], ring_products(parts[3], whole))


@pytest.mark.parametrize("size", SIZES)
def test_band_products_sum_to_the_mean_product(size):
    a, b = draw(2, 4, 3, *size)
    torch.testing.assert_close(band_products(a, b).sum(-1), (a * b).mean((1, 2, 3)))


def test_band_products_give_band_shares():
    part, whole = draw(2, 4, 3, 16, 24)
    sums = band_products(torch.stack([part, whole]), whole, (0.1, 0.3)).sum(1)
    torch.testing.assert_close(sums[0] / sums[1], band_shares(part, whole, (0.1, 0.3)))


def test_products_of_half_precision_are_summed_in_float64():
    images = draw(2, 3, 16, 16).half()
    torch.testing.assert_close(
        band_products(images, images).sum(-1), images.double().square().mean((1, 2, 3))
    )
    assert ring_products(images, images).dtype == torch.float64


def test_ring_products_refuse_an_unknown_window():
    with pytest.raises(ValueError, match="window must be None or \"hann\", got 'boxcar'"):
        ring_products(draw(1, 1, 8, 8), draw(1, 1, 8, 8), "boxcar")
