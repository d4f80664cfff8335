import math

import pytest
import scipy.stats
import torch

from deco_lab.flow import (
    interpolate,
    predicted_image,
    sample_times,
    shift_time,
    time_grid,
    velocity_target,
    velocity_towards,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 3, 4, 5, generator=generator, dtype=torch.float64).unbind()


def test_interpolate_runs_from_noise_to_image(pair):
    image, noise = pair
    torch.testing.assert_close(interpolate(image, noise, 0.0), noise)
    torch.testing.assert_close(interpolate(image, noise, 1.0), image)
    torch.testing.assert_close(interpolate(image, noise, 0.25), 0.25 * image + 0.75 * noise)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)  # one for each image
    expected = torch.stack([noise[0], (image[1] + noise[1]) / 2, image[2]])
    torch.testing.assert_close(interpolate(image, noise, t), expected)


def test_velocity_target_is_the_slope_of_the_path(pair):
    image, noise = pair
    rise = interpolate(image, noise, 0.75) - interpolate(image, noise, 0.25)
    torch.testing.assert_close(rise / 0.5, velocity_target(image, noise))


@pytest.mark.parametrize("t", [0.3, torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)])
def test_predicted_image_of_the_target_velocity_is_the_image(pair, t):
    image, noise = pair
    x = interpolate(image, noise, t)
    torch.testing.assert_close(predicted_image(x, velocity_target(image, noise), t), image)


def test_shift_time_of_a_half_is_one_in_one_plus_shift():
    found = [shift_time(t, shift) for t, shift in ((0.5, 3.0), (0.5, 1.0), (0.0, 3.0), (1.0, 3.0))]
    assert found == [0.25, 0.5, 0, 1]
    t = torch.linspace(0, 1, 7, dtype=torch.float64)  # twice multiplies the shifts
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 0.5), shift_time(t, 1.5))


@pytest.mark.parametrize("time_shift", [0.2, 1.0, 3.0, 17.0])
@pytest.mark.parametrize("num_steps", [1, 3, 7, 49, 250])
def test_time_grid_ends_exactly_at_0_and_1(num_steps, time_shift):
    grid = time_grid(num_steps, time_shift=time_shift)
    assert grid[0] == 0
    assert grid[-1] == 1
    assert (grid.diff() > 0).all()
    even = shift_time(grid, 1 / time_shift)
    torch.testing.assert_close(even, torch.arange(num_steps + 1).double() / num_steps)


def test_sample_times_undone_are_standard_normal():
    times = sample_times(4000, time_shift=4.0, generator=torch.Generator().manual_seed(0))
    normal = torch.logit(shift_time(times.double(), 1 / 4))
    assert scipy.stats.kstest(normal.numpy(), "norm").pvalue > 0.01


def test_sample_times_mix_in_a_share_of_uniform_ones():
    """Above 0.95, hardly any logit-normal time lies: 1.6 of 1,000; of uniform ones 50."""
    draws = [
        sample_times(200_000, uniform=share, generator=torch.Generator().manual_seed(0)).double()
        for share in (0.0, 0.2, 1.0)
    ]
    normal = (draws[0] > 0.95).double().mean()
    assert normal == pytest.approx(scipy.stats.norm.sf(math.log(19)), rel=0.1)
    for t in (0.02, 0.5, 0.95, 0.98):
        expected = 0.8 * scipy.stats.norm.cdf(math.log(t / (1 - t))) + 0.2 * t
        assert (draws[1] < t).double().mean() == pytest.approx(expected, abs=0.004)
    assert scipy.stats.kstest(draws[2][:4000].numpy(), "uniform").pvalue > 0.01
    assert (draws[1] == draws[0]).double().mean() == pytest.approx(0.8, abs=0.005)


def test_velocity_towards_the_image_is_the_target_until_the_floor(pair):
    image, noise = pair
    for t in (0.0, 0.5, 0.95):
        x = interpolate(image, noise, t)
        torch.testing.assert_close(velocity_towards(image, x, t), velocity_target(image, noise))
    x = interpolate(image, noise, 0.99)  # 0.01 is left, and 0.05 is divided by
    torch.testing.assert_close(velocity_towards(image, x, 0.99), 0.2 * (image - noise))
    times = torch.tensor([0.5, 0.99, 1.0], dtype=torch.float64)
    each = velocity_towards(image, interpolate(image, noise, times), times)
    torch.testing.assert_close(each[1], 0.2 * (image - noise)[1])
    torch.testing.assert_close(each[2], torch.zeros_like(image[2]))
