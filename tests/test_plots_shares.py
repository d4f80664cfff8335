from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import (
    band_share_bars,
    control_figure,
    effect_curves,
    reference_ranges,
    split_curves,
)
from deco_lab.plots.style import COLOURS, PART_COLOURS
from deco_lab.spectra import OCTAVES, BandEffects, ReferenceSensitivity, band_names

RNG = np.random.default_rng(0)
TIMES = np.array([0.2, 0.5, 0.8])
EDGES = np.array([1 / 8, 1 / 4])
NAMES = band_names(EDGES.tolist())
K = len(NAMES)


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(holder: Any) -> list[str]:
    legend = holder.get_legend() if hasattr(holder, "get_legend") else holder.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def around(values: np.ndarray, name: str) -> dict[str, Any]:
    return {name: values, f"{name}_low": values - 0.1, f"{name}_high": values + 0.2}


def ends_of(container: Any, axis: int) -> np.ndarray:
    """Return the lower and upper ends of an errorbar's bars, (n, 2)."""
    return np.array([segment[:, axis] for segment in container[2][0].get_segments()])


def shade_of(band: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends that fill_between drew at x."""
    corners = band.get_paths()[0].vertices
    ys = [corners[np.isclose(corners[:, 0], place), 1] for place in x]
    return np.array([y.min() for y in ys]), np.array([y.max() for y in ys])


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def some_effects() -> BandEffects:
    shape = (len(TIMES), 4, len(EDGES) + 1)
    energy = np.ones((len(TIMES), len(EDGES) + 1))
    return BandEffects(
        times=TIMES,
        edges=EDGES,
        velocity_energy=energy,
        predicted_energy=energy,
        velocity_cancellation=energy,
        predicted_cancellation=energy,
        count=5,
        recipe={},
        **around(RNG.uniform(0, 1, shape), "velocity"),
        **around(RNG.uniform(0, 1, shape), "predicted"),
    )


def some_shares(times: tuple[float, ...] = (0.3, 0.5)) -> BandEffects:
    shape = (len(times), 4, K)
    fields = {}
    for whole in ("velocity", "predicted"):
        value = RNG.uniform(0, 1, shape)
        fields |= {whole: value, f"{whole}_low": value - 0.1, f"{whole}_high": value + 0.2}
        fields[f"{whole}_energy"] = np.ones((len(times), K))
        fields[f"{whole}_cancellation"] = np.ones((len(times), K))
    return BandEffects(times=np.array(times), edges=EDGES, count=5, **fields)


def some_split(seed: int) -> BandEffects:
    shares = np.random.default_rng(seed).uniform(0, 1, (2, 3, 4, 2))
    energy = np.ones((3, 2))
    return BandEffects(
        times=TIMES,
        edges=np.array([0.25]),
        velocity=shares[0],
        velocity_low=shares[0] - 0.1,
        velocity_high=shares[0] + 0.2,
        velocity_energy=energy,
        predicted=shares[1],
        predicted_low=shares[1] - 0.1,
        predicted_high=shares[1] + 0.2,
        predicted_energy=energy,
        velocity_cancellation=energy,
        predicted_cancellation=energy,
        count=5,
        recipe={},
    )


def lines_of(figure: Figure, panel: int) -> dict[str, np.ndarray]:
    """Return the drawn curves of a panel by label, without the guides."""
    curves = {str(line.get_label()): line for line in figure.axes[panel].lines}
    return {k: np.asarray(v.get_ydata()) for k, v in curves.items() if not k.startswith("_")}


def test_band_share_bars_draw_each_share():
    shares = {"dit": torch.tensor([0.9, 0.5, -0.1, 0.2]), "decoder": torch.tensor([0.1] * 4)}
    figure = band_share_bars(shares, OCTAVES)
    (axes,) = figure.axes
    for bars, (name, values) in zip(axes.containers, shares.items(), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in bars], values)
        assert bars[0].get_facecolor()[:3] == pytest.approx(rgb(PART_COLOURS[name]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == band_names(OCTAVES)
    assert axes.get_xlabel() == "band (cycles per pixel)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Shapley value of the condition", "Shapley value of the pixels",
    ]  # fmt: skip
    drawn(figure)


def test_effect_curves_draw_shares_with_intervals():
    effects = some_effects()
    figure = effect_curves(effects)
    assert legend_of(figure) == [
        "baseline", "main effect of the condition", "main effect of the pixels", "interaction",
    ]  # fmt: skip
    for row, whole in enumerate(("predicted", "velocity")):
        for band in range(3):
            axes = figure.axes[3 * row + band]
            lines = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == len(TIMES)]
            for i, (line, shade) in enumerate(zip(lines, axes.collections, strict=True)):
                np.testing.assert_array_equal(line.get_xdata(), TIMES)
                expected = getattr(effects, whole)[:, i, band]
                np.testing.assert_array_equal(line.get_ydata(), expected)
                low, high = shade_of(shade, TIMES)
                np.testing.assert_allclose(low, getattr(effects, f"{whole}_low")[:, i, band])
                np.testing.assert_allclose(high, getattr(effects, f"{whole}_high")[:, i, band])
            assert lines[2].get_color() == PART_COLOURS["decoder"]
    assert figure.axes[1].get_title("left") == "1/8 to 1/4 cycles per pixel"
    assert figure.axes[3].get_ylabel() == "share of the velocity"
    assert figure.axes[3].get_xlabel() == "t (0 noise, 1 image)"
    drawn(figure)


def test_effect_curves_say_where_parts_cancel_in_place_of_shares():
    effects = some_effects()
    effects = replace(effects, velocity_cancellation=np.array([3.0, 1, 1])[:, None] + np.zeros(3))
    effects.velocity[0] = np.nan
    figure = effect_curves(effects)
    assert " ".join(figure.get_supxlabel().split()) == effects.unshared("velocity")
    assert "the parts cancel" in figure.get_supxlabel()
    assert figure.axes[3].get_ylim()[1] < 1.2
    assert effect_curves(some_effects()).get_supxlabel() == ""
    effects.velocity[:] = np.nan
    drawn(effect_curves(effects))


def test_reference_ranges_mark_every_choice():
    shares = RNG.uniform(-1, 2, (3, 2, len(TIMES), 4, 3))
    sensitivity = ReferenceSensitivity(
        times=TIMES,
        edges=EDGES,
        condition_references=("mean", "time", "null"),
        pixel_references=("zero", "noise"),
        velocity=shares,
        velocity_low=shares.min((0, 1)),
        velocity_high=shares.max((0, 1)),
        predicted=-shares,
        predicted_low=(-shares).min((0, 1)),
        predicted_high=(-shares).max((0, 1)),
        count=5,
        recipe={},
    )
    figure = reference_ranges(sensitivity, 0.5)
    for axes, sign in zip(figure.axes, (-1, 1), strict=True):
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        for k, line in enumerate(marks):
            part, reference = divmod(k, 3)
            of_choice = np.asarray(line.get_ydata()).reshape(3, 2).T
            np.testing.assert_array_equal(of_choice, sign * shares[reference, :, 1, part])
        assert len({str(line.get_marker()) for line in marks}) == 3
        for part, lines in enumerate(axes.collections):
            ends = np.array([np.asarray(path.vertices)[:, 1] for path in lines.get_paths()])
            np.testing.assert_allclose(ends[:, 0], (sign * shares)[:, :, 1, part].min((0, 1)))
            np.testing.assert_allclose(ends[:, 1], (sign * shares)[:, :, 1, part].max((0, 1)))
    assert legend_of(figure)[-1] == 'condition against "null"'
    drawn(figure)


def test_control_figure_draws_each_label_at_its_share():
    effects = {"model": some_shares(), "white noise": some_shares((0.5,))}
    figure = control_figure(effects, 0.5)
    grid = np.array(figure.axes).reshape(2, 2)
    for panels, whole in zip(grid, ("predicted", "velocity"), strict=True):
        for axes, part in zip(panels, (1, 2), strict=True):
            for container, found in zip(axes.containers, effects.values(), strict=True):
                np.testing.assert_allclose(
                    container[0].get_ydata(), getattr(found, whole)[-1, part]
                )
                ends = ends_of(container, 1)
                np.testing.assert_allclose(ends[:, 0], getattr(found, f"{whole}_low")[-1, part])
                np.testing.assert_allclose(ends[:, 1], getattr(found, f"{whole}_high")[-1, part])
    assert grid[0, 0].containers[0][0].get_color() == COLOURS[-1]
    assert legend_of(figure) == list(effects)
    assert drawn(figure)


def test_control_figure_says_part_whole_and_time():
    figure = control_figure({"model": some_shares()}, 0.3, parts=("interaction",))
    above, below = (axes.get_title(loc="left") for axes in figure.axes)
    assert above == "interaction, share of the predicted image, t = 0.3"
    assert below == "interaction, share of the velocity, t = 0.3"
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == NAMES
    pixels = control_figure({"model": some_shares()}, 0.3).axes[1]
    assert pixels.get_title(loc="left").startswith("main effect of the pixels, ")


def test_control_figure_says_whose_parts_cancel():
    found = some_shares()
    found.velocity_cancellation[1] = 3  # at t = 0.5
    said = control_figure({"mine": found, "other": some_shares()}, 0.5).get_supxlabel()
    assert said.startswith("mine: No shares of the velocity")
    assert "other" not in said


def test_control_figure_names_a_time_that_was_not_measured():
    with pytest.raises(
        ValueError, match=r'times of "white noise" that were measured, 0.5, got 0.3'
    ):
        control_figure({"model": some_shares(), "white noise": some_shares((0.5,))}, 0.3)


@pytest.mark.parametrize("whole", ["predicted", "velocity"])
def test_split_curves_draws_the_highest_band_of_each_model(whole: str):
    effects = {"mine": some_split(0), "tiny": some_split(1)}
    figure = split_curves(effects, whole=whole)
    for panel, part in enumerate(("condition_main", "pixels_main")):
        drawn = lines_of(figure, panel)
        assert list(drawn) == ["mine", "tiny"]
        for label, one in effects.items():
            expected = getattr(one, whole)[:, one.parts.index(part), -1]
            np.testing.assert_allclose(drawn[label], expected)
    figure._repr_png_()  # type: ignore[attr-defined]


def test_split_curves_shades_the_intervals():
    one = some_split(2)
    figure = split_curves({"mine": one})
    for panel, part in enumerate(("condition_main", "pixels_main")):
        (band,) = figure.axes[panel].collections
        corners = np.asarray(band.get_paths()[0].vertices)
        at = one.parts.index(part)
        for k, t in enumerate(TIMES):
            ys = corners[np.isclose(corners[:, 0], t), 1]
            assert ys.min() == pytest.approx(one.predicted_low[k, at, -1])
            assert ys.max() == pytest.approx(one.predicted_high[k, at, -1])


def test_split_curves_says_band_whole_and_unit():
    figure = split_curves({"mine": some_split(0)})
    label = figure.axes[0].get_ylabel()
    assert "predicted image" in label
    assert "1/4" in label
    assert "cycles per pixel" in label
    assert all("t (0 noise" in axes.get_xlabel() for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine"]


def test_split_curves_refuses_other_bands_and_wholes():
    one = some_split(0)
    other = replace(one, edges=np.array([0.125]))
    with pytest.raises(ValueError, match="same highest band, got"):
        split_curves({"mine": one, "other": other})
    with pytest.raises(ValueError, match="got none"):
        split_curves({})
    with pytest.raises(ValueError, match="got 'image'"):
        split_curves({"mine": one}, whole="image")
