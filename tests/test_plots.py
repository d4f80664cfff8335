import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import (
    band_share_bars,
    band_share_curves,
    dct_curves,
    decomposition_figure,
    energy_over_time,
    evaluation_figure,
    image_grid,
    loss_curve,
    radial_curves,
    weights_figure,
)
from deco_lab.plots.curves import smooth
from deco_lab.plots.style import COLOURS, PART_COLOURS, array_of
from deco_lab.spectra import (
    Decomposition,
    RadialPower,
    band_names,
    frequency_weights,
    log_energy,
    zigzag_order,
)

EDGES = (1 / 16, 1 / 8, 1 / 4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def traces_of(figure: Any) -> list[Any]:
    return list(figure.data)


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_image_grid_draws_sharp_pixels():
    images = noise(5, 3, 4, 6)
    figure = image_grid(images, [*"abcde"], columns=3)
    assert len(figure.axes) == 6
    for axes, image, title in zip(figure.axes[:5], images, "abcde", strict=True):
        (picture,) = axes.images
        expected = (image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
        np.testing.assert_allclose(picture.get_array(), expected)  # type: ignore[arg-type]
        assert picture.get_interpolation() == "nearest"
        assert axes.get_title() == title
    assert not figure.axes[5].images
    assert not any(axes.axison for axes in figure.axes)
    assert drawn(figure).startswith(b"\x89PNG")


def test_image_grid_repeats_grey():
    (axes,) = image_grid(torch.full((1, 1, 2, 2), -1.0)).axes
    assert axes.images[0].get_array().shape == (2, 2, 3)  # type: ignore[union-attr]


def test_image_grid_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"images must have shape .* got \(3, 4, 4\); add"):
        image_grid(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="titles must be 2, one for each image, got 1"):
        image_grid(torch.zeros(2, 3, 4, 4), ["a"])


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
    figure = dct_curves({"image": energy, "dit": energy}, patch_sizes={"dit": 8}, raw=True)
    left, right = figure.axes
    assert legend_of(left) == ["image", "DiT (tokens of 8 x 8 pixels)"]
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


def test_radial_curves_draw_power_without_dc():
    radial = RadialPower(
        frequency=torch.linspace(0, 0.5, 9, dtype=torch.float64), power=noise(9).exp()
    )
    figure = radial_curves({"image": radial, "velocity": radial})
    (axes,) = figure.axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, radial.frequency[1:])  # type: ignore[arg-type]
    np.testing.assert_array_equal(y, radial.power[1:])  # type: ignore[arg-type]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "frequency (cycles per pixel)"
    assert {t.get_text() for t in axes.get_xticklabels()} == {"1/16", "1/8", "1/4", "1/2"}
    assert axes.lines[1].get_color() == PART_COLOURS["velocity"]
    drawn(figure)


@pytest.mark.parametrize("quality", [85, 100])
def test_weights_figure_writes_every_weight(quality):
    weights = frequency_weights(quality)
    figure = weights_figure(weights)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["Y", "Cb", "Cr"]
    for axes, table in zip(figure.axes, weights, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), table)  # type: ignore[arg-type]
        for text in axes.texts:
            column, row = text.get_position()
            assert text.get_text() == f"{table[int(row), int(column)]:.2f}"
        assert len(axes.texts) == 64
    drawn(figure)


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


def decomposition(scale: float = 1.0) -> Decomposition:
    baseline, dit, decoder, interaction = scale * noise(4, 2, 3, 8, 8)
    return Decomposition(
        baseline=baseline, dit=dit, decoder=decoder, interaction=interaction,
        velocity=baseline + dit + decoder, condition_reference="null", pixel_reference="zero",
        order="shapley", seed=0,
    )  # fmt: skip


def test_decomposition_figure_draws_the_parts_on_one_scale():
    parts = decomposition()
    figure = decomposition_figure(parts)
    assert len(figure.axes) == 10
    scale = np.quantile(parts.velocity.abs().numpy(), 0.995)
    names = ["baseline", "dit", "decoder", "velocity", "interaction"]
    for i, axes in enumerate(figure.axes):
        part = getattr(parts, names[i % 5])[i // 5]
        expected = (part.permute(1, 2, 0) / scale / 2 + 0.5).clamp(0, 1)
        np.testing.assert_allclose(axes.images[0].get_array(), expected)  # type: ignore[arg-type]
        assert f"rms {part.square().mean().sqrt():.2f}" in axes.get_title()
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[:5]] == [
        "baseline", "+ DiT", "+ decoder", "= velocity", "interaction",
    ]  # fmt: skip
    title = figure.get_suptitle()
    assert f"±{scale:.2g}" in title
    assert 'condition against "null", pixels against "zero", order "shapley"' in title
    drawn(figure)


