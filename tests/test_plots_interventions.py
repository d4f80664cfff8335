from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deco_lab.plots import intervention_figure
from deco_lab.spectra import InterventionEffect, band_names, intervention_effect

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
    energy, correlation = RNG.uniform(0.5, 2, shape), RNG.uniform(0.3, 0.7, shape)
    return InterventionEffect(
        edges=EDGES,
        energy=energy,
        energy_low=energy - 0.2,
        energy_high=energy + 0.3,
        correlation=correlation,
        correlation_low=correlation - 0.1,
        correlation_high=correlation + 0.2,
        count=5,
        conditions=CONDITIONS,
        pixels=PIXELS,
    )


def test_intervention_figure_draws_energy_over_correlation_by_band():
    effect = some_effect()
    figure = intervention_figure(effect)
    rows = np.array(figure.axes).reshape(2, K)
    for panels, what in zip(rows, ("energy", "correlation"), strict=True):
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


def test_intervention_figure_gives_the_mean_no_frequency():
    effect = replace(some_effect(), edges=np.array([0, *EDGES[1:]]))
    titles = [axes.get_title(loc="left") for axes in intervention_figure(effect).axes[:K]]
    assert titles[0] == "mean colour"
    assert titles[-1] == f"{NAMES[-1]}\ncycles per pixel"


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
