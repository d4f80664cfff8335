from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from deco_lab.plots import (
    budget_figure,
    detail_curves,
    gain_curves,
    transfer_curves,
)
from deco_lab.spectra import (
    ConditionBudget,
    DecoderGain,
    DetailSpectra,
    TransferFunction,
)

RNG = np.random.default_rng(0)
TIMES = np.array([0.2, 0.5, 0.8])
EDGES = np.array([1 / 8, 1 / 4])
FREQUENCY = np.arange(9) / 16
P = 4


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(holder: Any) -> list[str]:
    legend = holder.get_legend() if hasattr(holder, "get_legend") else holder.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def ends_of(band: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends that fill_between drew at x."""
    corners = band.get_paths()[0].vertices
    ys = [corners[np.isclose(corners[:, 0], place), 1] for place in x]
    return np.array([y.min() for y in ys]), np.array([y.max() for y in ys])


def around(values: np.ndarray, name: str) -> dict[str, Any]:
    return {name: values, f"{name}_low": values - 0.1, f"{name}_high": values + 0.2}


def some_detail() -> DetailSpectra:
    shape = (len(TIMES), len(FREQUENCY))
    power = 1 / (1 + 9 * FREQUENCY)
    return DetailSpectra(
        times=TIMES,
        frequency=FREQUENCY,
        power=power,
        power_low=power / 2,
        power_high=power * 2,
        gaussian_predicted=np.full(shape, 0.3),
        gaussian_error=np.full(shape, 0.4),
        gaussian_velocity=np.full(shape, 1e-9),
        gaussian_gain=np.zeros(shape),
        meeting=np.array([np.nan, 1 / 8, 1 / 4]),
        count=5,
        recipe={},
        **around(RNG.uniform(0.2, 1, shape), "predicted"),
        **around(RNG.uniform(0.2, 1, shape), "error"),
        **around(RNG.uniform(0.2, 1, shape), "velocity"),
    )


def test_detail_curves_draw_spectra_without_dc():
    detail = some_detail()
    figure = detail_curves(detail, 0.5)
    left, right = figure.axes
    expected = {
        "true image": detail.power,
        "predicted image": detail.predicted[1],
        "predicted image, Gaussian optimum": detail.gaussian_predicted[1],
        "its error": detail.error[1],
        "its error, Gaussian optimum": detail.gaussian_error[1],
        "velocity": detail.velocity[1],
        "velocity, Gaussian optimum": detail.gaussian_velocity[1],
    }
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    for label, values in expected.items():
        np.testing.assert_array_equal(lines[label].get_xdata(), FREQUENCY[1:])
        np.testing.assert_array_equal(lines[label].get_ydata(), values[1:])
    low, high = ends_of(right.collections[1], FREQUENCY[1:])
    np.testing.assert_allclose(low, detail.velocity_low[1, 1:])
    np.testing.assert_allclose(high, detail.velocity_high[1, 1:])
    assert left.get_xlabel() == "frequency (cycles per pixel)"
    assert left.get_ylim()[0] > 0.01  # a zero of the Gaussian velocity does not stretch the axis
    drawn(figure)


@pytest.mark.parametrize(("t", "place"), [(0.2, None), (0.8, 1 / 4)])
def test_detail_curves_mark_where_signal_meets_noise(t, place):
    (left, _) = detail_curves(some_detail(), t).axes
    upright = [np.asarray(line.get_xdata())[0] for line in left.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert upright == ([] if place is None else [place])


@pytest.mark.parametrize("t", TIMES)
def test_detail_curves_keep_legends_off_the_panels(t):
    figure = detail_curves(some_detail(), t)
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        box, below = legend.get_window_extent(), axes.xaxis.label.get_window_extent()
        assert box.y1 < below.y0
        assert box.x0 >= 0
        assert box.y0 >= 0
    first, second = (axes.get_legend().get_window_extent() for axes in figure.axes)  # type: ignore[union-attr]
    assert first.x1 < second.x0


def test_detail_curves_say_which_times_there_are():
    with pytest.raises(ValueError, match=r"t must be one of .* 0\.2, 0\.5, 0\.8, got 0\.4"):
        detail_curves(some_detail(), 0.4)


def some_transfer() -> TransferFunction:
    shape = (len(TIMES), len(FREQUENCY))
    return TransferFunction(
        times=TIMES,
        frequency=FREQUENCY,
        coherence_floor=np.full(len(FREQUENCY), 0.01),
        wiener=RNG.uniform(0, 1, shape),
        power=np.ones(len(FREQUENCY)),
        count=5,
        recipe={},
        **around(RNG.uniform(0, 1, shape), "transfer"),
        **around(RNG.uniform(0, 0.5, shape), "coherence"),
    )


def test_transfer_curves_draw_gain_against_wiener():
    transfer = some_transfer()
    figure = transfer_curves(transfer, 0.8)
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), transfer.transfer[2, 1:])
    np.testing.assert_array_equal(left.lines[1].get_ydata(), transfer.wiener[2, 1:])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), transfer.coherence[2, 1:])
    low, high = ends_of(left.collections[0], FREQUENCY[1:])
    np.testing.assert_allclose(low, transfer.transfer_low[2, 1:])
    np.testing.assert_allclose(high, transfer.transfer_high[2, 1:])
    drawn(figure)


def test_gain_curves_draw_slope_against_the_known_pixel():
    slope = -1 / (1 - TIMES[:, None]) * np.array([0.9, 1.0, 1.1])
    gain = DecoderGain(
        times=TIMES,
        gain=-slope,
        slope=slope,
        error=np.full_like(slope, 0.12),
        gain_map=np.ones((3, 2 * P, 2 * P)),
        place_map=RNG.uniform(1, 2, (3, P, P)),
        jacobian=np.zeros((3, 3, 3)),
        known_slope=-1 / (1 - TIMES),
        recipe={},
    )
    figure = gain_curves(gain)
    left, right, _ = figure.axes
    lines = {str(line.get_label()): line for line in left.lines}
    x, y = map(np.asarray, lines["1 / (1 - t): predicted whatever the pixel"].get_data())
    np.testing.assert_allclose(y, 1 / (1 - x))
    assert [text.get_text() for text in left.texts] == ["12%"] * 3
    (bars,) = left.containers
    np.testing.assert_allclose(bars[0].get_ydata(), 1 / (1 - TIMES))  # type: ignore[attr-defined]
    ends = np.array([s[:, 1] for s in bars[2][0].get_segments()])
    for (low, high), estimate in zip(ends, gain.slopes(), strict=True):
        assert (low, high) == pytest.approx((-estimate.high, -estimate.low))
    np.testing.assert_array_equal(right.images[0].get_array(), gain.place_map[1])  # type: ignore[arg-type]
    assert right.images[0].get_clim()[0] == 0
    drawn(figure)


def test_budget_figure_shows_shares_and_directions():
    written = RNG.uniform(0.1, 1, (3, 5, 3, P, P))
    budget = ConditionBudget(
        times=TIMES,
        frequency=np.arange(P) / (2 * P),
        written=written,
        variance=np.ones((3, 6)),
        maps=RNG.normal(size=(3, 2, 3, P, P)),
        recipe={},
    )
    figure = budget_figure(budget, 0.5)
    axes, right = figure.axes[:2]
    expected = written[1].mean((0, 1)) / written[1].mean((0, 1)).sum()
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), expected)
    assert axes.texts[1].get_text() == f"{100 * expected[0, 1]:.1f}"
    assert axes.get_xlabel() == f"horizontal index (1/{2 * P} cycles per pixel)"
    stack = np.asarray(right.images[0].get_array())
    scale = np.abs(budget.maps[1]).max()
    second = budget.maps[1, 1].transpose(1, 2, 0)
    np.testing.assert_allclose((stack[P + 1 :] - 0.5) * 2 * scale, second)
    drawn(figure)
