from typing import Any

import numpy as np
from test_plots_parts import RNG, P, drawn, legend_of

from deco_lab.plots import grid_figure, seam_curves
from deco_lab.spectra import Seams


def some_seams() -> dict[str, Seams]:
    return {
        name: Seams(
            patch_size=P,
            excess=RNG.normal(size=(3, 8)),
            p=np.ones(3),
            steps=RNG.uniform(0.9, 1.1, (8, P)),
            lines=RNG.normal(size=(8, 3)),
            group=np.arange(8),
            recipe={},
        )
        for name in ("tiny", "crops")
    }


def test_seam_curves_draw_steps_and_detectors():
    seams = some_seams()
    figure = seam_curves(seams)
    left, right = figure.axes
    assert legend_of(left) == ["tiny", "crops"]
    for found, line, bars in zip(seams.values(), left.lines, right.containers, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), found.step_by_offset)
        estimates = found.estimates().values()
        np.testing.assert_allclose(bars[0].get_ydata(), found.excess.mean(1))  # type: ignore[attr-defined]
        ends = np.array([s[:, 1] for s in bars[2][0].get_segments()])
        np.testing.assert_allclose(ends[:, 0], [e.low for e in estimates])
        np.testing.assert_allclose(ends[:, 1], [e.high for e in estimates])
    assert [tick.get_text() for tick in right.get_xticklabels()] == [
        "comb",
        "gradient",
        "block dct",
    ]
    drawn(figure)


def test_grid_figure_draws_ratios_maps_and_a_picture():
    seams = some_seams()
    ratios = RNG.uniform(0.8, 1.5, (3, 4))
    figure = grid_figure(seams, {"tiny": ratios, "crops": None}, {"tiny": np.ones((1, 24, 32))})
    panels: Any = figure.axes
    left, middle, right, *_ = panels
    expected = [ratio.value for ratio in seams["tiny"].ratios()]
    np.testing.assert_allclose(left.lines[0].get_ydata(), expected)
    np.testing.assert_allclose(middle.images[0].get_array(), ratios)
    assert right.images[0].get_array().shape == (24, 32, 3)
    assert sum(bool(axes.images) for axes in panels[:6]) == 2  # crops of many sizes have no map
    assert left.get_title(loc="left") == f"tiny, P = {P}"
    drawn(figure)
