from typing import Any

import numpy as np
import pytest

from deco_lab.plots import tap_curves, tap_maps
from deco_lab.spectra import TapSpectrum

RNG = np.random.default_rng(0)


def spectrum(patch_size: int, times: tuple[float, ...] = (0.1, 0.5, 0.9), n: int = 8) -> Any:
    rows = len(times) + 1
    fields = {}
    for name, size in (("energy", (n, n)), ("curve", (n * n,)), ("radial", (n + 1,))):
        value = RNG.uniform(0.1, 1, (rows, *size))
        fields |= {name: value, name + "_low": 0.9 * value, name + "_high": 1.2 * value}
    return TapSpectrum(
        tap="tokens",
        times=np.array(times),
        patch_size=patch_size,
        block_size=n,
        frequency=np.arange(n + 1) / (2 * n * patch_size),
        each=np.ones((2, len(times), n, n)),
        count=2,
        **fields,
    )


@pytest.mark.parametrize("t", [0.5, None])
def test_tap_curves_draw_the_curve_and_the_rings_of_a_time(t):
    tokens, pixels = spectrum(8), spectrum(1)
    left, right = tap_curves({"tokens": tokens, "image": pixels}, t).axes
    row = 1 if t else 3
    drawn = [line for line in left.lines if len(line.get_xdata()) > 2]
    for line, found in zip(drawn, (tokens, pixels), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), found.curve[row])
    drawn = [line for line in right.lines if len(line.get_xdata()) > 2]
    for line, found in zip(drawn, (tokens, pixels), strict=True):
        np.testing.assert_allclose(line.get_xdata(), found.frequency[1:])
        expected = np.log1p(found.radial[row, 1:]) / np.log1p(found.energy[row].max())
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert max(drawn[0].get_xdata()) == 1 / 16  # a token map ends there
    assert max(drawn[1].get_xdata()) == 1 / 2


def test_tap_curves_draw_raw_energies_in_zigzag_order():
    found = spectrum(8)
    left, right = tap_curves({"tokens": found}, raw=True).axes
    drawn = left.lines[0].get_ydata()
    assert list(drawn[:4]) == [found.energy[3][place] for place in ((0, 0), (0, 1), (1, 0), (2, 0))]
    np.testing.assert_allclose(right.lines[0].get_ydata(), found.radial[3, 1:])
    assert left.get_yscale() == right.get_yscale() == "log"


def test_tap_maps_draw_decibels_over_t_and_frequency():
    tokens, pixels = spectrum(8), spectrum(1)
    figure = tap_maps({"tokens": tokens, "image": pixels})
    panels = [axes for axes in figure.axes if axes.get_xlabel().startswith("t ")]
    for axes, found in zip(panels, (tokens, pixels), strict=True):
        mesh: Any = axes.collections[0]
        np.testing.assert_allclose(
            np.asarray(mesh.get_array()).reshape(8, 3), 10 * np.log10(found.radial[:3, 1:]).T
        )
        corners = mesh.get_coordinates()
        np.testing.assert_allclose(corners[0, :, 0], [0, 0.3, 0.7, 1])
        assert corners[-1, 0, 1] == pytest.approx(found.frequency[-1])
    assert panels[0].get_ylim()[1] == 0.5  # one axis for both
    assert "beyond the token grid" in panels[0].texts[0].get_text()
    assert not panels[1].texts


def test_tap_maps_need_two_times():
    with pytest.raises(ValueError, match="a map over t needs two times at least, got 1"):
        tap_maps({"tokens": spectrum(8, (0.5,))})
