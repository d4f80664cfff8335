from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from deco_lab.plots import (
    burn_figure,
    burnt_pixels,
    change_curves,
    guidance_curves,
    guidance_growth,
    guided_figure,
    picture_rows,
)
from deco_lab.plots.guidance import BURNT
from deco_lab.spectra import GuidanceSpectrum, Intervals, band_names

RNG = np.random.default_rng(0)
TIMES = np.array([0.2, 0.5, 0.8])
EDGES = np.array([1 / 8, 1 / 4])
FREQUENCY = np.arange(9) / 16
CHANCE = np.array([0.04, 0.01, 0.0025])


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


def some_spectrum() -> GuidanceSpectrum:
    shape = (len(TIMES), len(EDGES) + 1)
    power, cosine = RNG.uniform(1, 2, shape), RNG.uniform(-0.5, 0.5, shape)
    return GuidanceSpectrum(
        times=TIMES,
        edges=EDGES,
        power=power,
        power_low=power - 0.2,
        power_high=power + 0.3,
        uncond_power=RNG.uniform(1, 2, shape),
        cosine=cosine,
        cosine_low=cosine - 0.1,
        cosine_high=cosine + 0.2,
        image_cosine=-cosine,
        image_cosine_low=-cosine - 0.2,
        image_cosine_high=-cosine + 0.1,
        fraction=np.array([0.1, 0.2, 0.7]),
        chance=CHANCE,
        count=5,
        recipe={},
    )


def some_change(size: int = len(FREQUENCY)) -> Intervals:
    value = RNG.normal(size=size)
    return Intervals(value, value - 0.5, value + 0.25)


def single(value: float) -> Intervals:
    return Intervals(np.array(value), np.array(value - 0.1), np.array(value + 0.2))


def test_guidance_curves_draw_power_and_cosine_with_intervals():
    spectrum = some_spectrum()
    figure = guidance_curves(spectrum, [3.0, 2.0, 1.0])
    assert legend_of(figure) == ["cond - uncond", "uncond", "real images"]
    for band, name in enumerate(band_names(EDGES.tolist())):
        upper, lower = figure.axes[band], figure.axes[3 + band]
        assert upper.get_title(loc="left") == f"{name} cycles per pixel"
        assert upper.get_yscale() == "log"
        for axes, kind in ((upper, "power"), (lower, "image_cosine")):
            (line,) = [line for line in axes.lines if line.get_marker() == "o"]
            np.testing.assert_array_equal(line.get_ydata(), getattr(spectrum, kind)[:, band])
            low, high = ends_of(axes.collections[0], TIMES)
            np.testing.assert_allclose(low, getattr(spectrum, f"{kind}_low")[:, band])
            np.testing.assert_allclose(high, getattr(spectrum, f"{kind}_high")[:, band])
        np.testing.assert_array_equal(upper.lines[1].get_ydata(), spectrum.uncond_power[:, band])
        np.testing.assert_array_equal(upper.lines[2].get_ydata(), [3 - band] * 2)
        (line,) = [line for line in lower.lines if line.get_marker() == "s"]
        np.testing.assert_array_equal(line.get_ydata(), spectrum.cosine[:, band])
        levels = [np.asarray(line.get_ydata())[0] for line in lower.lines[:2]]
        np.testing.assert_allclose(levels, [-np.sqrt(CHANCE[band]), np.sqrt(CHANCE[band])])
        assert lower.get_xlabel() == "t (0 noise, 1 image)"
    drawn(figure)


def test_guidance_growth_draws_each_kind_of_states():
    spectra = {"crops": some_spectrum(), "run": some_spectrum()}
    figure = guidance_growth(spectra)
    assert legend_of(figure) == ["crops", "run"]
    for band, axes in enumerate(figure.axes):
        for line, shade, spectrum in zip(
            axes.lines, axes.collections, spectra.values(), strict=True
        ):
            np.testing.assert_array_equal(line.get_ydata(), spectrum.power[:, band])
            low, _ = ends_of(shade, TIMES)
            np.testing.assert_allclose(low, spectrum.power_low[:, band])
    drawn(figure)


def test_guidance_growth_tells_many_kinds_apart():
    spectra = {f"kind {i}": some_spectrum() for i in range(9)}
    figure = guidance_growth(spectra)
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9
    assert legend_of(figure) == list(spectra)
    drawn(figure)


