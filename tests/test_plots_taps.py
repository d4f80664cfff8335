from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import dct_curves, tap_curves, tap_maps
from deco_lab.spectra import TapSpectrum, log_energy, zigzag_order

RNG = np.random.default_rng(0)


def spectrum(patch_size: int, times: tuple[float, ...] = (0.1, 0.5, 0.9), n: int = 8) -> Any:
    rows = len(times) + 1
    fields = {}
    for name, size in (
        ("energy", (n, n)), ("curve", (n * n,)), ("radial", (n + 1,)), ("radial_curve", (n + 1,)),
    ):  # fmt: skip
        value = RNG.uniform(0.1, 1, (rows, *size))
        fields |= {name: value, name + "_low": 0.9 * value, name + "_high": 1.2 * value}
    return TapSpectrum(
        tap="tokens",
        times=np.array(times),
        patch_size=patch_size,
        block_size=n,
        frequency=np.arange(n + 1) / (2 * n * patch_size),
        each=np.ones((2, len(times), n, n)),
        **dict.fromkeys(("noise_share", "noise_share_low", "noise_share_high"), np.zeros(0)),
        count=2,
        **fields,
    )


@pytest.mark.parametrize("t", [0.5, None])
def test_tap_curves_draw_the_curve_and_the_rings_of_a_time(t):
    tokens, pixels = spectrum(8), spectrum(1)
    axes: Any = tap_curves({"tokens": tokens, "image": pixels}, t).axes
    left, right = axes
    row = 1 if t else 3
    drawn = [line for line in left.lines if len(line.get_xdata()) > 2]
    for line, found in zip(drawn, (tokens, pixels), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), found.curve[row])
    drawn = [line for line in right.lines if len(line.get_xdata()) > 2]
    for line, found in zip(drawn, (tokens, pixels), strict=True):
        np.testing.assert_allclose(line.get_xdata(), found.frequency[1:])
        np.testing.assert_array_equal(line.get_ydata(), found.radial_curve[row, 1:])
    assert max(drawn[0].get_xdata()) == 1 / 16  # a token map ends there
    assert max(drawn[1].get_xdata()) == 1 / 2


def ends_of(band: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends that fill_between drew at x."""
    corners = band.get_paths()[0].vertices
    ys = [corners[np.isclose(corners[:, 0], place), 1] for place in x]
    return np.array([y.min() for y in ys]), np.array([y.max() for y in ys])


def test_tap_curves_shade_the_intervals_of_what_they_draw():
    found = spectrum(8)
    found.radial_low[:] = -2  # of the energies: their logarithm is no interval of the curve
    for axes, x, name, first in zip(
        tap_curves({"tokens": found}, 0.5).axes, (np.arange(64), found.frequency[1:]),
        ("curve", "radial_curve"), (0, 1), strict=True,
    ):  # fmt: skip
        low, high = ends_of(axes.collections[0], x)
        np.testing.assert_allclose(low, getattr(found, name + "_low")[1, first:])
        np.testing.assert_allclose(high, getattr(found, name + "_high")[1, first:])


def test_tap_curves_raw_keep_intervals_on_the_axis():
    found = spectrum(8)
    found.radial_low[:] = found.energy_low[:] = -2
    for axes in tap_curves({"tokens": found}, raw=True).axes:
        assert np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1].min() > 0


def test_tap_curves_beyond_the_colours_are_dashed():
    many = {f"model {i}": spectrum(8) for i in range(8)}
    left, _ = tap_curves(many).axes
    assert [line.get_linestyle() for line in left.lines] == ["-"] * 7 + ["--"]


def test_tap_curves_draw_raw_energies_in_zigzag_order():
    found = spectrum(8)
    axes: Any = tap_curves({"tokens": found}, raw=True).axes
    left, right = axes
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


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("raw", [False, True])
def test_dct_curves_draw_energy_by_zigzag_index(raw):
    energy = noise(8, 8).square()
    figure = dct_curves({"image": energy}, raw=raw)
    left, _ = figure.axes
    expected = energy.flatten()[list(zigzag_order())] if raw else log_energy(energy)
    x, y = left.lines[0].get_data()
    np.testing.assert_array_equal(x, np.arange(64))
    np.testing.assert_allclose(y, expected)  # type: ignore[arg-type]
    assert left.get_xlabel() == "DCT coefficient (zigzag index)"
    assert left.get_ylabel() == ("mean squared coefficient" if raw else "log(1 + E) / max")
    assert left.get_yscale() == ("log" if raw else "linear")
    drawn(figure)


def test_dct_curves_put_tokens_at_their_physical_frequency():
    energy = torch.zeros(8, 8)
    energy[0, 4] = 8.0  # index 4 is 1/4 cycle per pixel, 1/32 on tokens of 8 pixels
    figure = dct_curves({"image": energy, "tiny": energy}, patch_sizes={"tiny": 8}, raw=True)
    left, right = figure.axes
    assert legend_of(left) == ["image", "tiny (tokens of 8 x 8 pixels)"]
    assert right.get_xlabel() == "frequency (cycles per pixel)"
    of_pixels, of_tokens = right.lines[:2]
    for line, frequency in ((of_pixels, 1 / 4), (of_tokens, 1 / 32)):
        x, y = map(np.asarray, line.get_data())
        assert x[np.argmax(y)] == frequency
        # (0,4), (1,4), (2,4), (2,3), their mirrors and (3,3) have a radius that rounds to 4.
        assert y.max() == pytest.approx(8 / 9)
    assert {line.get_xdata()[0] for line in right.lines[2:]} == {1 / 2, 1 / 16}  # type: ignore[index]
    drawn(figure)


def test_dct_curves_of_the_same_energy_agree_between_panels():
    constant = torch.ones(8, 8)
    left, right = dct_curves({"image": constant}).axes
    np.testing.assert_allclose(np.asarray(left.lines[0].get_ydata()), 1)
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), 1)
