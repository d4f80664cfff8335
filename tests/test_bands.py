import numpy as np
import pytest
import torch

from deco_lab.sampling import BandGuidance, GuidedPair
from deco_lab.spectra.bands import (
    MEAN_AND_OCTAVES,
    OCTAVES,
    band_names,
    band_of_frequencies,
    band_shares,
    split_bands,
)

EDGES = (1 / 16, 1 / 8, 1 / 4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def wave(frequency: float, side: int = 64) -> torch.Tensor:
    """Return a lying cosine of so many cycles per pixel, (1, 1, side, side)."""
    row = torch.cos(2 * torch.pi * frequency * torch.arange(side, dtype=torch.float64))
    return row.expand(1, 1, side, side)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 2, 17, 40), (1, 1, 8, 1)])
@pytest.mark.parametrize("edges", [EDGES, (0.2,), ()])
def test_split_bands_sum_to_the_image(shape, edges):
    images = noise(*shape)
    bands = split_bands(images, edges)
    assert bands.shape == (len(edges) + 1, *shape)
    torch.testing.assert_close(bands.sum(0), images, rtol=0, atol=1e-13)
    single = split_bands(images.float(), edges).sum(0)
    torch.testing.assert_close(single, images.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 2, 17, 40)])
def test_split_bands_are_orthogonal(shape):
    images = noise(*shape)
    flat = split_bands(images).flatten(1)
    gram = flat @ flat.T
    off_diagonal = gram - gram.diag().diag()
    assert off_diagonal.abs().max() < 1e-12 * gram.trace()
    torch.testing.assert_close(gram.trace(), images.square().sum())
    assert gram.diag().min() > 0


@pytest.mark.parametrize(
    ("frequency", "band"),
    # On an edge: in the band above. Nyquist: in the last.
    [(0, 0), (3 / 64, 0), (1 / 16, 1), (7 / 64, 1), (1 / 8, 2), (15 / 64, 2), (1 / 4, 3), (0.5, 3)],
)
def test_split_bands_put_a_cosine_into_its_band(frequency, band):
    image = wave(frequency)
    expected = torch.zeros(4, 1, 1, 64, 64, dtype=torch.float64)
    expected[band] = image
    torch.testing.assert_close(split_bands(image), expected, rtol=0, atol=1e-13)


SIZES = [(64, 64), (140, 140), (156, 156), (196, 84), (40, 100)]