def test_burnt_pixels_colours_what_leaves_the_range():
    images = np.zeros((1, 3, 2, 2))
    images[0, 1, 0, 1] = 1.01
    images[0, 2, 1, 0] = -1.5
    images[0, 0, 1, 1] = 1.0
    picture = (burnt_pixels(images)[0].transpose(1, 2, 0) + 1) / 2
    for row, column in ((0, 1), (1, 0)):
        np.testing.assert_allclose(picture[row, column], BURNT)
    for row, column in ((0, 0), (1, 1)):
        assert np.ptp(picture[row, column]) == 0


def test_picture_rows_name_their_rows_and_columns():
    rows = {name: RNG.uniform(-2, 2, (2, 3, 4, 4)) for name in ("plain", "APG")}
    figure = picture_rows(rows, ["a", "b"])
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["plain", "APG"]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    for i, axes in enumerate(figure.axes):
        image = list(rows.values())[i // 2][i % 2].transpose(1, 2, 0)
        shown: Any = axes.images[0].get_array()
        np.testing.assert_allclose(shown, np.clip(image / 2 + 0.5, 0, 1))
    drawn(figure)


def test_change_curves_draw_each_panel_and_leave_out_dc():
    changes = {name: some_change() for name in ("plain", "low", "APG")}
    figure = change_curves(
        FREQUENCY, changes, {"band": ["plain", "low"], "other": ["plain", "APG"]}
    )
    for axes, title, second in zip(figure.axes, ("band", "other"), ("low", "APG"), strict=True):
        assert axes.get_title(loc="left") == title
        assert legend_of(axes) == ["plain", second]
        assert to_hex(axes.lines[0].get_color()) == "#000000"
        for line, shade, name in zip(axes.lines, axes.collections, ("plain", second), strict=False):
            np.testing.assert_array_equal(line.get_xdata(), FREQUENCY[1:])
            np.testing.assert_array_equal(line.get_ydata(), changes[name].value[1:])
            low, high = ends_of(shade, FREQUENCY[1:])
            np.testing.assert_allclose(low, changes[name].low[1:])
            np.testing.assert_allclose(high, changes[name].high[1:])
        assert axes.get_xlabel() == "frequency (cycles per pixel)"
    assert "dB" in figure.axes[0].get_ylabel()
    drawn(figure)


@pytest.mark.parametrize("panels", [1, 2])
def test_change_curves_tell_many_rules_apart(panels):
    names = [f"rule {i}" for i in range(15)]
    changes = {name: some_change() for name in names}
    drawn_in = {"all": names} | ({"first": names[:1]} if panels == 2 else {})
    figure = change_curves(FREQUENCY, changes, drawn_in)
    lines = figure.axes[0].lines[:15]
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in lines}
    assert len(looks) == 15
    black = [line for line in lines if to_hex(line.get_color()) == "#000000"]
    assert len(black) == panels - 1


def test_burn_figure_draws_points_with_their_intervals():
    contrast = {"none": single(1.0), "plain": single(1.4)}
    clipped = {"none": single(0.2), "plain": single(0.5)}
    figure = burn_figure(contrast, clipped)
    for axes, found in zip(figure.axes, (contrast, clipped), strict=True):
        points, _, (bars,) = axes.containers[0]  # type: ignore[misc]
        np.testing.assert_array_equal(points.get_xdata(), [float(e.value) for e in found.values()])
        ends = np.array([segment[:, 0] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, [(float(e.low), float(e.high)) for e in found.values()])
    left = figure.axes[0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["none", "plain"]
    assert left.yaxis_inverted()
    drawn(figure)


def test_guided_figure_draws_pictures_burns_and_the_change():
    images = np.zeros((2, 3, 4, 4))
    images[0, 0, 0, 0] = 2
    change, reference = some_change(), some_change()
    figure = guided_figure(images, FREQUENCY, change, reference, "plain")
    assert figure.get_suptitle() == "plain: 1.0% of the values of these 2 images outside ±1"
    single = guided_figure(images[:1], FREQUENCY, change, reference, "plain")
    assert single.get_suptitle() == "plain: 2.1% of the values of this image outside ±1"
    *pictures, axes = figure.axes
    assert len(pictures) == 4
    burnt: Any = pictures[2].images[0].get_array()
    np.testing.assert_allclose(burnt[0, 0], BURNT)
    assert np.ptp(burnt[1, 1]) == 0
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), reference.value[1:])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), change.value[1:])
    assert axes.get_ylim() == (-4, 8)
    drawn(figure)
