from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from deco_lab.plots import (
    error_change_figure,
    favoured_figure,
    loss_share_bars,
    weight_curves,
    weights_figure,
)
from deco_lab.plots.loss import CHANNEL_COLOURS, TERM_COLOURS
from deco_lab.spectra import (
    OCTAVES,
    Intervals,
    LossBands,
    band_names,
    favoured_parts,
    frequency_weights,
    inverse_block_dct,
    loss_bands,
    weight_table,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def bands_of(seed: int = 0) -> LossBands:
    return loss_bands(noise(5, 3, 16, 16, seed=seed), noise(5, 3, 16, 16, seed=seed + 1))


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
        sizes = [
            label.get_fontsize() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())
        ]
        assert float(axes.xaxis.label.get_fontsize()) >= max(map(float, sizes))
    assert "cycles per pixel" in figure.axes[0].get_ylabel()
    drawn(figure)


def test_weight_curves_draw_each_figure_of_the_table():
    table = weight_table((10, 50, 85), (0.5, 2.0))
    figure = weight_curves(table, steady=(40, 70))
    assert len(figure.axes) == 3
    for axes, values in zip(
        figure.axes, (table.share_above, table.mean, table.largest), strict=True
    ):
        assert axes.get_xlabel() == "JPEG quality"
        assert len(axes.lines) == 4
        for i, line in enumerate(axes.lines):
            x, y = line.get_data()
            np.testing.assert_array_equal(x, table.quality)
            np.testing.assert_array_equal(y, values[i % 2, :, i // 2])
            assert line.get_linestyle() == ("-", "--")[i % 2]
        assert axes.patches[0].get_extents().width == pytest.approx(
            30 * axes.transData.get_matrix()[0, 0]
        )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"gamma {gamma}, {name}" for gamma in ("0.5", "2") for name in ("luminance", "chrominance")
    ]
    drawn(figure)


def test_loss_share_bars_draw_shares_with_their_intervals():
    found = {"one": bands_of(), "two": bands_of(7)}
    figure = loss_share_bars(found)
    assert len(figure.axes) == 4
    for i, axes in enumerate(figure.axes):
        result, of = list(found.values())[i // 2], ("loss", "gradient")[i % 2]
        name = ("loss", "squared gradient")[i % 2]
        assert axes.get_title(loc="left") == f"{name}, {list(found)[i // 2]}"
        bars: list[Any] = [c for c in axes.containers if hasattr(c, "errorbar")]
        for container, (term, estimates) in zip(bars, result.band_shares(of).items(), strict=True):
            assert [bar.get_height() for bar in container] == [e.value for e in estimates]
            assert to_hex(container[0].get_facecolor()).upper() == TERM_COLOURS[term]
            ends = np.array([s[:, 1] for s in container.errorbar.lines[2][0].get_segments()])
            np.testing.assert_allclose(ends, [(e.low, e.high) for e in estimates])
        assert [tick.get_text() for tick in axes.get_xticklabels()] == band_names(OCTAVES)
        assert axes.get_xlabel() == ("band (cycles per pixel)" if i > 1 else "")
        assert axes.get_ylabel() == "share"
    drawn(figure)


def test_loss_share_bars_dot_the_share_of_a_white_error():
    axes = loss_share_bars({"": bands_of()}).axes[0]
    (dotted,) = [c for c in axes.collections if c.get_label() == "FM, were the error white"]
    heights = [np.asarray(path.vertices)[0, 1] for path in dotted.get_paths()]
    # (0,0); (0,1), (1,0), (1,1); 49 of radius 4 and more; and what is left of 64.
    np.testing.assert_allclose(heights, np.array([1, 3, 11, 49]) / 64)


def test_error_change_figure_draws_changes_against_weights():
    weights, change = frequency_weights(), noise(3, 8, 8).numpy()
    each = Intervals(change, change - 0.2, change + 0.1)
    value = noise(4).numpy()
    band = Intervals(value, value - 0.1, value + 0.3)
    names = band_names(OCTAVES)
    figure = error_change_figure(weights, each, {"Y": band, "Cb and Cr": band}, names)
    left, right = figure.axes
    for container, label in zip(left.containers, ("Y", "Cb and Cr"), strict=True):
        points, _, (bars,) = container  # type: ignore[misc]
        np.testing.assert_array_equal(points.get_ydata(), value)
        assert points.get_color() == CHANNEL_COLOURS[label]
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.stack([value - 0.1, value + 0.3], 1))
    assert [tick.get_text() for tick in left.get_xticklabels()] == names
    for i, container in enumerate(right.containers):
        points, _, (bars,) = container  # type: ignore[misc]
        np.testing.assert_allclose(points.get_xdata(), weights[i].flatten() * 1.03 ** (i - 1))
        np.testing.assert_array_equal(points.get_ydata(), change[i].ravel())
        assert container.get_label() == ("Y", "Cb", "Cr")[i]
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.stack([each.low[i].ravel(), each.high[i].ravel()], 1))
    assert (right.get_xlabel(), right.get_xscale()) == ("weight in FreqFM", "log")
    assert "dB" in left.get_ylabel()
    drawn(figure)


def test_favoured_figure_draws_the_parts_on_one_scale():
    images, weights = noise(2, 3, 16, 16), frequency_weights()
    figure = favoured_figure(images, weights, ["a", "b"], scale=2.0)
    parts = [images.numpy(), *(part.numpy() for part in favoured_parts(images, weights))]
    assert len(figure.axes) == 6
    for i, axes in enumerate(figure.axes):
        image = parts[i // 2][i % 2]
        expected = np.clip(image.transpose(1, 2, 0) / 4 + 0.5, 0, 1)
        np.testing.assert_allclose(axes.images[0].get_array(), expected)  # type: ignore[arg-type]
        rms = f"rms {np.sqrt((image**2).mean()):.2f}"
        assert axes.get_title() == ("ab"[i] + "\n" + rms if i < 2 else rms)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["whole", "weight ≥ 1", "weight < 1"]
    assert figure.get_suptitle() == "grey is 0, full colour ±2"
    drawn(figure)


def test_favoured_figure_takes_its_scale_from_the_images():
    coefficients = torch.zeros(1, 3, 1, 1, 8, 8)
    coefficients[..., 0, 0] = 8.0  # a flat image of 1
    figure = favoured_figure(inverse_block_dct(coefficients), frequency_weights(), ["flat"])
    assert figure.get_suptitle() == "grey is 0, full colour ±1"
