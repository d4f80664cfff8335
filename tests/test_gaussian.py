import math

import numpy as np
import pytest

from deco_lab.gaussian import (
    meeting_frequency,
    noisy_power,
    posterior_power,
    velocity_gain,
    wiener_filter,
)

POWER = np.array([0.0, 0.01, 1.0, 40.0])
TIMES = np.array([0.0, 0.3, 0.8, 1.0])[:, None]


def test_wiener_filter_and_velocity_gain_are_those_of_joint_gaussians():
    t, S = 0.3, 2.5
    image, noise = np.sqrt(S) * np.array([1, 0]), np.array([0, 1])  # in an orthonormal basis
    x = t * image + (1 - t) * noise
    assert noisy_power(S, t) == pytest.approx(x @ x)
    assert wiener_filter(S, t) == pytest.approx(image @ x / (x @ x))
    assert velocity_gain(S, t) == pytest.approx((image - noise) @ x / (x @ x))
    error = image - wiener_filter(S, t) * x
    assert posterior_power(S, t) == pytest.approx(error @ error)


def test_velocity_gain_predicts_the_image_of_the_wiener_filter():
    inside = TIMES[:3]
    predicted = 1 + (1 - inside) * velocity_gain(POWER, inside)
    np.testing.assert_allclose(predicted, wiener_filter(POWER, inside), atol=1e-15)


def test_curves_at_both_ends_of_time():
    assert (wiener_filter(POWER, 0.0) == 0).all()
    assert (velocity_gain(POWER, 0.0) == -1).all()
    assert (posterior_power(POWER, 0.0) == POWER).all()
    for curve, at_image in ((wiener_filter, 1), (velocity_gain, 1), (posterior_power, 0)):
        values = curve(POWER, 1.0)
        assert math.isnan(values[0])
        assert (values[1:] == at_image).all()


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("t", [0.2, 0.5, 0.7])
def test_meeting_frequency_of_a_power_law_is_exact_to_the_rings(exponent, t):
    frequency = np.arange(1, 513) / 1024
    meeting = (t / (1 - t)) ** (2 / exponent) / 16
    found = meeting_frequency(frequency, (16 * frequency) ** -exponent, t)
    assert found == pytest.approx(meeting, rel=1e-3)


@pytest.mark.parametrize("mean_power", [0.0, 1e-9, 100.0])
def test_meeting_frequency_interpolates_the_logarithm_and_passes_over_the_mean(mean_power):
    frequency = np.arange(5) / 8
    found = meeting_frequency(frequency, [mean_power, 100.0, 0.01, 0.001, 0.0], 0.5)
    assert found == pytest.approx(3 / 16)
    assert meeting_frequency([0.1, 0.3], [100.0, 0.0], 0.5) == 0.3


@pytest.mark.parametrize("t", [0.5, 0.1, 0.0, 1.0])  # signal above noise, below it, and the ends
def test_meeting_frequency_is_nan_when_never(t):
    assert math.isnan(meeting_frequency([0.1, 0.2, 0.3], [4.0, 2.0, 1.5], t))
