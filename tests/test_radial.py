import numpy as np
import pytest
import torch

from deco_lab.spectra.radial import radial_power


def wave(height: int, width: int, per_height: float, per_width: float) -> torch.Tensor:
    """Return a cosine of amplitude 1 with so many cycles per image, (1, 1, H, W)."""
    r = torch.arange(height, dtype=torch.float64)[:, None]
    c = torch.arange(width, dtype=torch.float64)
    phase = 2 * torch.pi * (per_height * r / height + per_width * c / width)
    return torch.cos(phase)[None, None]


@pytest.mark.parametrize("window", [None, "hann"])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (33, 47)])
def test_radial_power_of_white_noise_is_1(window, shape):
    noise = torch.randn(256, 3, *shape, generator=torch.Generator().manual_seed(0))
    power = radial_power(noise, window).power
    # The ring with the fewest waves, DC, averages 768 squares (correlated in no image).
    torch.testing.assert_close(power, torch.ones_like(power), rtol=0, atol=0.2)
    torch.testing.assert_close(power[8:], torch.ones_like(power[8:]), rtol=0, atol=0.03)


def test_radial_power_of_a_cosine_is_one_ring():
    power = radial_power(wave(64, 64, 3, 4)).power
    # |k| = 5. Two coefficients of (N^2 / 2)^2, over N^2 and over the waves of ring 5.
    k = np.fft.fftfreq(64) * 64
    waves_in_ring = np.sum(np.floor(np.hypot(k[:, None], k) + 0.5) == 5)
    expected = torch.zeros(33, dtype=torch.float64)
    expected[5] = 2 * 64**2 / 4 / waves_in_ring
    torch.testing.assert_close(power, expected, rtol=1e-10, atol=1e-10)


def test_radial_power_of_nyquist_is_the_last_ring():
    radial = radial_power(wave(16, 16, 0, 8))
    assert radial.power.argmax() == 8
    assert radial.frequency[-1] == 0.5


@pytest.mark.parametrize(("per_height", "per_width"), [(8, 0), (0, 16)])
def test_radial_power_has_physical_frequencies_where_not_square(per_height, per_width):
    # An eighth of a cycle per pixel, upright or lying, in an image twice as wide as high.
    radial = radial_power(wave(64, 128, per_height, per_width))
    assert radial.frequency[radial.power.argmax()] == 1 / 8
    assert radial.frequency.tolist() == [k / 64 for k in range(33)]


def test_radial_power_averages_over_images_and_channels():
    a, b = wave(16, 16, 2, 0), wave(16, 16, 0, 5)
    both = radial_power(torch.cat([a, b])).power
    torch.testing.assert_close(both, (radial_power(a).power + radial_power(b).power) / 2)
    channels = radial_power(torch.cat([a, b], dim=1)).power
    torch.testing.assert_close(channels, both)


def test_radial_power_with_hann_keeps_borders_out():
    # 5.5 cycles do not close over the border: the jump leaks over all rings as 1 / k^2.
    open_wave = wave(64, 64, 0, 5.5)
    bare, tapered = radial_power(open_wave).power, radial_power(open_wave, "hann").power
    assert tapered[16:].max() < 1e-3 * bare[16:].max()


def test_radial_power_with_hann_spreads_the_mean_to_ring_1_alone():
    power = radial_power(torch.ones(1, 1, 32, 32), "hann").power
    assert power[1] > 0.01 * power[0]
    assert power[2:].max() < 1e-20 * power[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_radial_power_is_float64_for_every_type(dtype):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    radial = radial_power(images)
    assert radial.power.dtype == radial.frequency.dtype == torch.float64
    torch.testing.assert_close(radial.power, radial_power(images.double()).power)


def test_radial_power_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\).*\(3, 8, 8\)"):
        radial_power(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="window must be None or \"hann\", got 'hamming'"):
        radial_power(torch.zeros(1, 3, 8, 8), "hamming")


def test_radial_power_padded_is_the_same_curve_sampled_more_finely():
    noise = torch.randn(64, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    plain, fine = (radial_power(noise, "hann", padding=padding) for padding in (1, 2))
    assert fine.frequency[1] == plain.frequency[1] / 2
    torch.testing.assert_close(fine.frequency[::2], plain.frequency)
    torch.testing.assert_close(fine.power[6:], torch.ones_like(fine.power[6:]), rtol=0.1, atol=0)


def test_radial_power_of_logs_is_the_geometric_mean_over_images():
    images = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    images *= torch.tensor([1e-3, 0.1, 1, 1, 10, 1e3]).reshape(-1, 1, 1, 1)
    each = torch.stack([radial_power(image[None]).power for image in images])
    found = radial_power(images, average="log").power
    torch.testing.assert_close(found, each.log().mean(0).exp())
    assert (found < 1e-3 * radial_power(images).power).all()  # which the strongest image decides


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"window": "boxcar"}, "window must be None or \"hann\", got 'boxcar'"),
        ({"padding": 0}, "padding must be at least 1, got 0"),
        ({"average": "median"}, 'average must be "power" or "log", got \'median\''),
    ],
)
def test_radial_power_names_an_unknown_choice(choice, match):
    with pytest.raises(ValueError, match=match):
        radial_power(torch.zeros(1, 1, 8, 8), **choice)
