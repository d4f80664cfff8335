import numpy as np
import pytest
import torch
from scipy.signal import get_window

from deco_lab.spectra import band_shares, split_bands
from deco_lab.spectra.frequencies import ring_counts
from deco_lab.spectra.products import band_products, band_sums, nan_if_empty, ring_products

SIZES = [(16, 16), (16, 24), (15, 18), (8, 7)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("padding", [1, 3])
@pytest.mark.parametrize("window", [None, "hann"])
@pytest.mark.parametrize("size", SIZES)
def test_ring_products_match_scipys_windows_and_numpys_full_fft(size, window, padding):
    a, b = draw(2, 2, 3, *size)
    name = "boxcar" if window is None else window
    vertical, horizontal = (np.asarray(get_window(name, n)) for n in size)
    w = np.outer(vertical, horizontal)
    padded = [padding * n for n in size]
    A, B = (np.fft.fft2(x.numpy() * w, s=padded) for x in (a, b))
    full = (A * B.conj()).mean(1) / np.square(w).sum()
    up, along = (np.rint(np.fft.fftfreq(n) * n) for n in padded)
    across = np.sqrt((up[:, None] * padded[1]) ** 2 + (along * padded[0]) ** 2)
    ring = np.floor(across / max(padded) + 0.5)
    found = ring_products(a, b, window, padding)
    assert found.shape == (2, min(padded) // 2 + 1)
    for index in range(found.shape[1]):
        expected = full.real[:, ring == index].mean(1)
        np.testing.assert_allclose(found[:, index], expected, atol=1e-12)
    np.testing.assert_allclose(
        ring_counts(*padded), [(ring == k).sum() for k in range(found.shape[1])]
    )


def test_ring_products_take_several_parts_at_once():
    parts, whole = draw(4, 2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    found = ring_products(parts, whole)
    assert found.shape == (4, 2, 5)
    torch.testing.assert_close(found[3], ring_products(parts[3], whole))


@pytest.mark.parametrize("size", SIZES)
def test_band_products_sum_to_the_mean_product(size):
    a, b = draw(2, 4, 3, *size)
    torch.testing.assert_close(band_products(a, b).sum(-1), (a * b).mean((1, 2, 3)))


@pytest.mark.parametrize("size", [(12, 9), (8, 8)])
def test_band_sums_of_transforms_are_band_products(size):
    a, b = torch.randn(2, 3, 2, *size, dtype=torch.float64)
    products = (torch.fft.rfft2(a) * torch.fft.rfft2(b).conj()).real.sum(-3)
    found = band_sums(products, size[1], (0.1, 0.3)) / a[0].numel()
    torch.testing.assert_close(found, band_products(a, b, (0.1, 0.3)))


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


def test_band_products_under_a_window_are_those_of_the_tapered_images():
    part, whole = draw(2, 4, 3, 16, 24)
    w = torch.from_numpy(
        np.outer(*map(np.asarray, (get_window("hann", 16), get_window("hann", 24))))
    )
    found = band_products(part, whole, (0.1, 0.3), "hann")
    inner = (w * part * split_bands(w * whole, (0.1, 0.3))).sum((2, 3, 4)).T
    torch.testing.assert_close(found, inner / (3 * w.square().sum()))


def test_band_products_of_white_noise_are_the_same_under_a_window():
    noise = draw(400, 3, 16, 16)
    plain, tapered = (band_products(noise, noise, window=w).mean(0) for w in (None, "hann"))
    torch.testing.assert_close(tapered, plain, rtol=0.05, atol=0)


def test_nan_if_empty_marks_bands_of_rounding_alone():
    energy = np.array([[1.0, 1e-13, 1e-11], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(
        np.isnan(nan_if_empty(energy)), [[False, True, False], [True, True, True]]
    )