def test_decomposition_figure_draws_at_most_max_images():
    parts = decomposition()
    figure = decomposition_figure(parts, max_images=1)
    assert len(figure.axes) == 5
    scale = np.quantile(parts.velocity[:1].abs().numpy(), 0.995)
    assert f"±{scale:.2g}" in figure.get_suptitle()


def test_decomposition_figure_of_nothing_is_grey():
    figure = decomposition_figure(decomposition(scale=0.0))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), 0.5)  # type: ignore[arg-type]


def test_band_share_bars_draw_each_share():
    shares = {"dit": torch.tensor([0.9, 0.5, -0.1, 0.2]), "decoder": torch.tensor([0.1] * 4)}
    figure = band_share_bars(shares, EDGES)
    (axes,) = figure.axes
    for bars, (name, values) in zip(axes.containers, shares.items(), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in bars], values)
        assert bars[0].get_facecolor()[:3] == pytest.approx(rgb(PART_COLOURS[name]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == band_names(EDGES)
    assert axes.get_xlabel() == "band (cycles per pixel)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DiT", "decoder"]
    drawn(figure)


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_band_share_curves_draw_each_share_over_t():
    times = np.linspace(0, 0.9, 7)
    shares = {"dit": noise(7, 4), "decoder": noise(7, 4) + 1}
    figure: Any = band_share_curves(times, shares, EDGES)
    traces = traces_of(figure)
    assert len(traces) == 8
    for i, trace in enumerate(traces):
        name = ("dit", "decoder")[i // 4]
        np.testing.assert_array_equal(trace.x, times)
        np.testing.assert_array_equal(trace.y, shares[name][:, i % 4])
        assert trace.line.color == PART_COLOURS[name]
        assert trace.xaxis == ("x" if i % 4 == 0 else f"x{i % 4 + 1}")
    assert [trace.name for trace in traces if trace.showlegend] == ["DiT", "decoder"]
    assert figure.layout.xaxis.title.text == "t (0 noise, 1 image)"
    assert figure.layout.yaxis.title.text == "share of the band"
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == [f"{name} cycles per pixel" for name in band_names(EDGES)]


def test_energy_over_time_draws_decibels_in_zigzag_order():
    energies = noise(5, 8, 8).square()
    figure: Any = energy_over_time(np.linspace(0, 1, 5), energies, patch_size=4)
    (heatmap,) = traces_of(figure)
    assert heatmap.z.shape == (64, 5)
    order = zigzag_order()
    for step, index in [(0, 0), (3, 2), (4, 63)]:
        row, column = divmod(order[index], 8)
        expected = 10 * np.log10(energies[step, row, column].item())
        assert heatmap.z[index, step] == pytest.approx(expected)
        cycles = np.hypot(row, column) / 16 / 4
        assert heatmap.customdata[index, step] == pytest.approx(cycles)
    assert figure.layout.xaxis.title.text == "t (0 noise, 1 image)"
    assert figure.layout.yaxis.title.text == "DCT coefficient (zigzag index)"


def test_energy_over_time_bounds_the_range_of_nothing():
    energies = torch.zeros(2, 8, 8)
    energies[0, 0, 0] = 100.0
    (heatmap,) = traces_of(energy_over_time([0, 1], energies))
    assert heatmap.z.max() == 20
    assert heatmap.z.min() == pytest.approx(-60)


def test_array_of_takes_tensors_of_any_kind():
    narrow = torch.tensor([0.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    array = array_of(narrow)
    assert array.dtype == np.float64
    assert array.tolist() == array_of([0.5, -2]).tolist() == [0.5, -2]


def test_colours_are_distinct():
    assert len(set(COLOURS)) == len(COLOURS)
    assert len(set(PART_COLOURS.values())) == len(PART_COLOURS)


def test_plots_work_without_plotly():
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "import torch; from deco_lab.plots import image_grid\n"
        "print(type(image_grid(torch.zeros(1, 3, 4, 4))).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "StaticFigure"


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
