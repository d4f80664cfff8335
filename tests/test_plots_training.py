from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import evaluation_figure, loss_curve
from deco_lab.plots.training import smooth


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_loss_curve_draws_losses_and_their_trend():
    steps, loss = np.arange(10, 30), noise(20).exp().numpy()
    figure = loss_curve(steps, {"flow matching": loss}, smoothing=5)
    (axes,) = figure.axes
    measured, smoothed = axes.lines
    np.testing.assert_array_equal(measured.get_xdata(), steps)
    np.testing.assert_array_equal(measured.get_ydata(), loss)
    np.testing.assert_allclose(np.asarray(smoothed.get_ydata()), smooth(loss, 5))
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "loss")
    assert legend_of(axes) == ["flow matching"]
    drawn(figure)


def test_smooth_does_not_lag():
    decay = 3 * 0.9 ** np.arange(40)
    np.testing.assert_allclose(smooth(decay, 15), decay)


def test_smooth_is_the_geometric_mean_of_a_centred_window():
    values = np.array([1.0, 2, 4, 32, 1, 5])
    np.testing.assert_allclose(smooth(values, 3)[1:5], np.cbrt([8, 256, 128, 160]))
    np.testing.assert_allclose(smooth(values, 5)[2], 256 ** (1 / 5))
    np.testing.assert_allclose(smooth(values, 1), values)
    np.testing.assert_allclose(smooth(values[:1], 15), values[:1])


def test_smooth_fits_a_line_at_the_ends():
    values = np.exp(np.array([0.0, 3, 1, 2, 0]))
    slope, intercept = np.polyfit([0, 1, 2], [0, 3, 1], 1)
    assert smooth(values, 5)[0] == pytest.approx(np.exp(intercept))
    slope, intercept = np.polyfit([0, 1, 2], [1, 2, 0], 1)
    assert smooth(values, 5)[-1] == pytest.approx(np.exp(intercept + 2 * slope))


def test_evaluation_figure_draws_means_and_coefficients():
    ratio = np.array([[9.0, 1, 2, 3], [9.0, 3, 4, 5]])
    coefficients = np.arange(192.0).reshape(3, 8, 8) - 90
    figure = evaluation_figure(
        [0, 1 / 6, 2 / 6, 3 / 6], {"tiny": ratio, "real": -ratio}, coefficients, title="tiny"
    )
    axes, *panels = figure.get_axes()
    line = axes.get_lines()[0]
    assert np.array_equal(line.get_xdata(), [1 / 6, 2 / 6, 3 / 6])
    assert np.array_equal(line.get_ydata(), [2, 3, 4])
    assert axes.get_legend_handles_labels()[1] == ["tiny", "real"]
    assert "cycles per pixel" in axes.get_xlabel()
    for panel, expected in zip(panels, coefficients, strict=False):
        assert np.array_equal(np.asarray(panel.get_images()[0].get_array()), expected)


def test_evaluation_figure_draws_all_of_many_labels():
    many = {f"model {i}": np.full((2, 4), float(i)) for i in range(9)}
    axes = evaluation_figure([0, 1 / 6, 2 / 6, 3 / 6], many, np.zeros((3, 8, 8))).axes[0]
    assert legend_of(axes) == list(many)
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines[:9]}
    assert len(looks) == 9
