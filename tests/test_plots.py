import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import (
    band_share_curves,
    decomposition_figure,
    image_grid,
)
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
from deco_lab.spectra import (
    Decomposition,
    band_names,
)

EDGES = (1 / 16, 1 / 8, 1 / 4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def traces_of(figure: Any) -> list[Any]:
    return list(figure.data)


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
        "baseline", "+ Shapley value", "+ Shapley value", "= velocity", "interaction",
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
    assert [trace.name for trace in traces if trace.showlegend] == [
        "Shapley value of the condition", "Shapley value of the pixels",
    ]  # fmt: skip
    assert figure.layout.xaxis.title.text == "t (0 noise, 1 image)"
    assert figure.layout.yaxis.title.text == "share of the band"
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == [f"{name} cycles per pixel" for name in band_names(EDGES)]


def test_band_share_curves_of_one_part_have_no_legend():
    one: Any = band_share_curves([0, 1], {"predicted image": noise(2, 4)}, EDGES)
    assert not any(trace.showlegend for trace in traces_of(one))
    assert one.layout.yaxis.title.text == "predicted image, share of the band"


def test_band_share_curves_beyond_the_colours_are_dashed():
    shares = {f"part {i}": noise(2, 4) for i in range(8)}
    traces = traces_of(band_share_curves([0, 1], shares, EDGES))
    assert [trace.line.dash for trace in traces[::4]] == ["solid"] * 7 + ["dash"]


def test_array_of_takes_tensors_of_any_kind():
    narrow = torch.tensor([0.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    array = array_of(narrow)
    assert array.dtype == np.float64
    assert array.tolist() == array_of([0.5, -2]).tolist() == [0.5, -2]


def test_colours_are_distinct():
    assert len(set(COLOURS)) == len(COLOURS)
    parts = {name: c for name, c in PART_COLOURS.items() if "_main" not in name}
    assert len(set(parts.values())) == len(parts)
    assert PART_COLOURS["pixels_main"] == PART_COLOURS["decoder"]  # two names of one part


def test_series_beyond_the_colours_stay_distinct():
    drawn = {(colour_of("", i), marker_of(i)) for i in range(42)}
    assert len(drawn) == 42
    lines = {(colour_of("", i), line_of(i)) for i in range(28)}
    assert len(lines) == 28
    assert {line_of(i) for i in range(len(COLOURS))} == {"-"}


def test_beside_leaves_room_to_the_next_place():
    for count in (1, 2, 5, 12):
        places = [beside(i, count) for i in range(count)]
        assert sum(places) == pytest.approx(0)
        assert max(places) - min(places) < 0.8
    assert [beside(i, 2, 0.16) for i in range(2)] == pytest.approx([-0.08, 0.08])


def test_whiskers_are_never_negative_and_0_without_an_interval():
    found = whiskers([1.0, 2.0, 3.0], [0.5, 2.5, np.nan], [1.25, 3.0, np.nan])
    np.testing.assert_array_equal(found, [[0.5, 0, 0], [0.25, 1, 0]])


def test_limit_shares_cuts_parts_that_cancel():
    axes = new_figure(2, 2).subplots()
    limit_shares(axes, [0.2, np.nan, 0.7])
    assert axes.get_ylim() == pytest.approx((-0.1, 1.1))
    limit_shares(axes, [-9.0, 10.0])
    assert axes.get_ylim() == (-1.5, 2)


def test_plots_work_without_plotly():
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "import torch; from deco_lab.plots import image_grid\n"
        "print(type(image_grid(torch.zeros(1, 3, 4, 4))).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "StaticFigure"
