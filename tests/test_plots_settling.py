from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import (
    band_pictures,
    few_steps_figure,
    settling_figure,
    shift_figure,
    solver_error_curves,
)
from deco_lab.plots.style import COLOURS
from deco_lab.spectra import Settling, SolverError, split_bands

RNG = np.random.default_rng(0)
EDGES = np.array([1 / 8, 1 / 4])
K = len(EDGES) + 1
LEVELS = np.array([0.5, 0.9])


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(holder: Any) -> list[str]:
    legend = holder.get_legend() if hasattr(holder, "get_legend") else holder.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def ends_of(container: Any, axis: int = 1) -> np.ndarray:
    """Return the lower and upper ends of an errorbar's bars, (n, 2)."""
    return np.array([segment[:, axis] for segment in container[2][0].get_segments()])


def some_settling(times: list[float] | None = None) -> Settling:
    at = np.array(times or [0.0, 0.25, 0.5, 0.75])
    correlation = np.sort(RNG.uniform(0, 1, (5, len(at), K)), axis=1)
    settled = np.sort(RNG.uniform(0, 0.9, (5, K, 2)), axis=2)
    settled[0, -1, -1] = np.nan
    median = np.median(np.nan_to_num(settled, nan=1), axis=0)
    return Settling(
        times=at,
        edges=EDGES,
        levels=LEVELS,
        correlation=correlation,
        settled=settled,
        median=median,
        median_low=median - 0.05,
        median_high=median + 0.08,
        count=5,
        recipe={},
    )


def some_errors() -> SolverError:
    steps = np.array([5, 10, 20, 5, 10])
    nfe = np.array([5, 10, 20, 9, 19])
    order = np.array([1, 1, 1, 2, 2])
    error = (2.0 / steps**order)[:, None] * np.array([1, 0.5, 0.25])
    return SolverError(
        solvers=("euler", "euler", "euler", "heun", "heun"),
        num_steps=steps,
        nfe=nfe,
        edges=EDGES,
        error=error,
        error_low=error * 0.8,
        error_high=error * 1.5,
        reference_energy=np.ones(K),
        reference_solver="heun",
        reference_num_steps=100,
        count=4,
        recipe={},
    )


def test_settling_figure_draws_mean_correlation_and_strangers():
    settling = some_settling()
    left, _ = settling_figure(settling, [0.3, 0.2, 0.1]).axes
    curves = [line for line in left.lines if len(np.asarray(line.get_xdata())) == 4]
    for k, line in enumerate(curves):
        np.testing.assert_array_equal(line.get_xdata(), settling.times)
        np.testing.assert_allclose(
            np.asarray(line.get_ydata()), settling.correlation[:, :, k].mean(0)
        )
        assert line.get_color() == COLOURS[k]
    dotted = [line for line in left.lines if line.get_linestyle() == ":"]
    assert [float(np.asarray(line.get_ydata())[0]) for line in dotted] == [0.3, 0.2, 0.1]
    assert len(left.collections) == K
    assert legend_of(left) == ["below 1/8", "1/8 to 1/4", "above 1/4", "another seed's image"]


def test_settling_figure_marks_medians_with_intervals():
    settling = some_settling()
    figure = settling_figure(settling)
    _, right = figure.axes
    bars = list(right.containers)
    for i, bar in enumerate(bars):
        n, k = divmod(i, K)
        assert np.asarray(bar[0].get_xdata()).item() == settling.median[k, n]
        expected = [settling.median_low[k, n], settling.median_high[k, n]]
        np.testing.assert_allclose(ends_of(bar, 0), [expected])
    ticks = [line for line in right.lines if line.get_marker() == "|" and line.get_alpha() == 0.5]
    assert np.asarray(ticks[-1].get_xdata())[0] == 1  # the image that never settles
    assert right.get_yticklabels()[0].get_text() == "below 1/8"
    assert right.get_xlabel() == "t from which it has settled"
    drawn(figure)


def test_settling_figure_of_one_image_has_no_intervals():
    settling = some_settling()
    nothing = np.full((K, 2), np.nan)
    single = Settling(
        **{
            **vars(settling),
            "correlation": settling.correlation[:1],
            "median_low": nothing,
            "median_high": nothing,
        }
    )
    drawn(settling_figure(single))


def test_settling_figure_draws_more_bands_than_markers_and_colours():
    count = 9
    correlation = np.sort(RNG.uniform(0, 1, (5, 4, count)), axis=1)
    settled = np.sort(RNG.uniform(0, 0.9, (5, count, 2)), axis=2)
    median = np.median(settled, axis=0)
    many = replace(
        some_settling(), edges=np.arange(1, count) / 20, correlation=correlation, settled=settled,
        median=median, median_low=median, median_high=median,
    )  # fmt: skip
    left, right = settling_figure(many).axes
    curves = left.lines[:count]
    assert len({(line.get_color(), line.get_marker()) for line in curves}) == count
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == count
    assert len(right.containers) == 2 * count


