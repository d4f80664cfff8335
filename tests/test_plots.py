import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.plots import (
    band_share_curves,
    burnt_pixels,
    decomposition_figure,
    image_grid,
    picture_rows,
)
from deco_lab.plots.guidance import BURNT
from deco_lab.plots.style import (
    COLOURS,
    PART_COLOURS,
    array_of,
    beside,
    colour_of,
    limit_shares,
    line_of,
    marker_of,
    new_figure,
    whiskers,
)
from deco_lab.plots.training import smooth
from deco_lab.result import Estimate
from deco_lab.spectra import Decomposition, band_names

EDGES = (1 / 16, 1 / 8, 1 / 4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pixels(axes: Any) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_image_grid_draws_sharp_pixels():
    images = noise(5, 3, 4, 6)
    figure: Any = image_grid(images, [*"abcde"], columns=3)
    assert len(figure.axes) == 6
    for axes, image, title in zip(figure.axes[:5], images, "abcde", strict=True):
        np.testing.assert_allclose(pixels(axes), (image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0))
        assert axes.images[0].get_interpolation() == "nearest"
        assert axes.get_title() == title
    assert not figure.axes[5].images
    assert not any(axes.axison for axes in figure.axes)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pixels(image_grid(-torch.ones(1, 1, 2, 2)).axes[0]).shape == (2, 2, 3)  # grey


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.zeros(3, 4, 4),), r"images must have shape .* got \(3, 4, 4\); add"),
        ((torch.zeros(2, 3, 4, 4), ["a"]), "titles must be 2, one for each image, got 1"),
    ],
)
def test_image_grid_says_what_is_wrong(arguments: Any, match: str):
    with pytest.raises(ValueError, match=match):
        image_grid(*arguments)


def test_picture_rows_name_their_rows_and_columns():
    rows = {name: 2 * noise(2, 3, 4, 4) for name in ("plain", "APG")}
    figure = picture_rows(rows, ["a", "b"])
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["plain", "APG"]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    for i, axes in enumerate(figure.axes):
        image = list(rows.values())[i // 2][i % 2].permute(1, 2, 0)
        np.testing.assert_allclose(pixels(axes), (image / 2 + 0.5).clamp(0, 1))


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
    scale = np.quantile(parts.velocity.abs().numpy(), 0.995)
    names = ["baseline", "dit", "decoder", "velocity", "interaction"]
    assert len(figure.axes) == 10
    for i, axes in enumerate(figure.axes):
        part = getattr(parts, names[i % 5])[i // 5]
        expected = (part.permute(1, 2, 0) / scale / 2 + 0.5).clamp(0, 1)
        np.testing.assert_allclose(pixels(axes), expected)
        assert f"rms {part.square().mean().sqrt():.2f}" in axes.get_title()
    assert figure.axes[1].get_title().startswith("+ Shapley value\nof the condition")
    assert f"±{scale:.2g}" in figure.get_suptitle()
    assert 'condition against "null", pixels against "zero", order "sh' in figure.get_suptitle()
    assert len(decomposition_figure(parts, max_images=1).axes) == 5
    assert (pixels(decomposition_figure(decomposition(scale=0.0)).axes[0]) == 0.5).all()


def test_band_share_curves_draw_each_share_over_t():
    times = np.linspace(0, 0.9, 7)
    shares = {"dit": noise(7, 4), "decoder": noise(7, 4) + 1}
    figure: Any = band_share_curves(times, shares, EDGES)
    assert len(figure.data) == 8
    for i, trace in enumerate(figure.data):
        name = ("dit", "decoder")[i // 4]
        np.testing.assert_array_equal(trace.x, times)
        np.testing.assert_array_equal(trace.y, shares[name][:, i % 4])
        assert trace.line.color == PART_COLOURS[name]
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "Shapley value of the condition", "Shapley value of the pixels",
    ]  # fmt: skip
    assert figure.layout.xaxis.title.text == "t (0 noise, 1 image)"
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == [f"{name} cycles per pixel" for name in band_names(EDGES)]
    one: Any = band_share_curves([0, 1], {"predicted image": noise(2, 4)}, EDGES)
    assert not any(trace.showlegend for trace in one.data)
    assert one.layout.yaxis.title.text == "predicted image, share of the band"


def test_burnt_pixels_colours_what_leaves_the_range():
    images = np.zeros((1, 3, 2, 2))
    images[0, 1, 0, 1], images[0, 2, 1, 0], images[0, 0, 1, 1] = 1.01, -1.5, 1.0
    picture = (burnt_pixels(images)[0].transpose(1, 2, 0) + 1) / 2
    for row, column in ((0, 1), (1, 0)):
        np.testing.assert_allclose(picture[row, column], BURNT)
    for row, column in ((0, 0), (1, 1)):
        assert np.ptp(picture[row, column]) == 0


def test_smooth_does_not_lag_and_fits_lines_at_the_ends():
    decay = 3 * 0.9 ** np.arange(40)
    np.testing.assert_allclose(smooth(decay, 15), decay)
    values = np.array([1.0, 2, 4, 32, 1, 5])
    np.testing.assert_allclose(smooth(values, 3)[1:5], np.cbrt([8, 256, 128, 160]))
    np.testing.assert_allclose(smooth(values, 1), values)
    _, intercept = np.polyfit([0, 1, 2], np.log(values[:3]), 1)
    assert smooth(values, 5)[0] == pytest.approx(np.exp(intercept))


def test_series_beyond_the_colours_stay_distinct():
    assert len(set(COLOURS)) == len(COLOURS)
    assert len({(colour_of("", i), marker_of(i)) for i in range(42)}) == 42
    assert len({(colour_of("", i), line_of(i)) for i in range(28)}) == 28


def test_style_leaves_room_cuts_shares_and_needs_no_interval():
    for count in (1, 2, 5, 12):
        places = [beside(i, count) for i in range(count)]
        assert sum(places) == pytest.approx(0)
        assert max(places) - min(places) < 0.8
    value, low, high = np.array([[1.0, 2, 3], [0.5, 2.5, np.nan], [1.25, 3, np.nan]])
    np.testing.assert_array_equal(whiskers(Estimate(value, low, high)), [[0.5, 0, 0], [0.25, 1, 0]])
    axes = new_figure(2, 2).subplots()
    limit_shares(axes, [0.2, np.nan, 0.7])
    assert axes.get_ylim() == pytest.approx((-0.1, 1.1))
    limit_shares(axes, [-9.0, 10.0])
    assert axes.get_ylim() == (-1.5, 2)


def test_array_of_takes_tensors_of_any_kind():
    array = array_of(torch.tensor([0.5, -2.0], dtype=torch.bfloat16, requires_grad=True))
    assert array.dtype == np.float64
    assert array.tolist() == array_of([0.5, -2]).tolist() == [0.5, -2]


def test_plots_work_without_plotly():
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "import torch; from deco_lab.plots import image_grid\n"
        "print(type(image_grid(torch.zeros(1, 3, 4, 4))).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "StaticFigure"
