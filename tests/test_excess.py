"""Excess error: closed forms of filters that are not Wiener's."""

import numpy as np
import pytest
import torch

from deco_lab.data import FieldSampler, field_power, optimal_velocity
from deco_lab.gaussian import posterior_power, wiener_filter
from deco_lab.spectra import excess_error, split_bands
from deco_lab.spectra.states import Crops

TIMES = (0.3, 0.8)


@pytest.fixture(scope="module")
def fields():
    labels = torch.full((96,), 1)
    return FieldSampler(32).sample(96, torch.Generator().manual_seed(5), labels)


def test_excess_error_of_wieners_filter_is_zero(fields):
    found = excess_error(
        optimal_velocity, Crops(fields.images, fields.class_ids, TIMES), field_power(1, 32)
    )
    np.testing.assert_allclose(found.excess.value, 0, atol=1e-5)
    np.testing.assert_allclose(found.wiener / found.expected, 1, atol=0.1)
    np.testing.assert_allclose(found.error, found.wiener, rtol=1e-5)


def test_excess_error_of_another_gain_is_its_closed_form(fields):
    """A gain of W(1 + e) errs by e^2 W^2 (t^2 S + (1 - t)^2) more than W, on average."""
    S = field_power(1, 32)

    def model(x, t, class_ids):
        best = x + (1 - t[:, None, None, None]) * optimal_velocity(x, t, class_ids)
        return (1.5 * best - x) / (1 - t[:, None, None, None])

    found = excess_error(model, Crops(fields.images, fields.class_ids, TIMES), S)
    f = np.fft.fftfreq(32)
    band = np.digitize(np.hypot(f[:, None], f), (1 / 16, 1 / 8, 1 / 4))
    for i, t in enumerate(TIMES):
        more = 0.25 * wiener_filter(S, t) ** 2 * (t**2 * S.numpy() + (1 - t) ** 2)
        least = posterior_power(S, t)
        for k in range(4):
            expected = more[band == k].mean() / least[band == k].mean()
            assert found.excess.value[i, k] == pytest.approx(expected, rel=0.25)
            assert found.excess.low[i, k] < expected < found.excess.high[i, k]


def test_excess_error_sees_the_band_that_is_wrong(fields):
    def model(x, t, class_ids):
        bands = split_bands(optimal_velocity(x, t, class_ids))
        return bands[:3].sum(0)

    found = excess_error(model, Crops(fields.images, fields.class_ids, TIMES), field_power(1, 32))
    np.testing.assert_allclose(found.excess.value[:, :3], 0, atol=1e-5)
    assert (found.excess.value[:, 3] > 0.1).all()


@pytest.mark.parametrize(
    ("power", "times", "said"),
    [
        (torch.ones(16, 16), (0.5,), "power must be above 0 at each of the images' frequencies"),
        (torch.zeros(32, 32), (0.5,), "power must be above 0 at each of the images' frequencies"),
        (torch.ones(32, 32), (0.5, 1.0), "times must lie below 1"),
    ],
)
def test_excess_error_refuses_what_it_cannot_compare_with(fields, power, times, said):
    with pytest.raises(ValueError, match=said):
        excess_error(optimal_velocity, Crops(fields.images, fields.class_ids, times), power)


def test_excess_error_takes_groups(fields):
    def model(x, t, class_ids):
        return 0 * x

    alone, halves = (
        excess_error(
            model,
            Crops(fields.images, fields.class_ids, (0.5,), groups=groups),
            field_power(1, 32),
        )
        for groups in (None, ["a", "b"] * 48)
    )
    assert halves.recipe["groups"] == 2
    np.testing.assert_allclose(halves.excess.value, alone.excess.value)
    assert (halves.excess.high - halves.excess.low != alone.excess.high - alone.excess.low).all()