def bands_of_whole_numbers(height: int, width: int) -> torch.Tensor:
    """Return the octave of each coefficient of rfft2: q^2 (a^2 W^2 + b^2 H^2) >= H^2 W^2."""
    a = torch.arange(height)
    a, b = torch.minimum(a, height - a)[:, None], torch.arange(width // 2 + 1)
    square = (a * width) ** 2 + (b * height) ** 2
    above = [q**2 * square >= (height * width) ** 2 for q in (16, 8, 4)]
    return torch.stack(above).sum(0)


@pytest.mark.parametrize("size", SIZES)
def test_band_of_frequencies_compares_as_whole_numbers_do(size: tuple[int, int]):
    expected = bands_of_whole_numbers(*size)
    assert torch.equal(band_of_frequencies(*size, OCTAVES), expected)
    impulse = torch.zeros(1, 1, *size, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    pair = GuidedPair(
        cond=impulse, uncond=torch.zeros_like(impulse), x=impulse, t=0.5, guidance_scale=1.0
    )
    scaled = torch.fft.rfft2(BandGuidance((0, 1, 2, 3))(pair))[0, 0].real
    torch.testing.assert_close(scaled, expected.double())


def test_band_of_frequencies_has_21_28_of_140_on_its_edge_like_its_mirror():
    band = band_of_frequencies(140, 140, OCTAVES)
    assert [band[i, j].item() for i in (21, -21) for j in (28,)] == [3, 3]
    assert [band[i, 21].item() for i in (28, -28)] == [3, 3]


def test_split_bands_part_off_the_mean_at_an_edge_of_0():
    images = noise(2, 3, 32, 24) + 5
    mean, low, *others = split_bands(images, MEAN_AND_OCTAVES)
    torch.testing.assert_close(mean, images.mean((2, 3), keepdim=True).expand_as(images))
    torch.testing.assert_close(low, split_bands(images)[0] - mean)
    torch.testing.assert_close(torch.stack(others), split_bands(images)[1:])


def test_band_shares_of_the_lowest_band_are_not_the_means():
    """A part that has the mean right and all waves wrong."""
    waves = wave(2 / 64) + wave(20 / 64)
    whole, part = 10 + waves, 10 - waves
    np.testing.assert_allclose(band_shares(part, whole, (1 / 8,)), [99.5 / 100.5, -1])
    np.testing.assert_allclose(band_shares(part, whole, (0, 1 / 8)), [1, -1, -1])


def test_split_bands_put_the_corners_into_the_last_band():
    checkerboard = wave(0.5) * wave(0.5).mT  # sqrt(0.5) cycles per pixel
    bands = split_bands(checkerboard, (0.25, 0.6))
    torch.testing.assert_close(bands[-1], checkerboard)


def test_split_bands_compute_narrow_types_in_float32():
    images = noise(1, 3, 16, 16).bfloat16()
    bands = split_bands(images)
    assert bands.dtype == torch.float32
    torch.testing.assert_close(bands, split_bands(images.float()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "edges", [(0.2, 0.1), (0.1, 0.1), (-0.1, 0.1), (0.1, 0.8), (float("nan"),)]
)
def test_split_bands_refuse_edges_that_do_not_rise_within_range(edges):
    with pytest.raises(ValueError, match=r"edges must rise and lie between 0 and sqrt\(0\.5\)"):
        split_bands(torch.zeros(1, 3, 8, 8), edges)


def test_band_shares_of_a_scaled_whole_are_the_scale():
    whole = noise(2, 3, 32, 32)
    expected = torch.full((4,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(band_shares(0.3 * whole, whole), expected)
    torch.testing.assert_close(band_shares(-0.3 * whole, whole), -expected)


def test_band_shares_are_known_for_waves():
    low, high = wave(2 / 64), wave(20 / 64)
    whole = 2 * low + high
    shares = band_shares(low - 3 * high, whole, (1 / 8,))
    torch.testing.assert_close(shares, torch.tensor([0.5, -3], dtype=torch.float64))


def test_band_shares_of_parts_sum_to_1():
    parts = noise(3, 2, 3, 24, 40).float()
    whole = parts.sum(0)
    total = torch.stack([band_shares(part, whole) for part in parts]).sum(0)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_band_shares_pool_images_by_energy():
    whole = torch.cat([3 * wave(2 / 64), wave(2 / 64)])
    part = torch.cat([3 * wave(2 / 64), 0 * wave(2 / 64)])
    share = band_shares(part, whole)[0].item()
    assert share == pytest.approx(0.9)


def test_band_shares_are_nan_where_the_whole_is_empty():
    whole = wave(2 / 64).float()
    shares = band_shares(noise(1, 1, 64, 64), whole)
    assert shares.isnan().tolist() == [False, True, True, True]
    assert band_shares(whole, torch.zeros_like(whole)).isnan().all()


def test_band_shares_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"part must have the shape of whole, \(1, 3, 8, 8\)"):
        band_shares(torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"whole must have shape \(B, C, H, W\)"):
        band_shares(torch.zeros(8, 8), torch.zeros(8, 8))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((1 / 16, 1 / 8, 1 / 4), ["below 1/16", "1/16 to 1/8", "1/8 to 1/4", "above 1/4"]),
        ((0.3,), ["below 3/10", "above 3/10"]),
        ((), ["all"]),
        ((0, 1 / 8), ["mean", "below 1/8", "above 1/8"]),
        ((0,), ["mean", "all but the mean"]),
    ],
)
def test_band_names_are_fractions(edges, expected):
    assert band_names(edges) == expected
