from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import control_figure, intervention_figure
from deco_lab.plots.style import COLOURS
from deco_lab.spectra import BandEffects, InterventionEffect, band_names, intervention_effect

RNG = np.random.default_rng(0)
EDGES = np.array([1 / 8, 1 / 4])
NAMES = band_names(EDGES.tolist())
K = len(NAMES)
CONDITIONS = ("fresh", "stale", "mean")
PIXELS = ("all", "below 1/8")


def drawn(figure: Figure) -> bytes:
    """Return the figure as PNG; a warning of its layout is an error here."""
    return figure._repr_png_()  # type: ignore[attr-defined]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def ends_of(container: Any, axis: int) -> np.ndarray:
    """Return the lower and upper ends of an errorbar's bars, (n, 2)."""
    return np.array([segment[:, axis] for segment in container[2][0].get_segments()])


def some_effect() -> InterventionEffect:
    shape = (len(CONDITIONS), len(PIXELS), K)
    energy, coherence = RNG.uniform(0.5, 2, shape), RNG.uniform(0.3, 0.7, shape)
    return InterventionEffect(
        edges=EDGES,
        energy=energy,
        energy_low=energy - 0.2,
        energy_high=energy + 0.3,
        coherence=coherence,
        coherence_low=coherence - 0.1,
        coherence_high=coherence + 0.2,
        count=5,
        conditions=CONDITIONS,
        pixels=PIXELS,
    )


def some_shares(times: tuple[float, ...] = (0.3, 0.5)) -> BandEffects:
    shape = (len(times), 4, K)
    fields = {}
    for whole in ("velocity", "predicted"):
        value = RNG.uniform(0, 1, shape)
        fields |= {whole: value, f"{whole}_low": value - 0.1, f"{whole}_high": value + 0.2}
        fields[f"{whole}_energy"] = np.ones((len(times), K))
    return BandEffects(times=np.array(times), edges=EDGES, count=5, **fields)


def test_intervention_figure_draws_energy_over_coherence_by_band():
    effect = some_effect()
    figure = intervention_figure(effect)
    rows = np.array(figure.axes).reshape(2, K)
    for panels, what in zip(rows, ("energy", "coherence"), strict=True):
        for band, axes in enumerate(panels):
            assert axes.get_xscale() == ("log" if what == "energy" else "linear")
            for r, container in enumerate(axes.containers):
                np.testing.assert_allclose(
                    container[0].get_xdata(), getattr(effect, what)[:, r, band]
                )
                ends = ends_of(container, 0)
                np.testing.assert_allclose(ends[:, 0], getattr(effect, f"{what}_low")[:, r, band])
                np.testing.assert_allclose(ends[:, 1], getattr(effect, f"{what}_high")[:, r, band])
    titles = [axes.get_title(loc="left") for axes in rows[0]]
    assert titles == [f"{name}\ncycles per pixel" for name in NAMES]
    assert drawn(figure)


def test_intervention_figure_names_conditions_from_above_and_pixels_in_the_legend():
    figure = intervention_figure(some_effect())
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == list(CONDITIONS)
    bottom, top = first.get_ylim()
    assert bottom > top
    assert legend_of(figure) == [f"pixels: {name}" for name in PIXELS]


def test_intervention_figure_keeps_vanished_energies_on_the_axis():
    effect = some_effect()
    effect.energy[2, 0, 1] = effect.energy_low[2, 0, 1] = 0
    axes = intervention_figure(effect).axes[1]
    shown = np.asarray(axes.containers[0][0].get_xdata())
    assert shown[2] == 1e-3


def test_intervention_figure_refuses_a_single_intervention():
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="effect must name the conditions and pixels"):
        intervention_figure(intervention_effect(images, images))


def test_control_figure_draws_each_label_at_its_share():
    effects = {"model": some_shares(), "white noise": some_shares((0.5,))}
    figure = control_figure(effects, 0.5)
    grid = np.array(figure.axes).reshape(2, 2)
    for panels, whole in zip(grid, ("velocity", "predicted"), strict=True):
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
    assert above == "interaction, share of the velocity, t = 0.3"
    assert below == "interaction, share of the predicted image, t = 0.3"
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == NAMES
    pixels = control_figure({"model": some_shares()}, 0.3).axes[1]
    assert pixels.get_title(loc="left").startswith("pixel path, ")


def test_control_figure_cuts_shares_that_cancel():
    found = some_shares()
    found.velocity[1, 1, 0] = found.velocity_high[1, 1, 0] = 40.0
    low, high = control_figure({"model": found}, 0.5).axes[0].get_ylim()
    assert -1.25 <= low < 0
    assert high == 1.75


def test_control_figure_names_a_time_that_was_not_measured():
    with pytest.raises(ValueError, match=r'times of "white noise" must have t=0.3, got 0.5'):
        control_figure({"model": some_shares(), "white noise": some_shares((0.5,))}, 0.3)