def test_shift_figure_counts_steps_on_each_grid():
    times = [0.0, 0.1, 0.3, 0.6]
    run = some_settling(times)
    figure = shift_figure({"even": some_settling(), "shifted": run}, 0.9)
    grid, in_t, in_steps = figure.axes
    np.testing.assert_array_equal(np.asarray(grid.lines[1].get_ydata()), [*times, 1])
    np.testing.assert_array_equal(in_t.containers[1][0].get_ydata(), run.median[:, 1])
    expected = np.interp(run.median[:, 1], [*times, 1], range(5))
    np.testing.assert_allclose(in_steps.containers[1][0].get_ydata(), expected)
    ends = np.interp([run.median_low[:, 1], run.median_high[:, 1]], [*times, 1], range(5)).T
    np.testing.assert_allclose(ends_of(in_steps.containers[1]), ends)
    assert legend_of(grid) == ["even", "shifted"]
    drawn(figure)


def test_shift_figure_says_which_levels_there_are():
    with pytest.raises(ValueError, match=r"level must be one of \[0.5, 0.9\], got 0.8"):
        shift_figure({"even": some_settling()}, 0.8)


def test_solver_error_curves_draw_errors_by_passes():
    found = some_errors()
    figure = solver_error_curves(found)
    assert len(figure.axes) == K
    for k, axes in enumerate(figure.axes):
        euler, heun = axes.containers
        np.testing.assert_allclose(euler[0].get_xdata(), [5, 10, 20], rtol=0.061)
        np.testing.assert_allclose(heun[0].get_xdata(), [9, 19], rtol=0.061)
        np.testing.assert_array_equal(heun[0].get_ydata(), found.error[3:, k])
        ends = np.stack([found.error_low, found.error_high], 2)[:3, k]
        np.testing.assert_allclose(ends_of(euler), ends)
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert legend_of(figure) == ["order 1", "order 2", "euler", "heun"]
    assert figure.axes[0].get_title("left") == "below 1/8 cycles per pixel"
    drawn(figure)


def test_solver_error_curves_tell_many_solvers_apart():
    names = tuple(f"solver {i}" for i in range(9))
    error = RNG.uniform(0.1, 0.2, (9, K))
    found = replace(
        some_errors(), solvers=names, num_steps=np.full(9, 10), nfe=np.arange(10, 19),
        error=error, error_low=error, error_high=error,
    )  # fmt: skip
    figure = solver_error_curves(found)
    lines = [bar[0] for bar in figure.axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    assert legend_of(figure)[2:] == list(names)


def test_solver_error_curves_guides_fall_at_their_order():
    axes = solver_error_curves(some_errors()).axes[0]
    for order, style in ((1, ":"), (2, "-.")):
        (line,) = [line for line in axes.lines if line.get_linestyle() == style]
        x, y = np.log(np.asarray(line.get_xydata()).T)
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-order)


def test_few_steps_figure_shows_differences_at_one_scale():
    reference = torch.zeros(2, 3, 4, 4)
    images = {"5 steps": reference + 0.4, "10 steps": reference - 0.2}
    figure = few_steps_figure(images, reference)
    grid = np.array(figure.axes).reshape(4, 3)
    for column, value in ((0, 1.0), (1, 0.25)):
        (picture,) = grid[1, column].images
        np.testing.assert_allclose(np.asarray(picture.get_array()), value)
        np.testing.assert_allclose(
            np.asarray(grid[0, column].images[0].get_array()), (0.7, 0.4)[column]
        )
    assert grid[1, 0].get_title() == "rms 51.0 of 255"
    assert grid[0, 2].get_title() == "reference"
    assert "full colour ±51 of 255" in figure.get_suptitle()
    drawn(figure)


def test_band_pictures_share_the_final_bands_scale():
    final = torch.from_numpy(RNG.normal(size=(3, 16, 16)))
    figure = band_pictures(final / 2, final, EDGES.tolist(), title="t = 0.2")
    rows = np.array(figure.axes).reshape(2, K + 1)
    bands = split_bands(final[None], EDGES.tolist())[:, 0].numpy()
    for k, band in enumerate(bands):
        scale = np.quantile(np.abs(band), 0.995)
        expected = np.clip(band / scale / 4 + 0.5, 0, 1).transpose(1, 2, 0)
        np.testing.assert_allclose(np.asarray(rows[0, k + 1].images[0].get_array()), expected)
        assert rows[1, k + 1].get_title() == f"±{scale:.2f}"
        assert rows[0, k + 1].get_title().endswith("correlation 1.00")
    assert rows[0, 0].get_title() == "t = 0.2"
    drawn(figure)
